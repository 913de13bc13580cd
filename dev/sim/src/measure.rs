//! A workload on a device, and what each request got.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use scheduler::{Error, Scheduler, Settings};
use types::{
    Request, RequestEvent, RequestId, SampledToken, SamplingParams, Service, SlotId, StepOutcome,
    StepPlan, TokenId,
};

use crate::{device::Device, random::Random, workload::Job};

/// The token at which every answer ends.
const STOP: TokenId = 0;
/// Clients ask for no more than this.
const OUTPUT_TOKENS_MAX: u32 = 2048;

/// What one request got, with times from the start in seconds.
#[derive(Clone, Debug)]
pub struct Served {
    /// As it came.
    pub job: Job,
    /// When its tokens came.
    pub tokens_s: Vec<f64>,
    /// Times it was preempted.
    pub preemptions: u32,
    /// The wait that was predicted for it when it was refused, in seconds.
    pub refused_s: Option<f64>,
}

impl Served {
    /// From its arrival to its first token, in seconds.
    pub fn first_token_s(&self) -> Option<f64> {
        self.tokens_s.first().map(|first_s| first_s - self.job.at_s)
    }

    /// Between its tokens on average, in seconds.
    pub fn token_s(&self) -> Option<f64> {
        let (first, last) = (self.tokens_s.first()?, self.tokens_s.last()?);
        (self.tokens_s.len() > 1).then(|| (last - first) / (self.tokens_s.len() - 1) as f64)
    }
}

/// What came of a simulation.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Every request, in order of arrival.
    pub served: Vec<Served>,
    /// When the last one ended, in seconds.
    pub end_s: f64,
    /// Steps made.
    pub steps: u64,
    /// Requests preempted.
    pub preemptions: u64,
}

impl Measured {
    /// Tokens that came in a stretch of time, in seconds, for each second; of all, or of one tenant.
    pub fn output_tokens_s(&self, stretch: std::ops::Range<f64>, tenant: Option<&str>) -> f64 {
        let of_tenant = |served: &&Served| tenant.is_none_or(|tenant| tenant == served.job.tenant);
        let tokens = self.served.iter().filter(of_tenant).flat_map(|served| &served.tokens_s);
        let count = tokens.filter(|at_s| stretch.contains(at_s)).count();
        count as f64 / (stretch.end - stretch.start)
    }
}

/// Draws tokens that nobody looks at, and stops each request where its job says.
struct Executor {
    outputs: Vec<u32>,
    /// By slot, the position of its last token.
    ends: BTreeMap<SlotId, u32>,
}

impl Executor {
    fn run(&mut self, plan: &StepPlan) -> StepOutcome {
        for slot in &plan.release {
            self.ends.remove(slot);
        }
        for admission in &plan.admit {
            let output = self.outputs[admission.sampling.seed as usize];
            self.ends.insert(admission.slot, admission.prompt_len + output - 1);
        }
        let drawn = plan.items.iter().filter(|item| item.sample).map(|item| {
            let is_last = item.positions.end >= self.ends[&item.slot];
            let token = if is_last { STOP } else { 1 + item.positions.end % 1000 };
            SampledToken { slot: item.slot, token, logprobs: None }
        });
        let sampled = drawn.collect();
        StepOutcome { id: plan.id, sampled, prompt_logprobs: Vec::new(), failed: Vec::new() }
    }
}

/// Runs jobs, sorted by arrival, until all have ended. Like the engine, it looks at arrivals between steps.
pub fn run(
    device: &Device,
    settings: Settings,
    jobs: Vec<Job>,
    seed: u64,
) -> Result<Measured, Error> {
    let mut scheduler = Scheduler::new(&device.info, settings)?;
    let mut random = Random::new(seed);
    let outputs = jobs.iter().map(|job| job.output_tokens).collect();
    let mut executor = Executor { outputs, ends: BTreeMap::new() };
    let served = |job| Served { job, tokens_s: Vec::new(), preemptions: 0, refused_s: None };
    let mut served: Vec<Served> = jobs.into_iter().map(served).collect();
    let mut next = 0;
    let mut now = Duration::ZERO;
    let mut device_free = Duration::ZERO;
    let mut under_way: Vec<(StepPlan, Duration)> = Vec::new();
    loop {
        while let Some(job) = served.get(next).map(|served| &served.job)
            && job.at_s <= now.as_secs_f64()
        {
            let (request, at) = (request(next, job), Duration::from_secs_f64(job.at_s));
            if let Err(Error::QueueFull(full)) = scheduler.submit(request, at) {
                served[next].refused_s = Some(full.wait.as_secs_f64());
            }
            next += 1;
        }
        while let Some(plan) = scheduler.plan(now) {
            device_free = device_free.max(now) + device.step(&plan, &mut random);
            under_way.push((plan, device_free));
        }
        if !under_way.is_empty() {
            let (plan, end) = under_way.remove(0);
            now = now.max(end);
            let events = scheduler.commit(executor.run(&plan), now)?;
            for (id, event) in events {
                let served = &mut served[id.0 as usize];
                match event {
                    RequestEvent::Token { .. } => served.tokens_s.push(now.as_secs_f64()),
                    RequestEvent::Finished { usage, .. } => served.preemptions = usage.preemptions,
                    _ => {}
                }
            }
        } else if let Some(served) = served.get(next) {
            now = Duration::from_secs_f64(served.job.at_s) + Duration::from_nanos(1);
        } else {
            assert!(scheduler.is_idle(), "requests are left that nobody computes");
            let counters = scheduler.counters();
            let (steps, preemptions) = (counters.steps, counters.preemptions);
            return Ok(Measured { served, end_s: now.as_secs_f64(), steps, preemptions });
        }
    }
}

fn request(index: usize, job: &Job) -> Request {
    // No two prompts begin alike.
    let token = |place: u32| (index as u32).wrapping_mul(7919).wrapping_add(place) % 49_000 + 1000;
    let sampling = SamplingParams {
        seed: index as u64,
        stop_token_ids: vec![STOP],
        ..SamplingParams::default()
    };
    let tenant: Arc<str> = job.tenant.into();
    Request {
        id: RequestId(index as u64),
        prompt: (0..job.prompt_tokens).map(token).collect(),
        sampling,
        tokens_max: OUTPUT_TOKENS_MAX,
        service: Service { tenant, ..Service::default() },
    }
}
