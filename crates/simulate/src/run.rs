//! A trace on replicas of a device, and what each request got.

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc, time::Duration};

use scheduler::{Error, Forecast, Scheduler, Settings};
use types::{
    Request, RequestEvent, RequestId, SampledToken, SamplingParams, Service, SlotId, StepOutcome,
    StepPlan, TokenId,
};

use crate::{Device, Job, Random};

/// The token at which every answer ends.
const STOP: TokenId = 0;
/// Clients ask for no more than this, or what they need if that is more.
const OUTPUT_TOKENS_MAX: u32 = 2048;

/// What one request got, with times from the start in seconds.
#[derive(Clone, Debug)]
pub struct Served {
    /// As it came.
    pub job: Job,
    /// When its tokens came.
    pub tokens_s: Vec<f64>,
    /// Tokens of its prompt that were cached when it started.
    pub cached_tokens: u32,
    /// Times it was preempted.
    pub preemptions: u32,
    /// How many waited when it came, on its replica.
    pub waiting: usize,
    /// The wait that was predicted for it then, in seconds, once steps had been measured.
    pub predicted_s: Option<f64>,
    /// How long it waited until it was first scheduled, in seconds.
    pub queued_s: Option<f64>,
    /// Why it was refused, if it was.
    pub refused: Option<String>,
}

impl Served {
    fn new(job: Job) -> Self {
        Self {
            job,
            tokens_s: Vec::new(),
            cached_tokens: 0,
            preemptions: 0,
            waiting: 0,
            predicted_s: None,
            queued_s: None,
            refused: None,
        }
    }

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
    /// Positions that were brought back from the host's memory.
    pub host_hit_tokens: u64,
    /// The part of all KV blocks that was in use while steps ran, on average and at most.
    pub kv_used: [f64; 2],
}

impl Measured {
    /// Tokens that came in a stretch of time, in seconds, for each second; of all, or of one tenant.
    pub fn output_tokens_s(&self, stretch: std::ops::Range<f64>, tenant: Option<&str>) -> f64 {
        let of_tenant =
            |served: &&Served| tenant.is_none_or(|tenant| tenant == &*served.job.tenant);
        let tokens = self.served.iter().filter(of_tenant).flat_map(|served| &served.tokens_s);
        let count = tokens.filter(|at_s| stretch.contains(at_s)).count();
        count as f64 / (stretch.end - stretch.start)
    }
}

/// Draws tokens that nobody looks at, and stops each request where its job says.
#[derive(Debug, Default)]
struct Executor {
    /// By slot, who is there and the position of its last token.
    slots: BTreeMap<SlotId, (usize, u32)>,
}

impl Executor {
    fn run(&mut self, plan: &StepPlan, served: &[Served]) -> StepOutcome {
        for slot in &plan.release {
            self.slots.remove(slot);
        }
        for admission in &plan.admit {
            let index = admission.sampling.seed as usize;
            let end = admission.prompt_len + served[index].job.output_tokens - 1;
            self.slots.insert(admission.slot, (index, end));
        }
        let drawn = plan.items.iter().filter(|item| item.sample).map(|item| {
            let (index, end) = self.slots[&item.slot];
            let position = item.positions.end;
            let is_last = position >= end;
            let token = if is_last { STOP } else { token(index, &served[index].job, position) };
            SampledToken { slot: item.slot, token, logprobs: None }
        });
        let sampled = drawn.collect();
        StepOutcome { sampled, ..StepOutcome::empty(plan.id) }
    }
}

/// The token of a request at a position, of its prompt or its answer: what begins alike is alike.
fn token(index: usize, job: &Job, position: u32) -> TokenId {
    let is_of = |tokens: Option<u32>| tokens.is_none_or(|tokens| position < tokens);
    let source = match &job.prefix {
        Some(prefix) if is_of(prefix.tokens) => hash_of(&prefix.id) << 20,
        _ => (index as u64) << 32 | 1,
    };
    let mixed = (source ^ u64::from(position)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 + ((mixed >> 40) % 49_000) as u32
}

/// Who of the replicas gets a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Router {
    /// The one with the least to do.
    #[default]
    LeastLoaded,
    /// The one that others with the same prefix got, unless it has twice as much to do as the others on average.
    Prefix,
}

impl Router {
    /// All of them, with their names.
    pub const NAMES: [(&'static str, Self); 2] =
        [("least-loaded", Self::LeastLoaded), ("prefix", Self::Prefix)];

    fn choose(self, fleet: &[Replica], job: &Job) -> usize {
        let least = || {
            let loads = fleet.iter().enumerate().min_by_key(|(_, replica)| replica.load);
            loads.map_or(0, |(index, _)| index)
        };
        let Some(prefix) = job.prefix.as_ref().filter(|_| self == Self::Prefix) else {
            return least();
        };
        let home = (hash_of(&prefix.id) % fleet.len() as u64) as usize;
        let mean = fleet.iter().map(|replica| replica.load).sum::<u64>() / fleet.len() as u64;
        if fleet[home].load > 2 * mean + load_of(job) { least() } else { home }
    }
}

fn hash_of(text: &str) -> u64 {
    let hash = text.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(31) + u64::from(byte));
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

/// Where requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// How many replicas there are.
    pub replicas: usize,
    /// Who of them gets a request.
    pub router: Router,
}

impl Fleet {
    /// One replica.
    pub const ONE: Self = Self { replicas: 1, router: Router::LeastLoaded };
}

/// One engine: a scheduler, its device, and the steps under way with the time when each ends.
struct Replica {
    scheduler: Scheduler,
    forecast: Forecast,
    executor: Executor,
    random: Random,
    under_way: VecDeque<(StepPlan, Duration)>,
    device_free: Duration,
    /// Requests it has.
    held: usize,
    /// Tokens of their prompts and answers, which a router is taken to know roughly.
    load: u64,
    end: Duration,
    /// Seconds of steps, those times the part of blocks in use, and the largest part.
    kv: [f64; 3],
}

impl Replica {
    fn new(device: &Device, settings: Settings, seed: u64) -> Result<Self, Error> {
        let scheduler = Scheduler::new(&device.info, settings)?;
        Ok(Self {
            forecast: scheduler.forecast(Duration::ZERO),
            scheduler,
            executor: Executor::default(),
            random: Random::new(seed),
            under_way: VecDeque::new(),
            device_free: Duration::ZERO,
            held: 0,
            load: 0,
            end: Duration::ZERO,
            kv: [0.0; 3],
        })
    }

    fn submit(&mut self, index: usize, served: &mut Served) {
        let at = Duration::from_secs_f64(served.job.at_s);
        served.waiting = self.scheduler.waiting();
        let request = request(index, &served.job);
        let others = served.waiting.saturating_sub(self.forecast.waiting());
        let len = served.job.prompt_tokens;
        let predicted = self.forecast.wait(at, &request.service, len, request.tokens_max, others);
        served.predicted_s = predicted.map(|wait| wait.as_secs_f64());
        match self.scheduler.submit(request, at) {
            Ok(()) => {
                self.held += 1;
                self.load += load_of(&served.job);
            }
            Err(error) => served.refused = Some(error.to_string()),
        }
    }

    /// Submits as many steps as the device takes.
    fn plan(&mut self, device: &Device, now: Duration) {
        if self.forecast.is_old(now) {
            self.forecast = self.scheduler.forecast(now);
        }
        while let Some(plan) = self.scheduler.plan(now) {
            let positions = plan.items.iter().map(|item| &item.positions);
            let took = device.step(positions, plan.copies.len(), &mut self.random);
            self.device_free = self.device_free.max(now) + took;
            let (used, total) = self.scheduler.kv_blocks();
            let part = used as f64 / total.max(1) as f64;
            let [seconds, parts, most] = &mut self.kv;
            *seconds += took.as_secs_f64();
            *parts += took.as_secs_f64() * part;
            *most = most.max(part);
            self.under_way.push_back((plan, self.device_free));
        }
    }

    /// Ends the steps that end until `until`, and plans those that follow.
    fn advance(
        &mut self,
        device: &Device,
        until: Duration,
        served: &mut [Served],
    ) -> Result<(), Error> {
        while let Some((plan, end)) = self.under_way.pop_front_if(|(_, end)| *end <= until) {
            let events = self.scheduler.commit(self.executor.run(&plan, served), end)?;
            self.end = end;
            for (id, event) in events {
                let served = &mut served[id.0 as usize];
                match event {
                    RequestEvent::Prefilled { cached_tokens } => {
                        served.cached_tokens = cached_tokens;
                    }
                    RequestEvent::Token { .. } => served.tokens_s.push(end.as_secs_f64()),
                    RequestEvent::Finished { usage, .. } => {
                        served.preemptions = usage.preemptions;
                        served.queued_s = Some(usage.queued_ms as f64 / 1e3);
                        self.held -= 1;
                        self.load -= load_of(&served.job);
                    }
                    _ => {}
                }
            }
            self.plan(device, end);
        }
        Ok(())
    }
}

fn load_of(job: &Job) -> u64 {
    u64::from(job.prompt_tokens) + 2 * u64::from(job.output_tokens)
}

/// Runs jobs, sorted by arrival, on replicas of a device until all have ended. An engine looks at arrivals between
/// steps, and so do these.
pub fn run(
    device: &Device,
    settings: Settings,
    jobs: Vec<Job>,
    fleet: Fleet,
    seed: u64,
) -> Result<Measured, Error> {
    let Fleet { replicas, router } = fleet;
    let mut fleet = (0..replicas.max(1) as u64)
        .map(|number| Replica::new(device, settings.clone(), seed.wrapping_add(number)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut served: Vec<Served> = jobs.into_iter().map(Served::new).collect();
    for index in 0..served.len() {
        let at = Duration::from_secs_f64(served[index].job.at_s);
        for replica in &mut fleet {
            replica.advance(device, at, &mut served)?;
        }
        let replica = router.choose(&fleet, &served[index].job);
        let replica = &mut fleet[replica];
        replica.submit(index, &mut served[index]);
        if replica.under_way.is_empty() {
            replica.plan(device, at);
        }
    }
    let (mut end, mut steps, mut preemptions) = (Duration::ZERO, 0, 0);
    let mut host_hit_tokens = 0;
    let mut kv = [0.0; 3];
    for mut replica in fleet {
        replica.advance(device, Duration::MAX, &mut served)?;
        assert!(replica.scheduler.is_idle(), "requests are left that nobody computes");
        let counters = replica.scheduler.counters();
        end = end.max(replica.end);
        steps += counters.steps;
        preemptions += counters.preemptions;
        host_hit_tokens += counters.host_hit_tokens;
        let [seconds, parts, most] = replica.kv;
        kv = [kv[0] + seconds, kv[1] + parts, kv[2].max(most)];
    }
    let kv_used = [kv[1] / kv[0].max(1e-9), kv[2]];
    let end_s = end.as_secs_f64();
    Ok(Measured { served, end_s, steps, preemptions, host_hit_tokens, kv_used })
}

fn request(index: usize, job: &Job) -> Request {
    let sampling = SamplingParams {
        seed: index as u64,
        stop_token_ids: vec![STOP],
        ..SamplingParams::default()
    };
    Request {
        id: RequestId(index as u64),
        prompt: (0..job.prompt_tokens).map(|position| token(index, job, position)).collect(),
        sampling,
        tokens_max: OUTPUT_TOKENS_MAX.max(job.output_tokens),
        service: Service {
            priority: job.priority,
            due: job.due_ms.map(|due_ms| Duration::from_millis(due_ms.into())),
            tenant: job.tenant.clone(),
            cache_salt: Arc::default(),
        },
    }
}
