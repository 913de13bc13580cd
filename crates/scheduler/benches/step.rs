//! What a step costs the host: `cargo bench -p scheduler`.
//!
//! Every request generates one token in each step, so a step is the most work for the least computing.
#![allow(missing_docs, reason = "the macros of criterion make functions without")]

use std::{cell::RefCell, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use scheduler::{Scheduler, Settings};
use types::{
    CacheGroup, ExecutorInfo, Request, RequestId, SampledToken, SamplingParams, Service,
    StepOutcome, StepPlan,
};

/// Requests that run, and tokens of their prompts.
const CASES: [(u32, usize); 5] = [(1, 1000), (64, 1000), (256, 100), (256, 1000), (1024, 1000)];
/// After so many steps the requests begin anew, before blocks run out.
const STEPS: u32 = 2000;

/// A scheduler all of whose requests generate.
struct Decoding {
    scheduler: Scheduler,
    running: u32,
    prompt_len: usize,
    steps_left: u32,
}

impl Decoding {
    fn new(running: u32, prompt_len: usize) -> Self {
        let info = ExecutorInfo {
            cache_groups: vec![CacheGroup::new(1 << 18, 16)],
            step_tokens_max: 8192,
            slots_max: 1024,
            context_max: 8192,
            vocab_size: 32_000,
            steps_in_flight_max: 1,
            draft_tokens_max: 0,
        };
        let settings =
            Settings { running_max: running, step_tokens_max: 8192, ..Settings::default() };
        let mut scheduler = Scheduler::new(&info, settings).expect("the settings are sound");
        for id in 0..u64::from(running) {
            scheduler.submit(request(id, prompt_len), Duration::ZERO).expect("there is room");
        }
        let mut decoding = Self { scheduler, running, prompt_len, steps_left: STEPS };
        loop {
            let plan = decoding.plan();
            let all_decode = plan.items.len() == running as usize && plan.admit.is_empty();
            decoding.commit(answer(&plan));
            if all_decode {
                return decoding;
            }
        }
    }

    /// Begins anew if it is time.
    fn renew(&mut self) {
        if self.steps_left == 0 {
            *self = Self::new(self.running, self.prompt_len);
        }
        self.steps_left -= 1;
    }

    fn plan(&mut self) -> StepPlan {
        self.scheduler.plan(Duration::ZERO).expect("there is work")
    }

    fn commit(&mut self, outcome: StepOutcome) {
        self.scheduler.commit(outcome, Duration::ZERO).expect("the outcome is of the plan");
    }
}

fn request(id: u64, prompt_len: usize) -> Request {
    Request {
        id: RequestId(id),
        prompt: vec![1; prompt_len],
        sampling: SamplingParams::default(),
        tokens_max: 8192,
        service: Service::default(),
    }
}

fn answer(plan: &StepPlan) -> StepOutcome {
    let drawn = plan.items.iter().filter(|item| item.sample);
    let sampled =
        drawn.map(|item| SampledToken { slot: item.slot, token: 7, logprobs: None }).collect();
    StepOutcome { sampled, ..StepOutcome::empty(plan.id) }
}

fn step(criterion: &mut Criterion) {
    for (running, prompt_len) in CASES {
        let decoding = RefCell::new(Decoding::new(running, prompt_len));
        let parameter = format!("{running} running, prompt {prompt_len}");
        // The plan stays here, so that neither its answer nor its end is counted.
        let under_way: RefCell<Option<StepPlan>> = RefCell::new(None);
        criterion.bench_function(&format!("plan, {parameter}"), |bencher| {
            let settle = || {
                let mut decoding = decoding.borrow_mut();
                if let Some(plan) = under_way.take() {
                    decoding.commit(answer(&plan));
                }
                decoding.renew();
            };
            let plan = |()| under_way.replace(Some(decoding.borrow_mut().plan()));
            bencher.iter_batched(settle, plan, BatchSize::PerIteration);
        });
        if let Some(plan) = under_way.take() {
            decoding.borrow_mut().commit(answer(&plan));
        }
        criterion.bench_function(&format!("commit, {parameter}"), |bencher| {
            let prepare = || {
                let mut decoding = decoding.borrow_mut();
                decoding.renew();
                answer(&decoding.plan())
            };
            let commit = |outcome| decoding.borrow_mut().commit(outcome);
            bencher.iter_batched(prepare, commit, BatchSize::PerIteration);
        });
    }
}

/// What it costs the step to let waits be predicted, and the first who asks to predict them.
fn forecast(criterion: &mut Criterion) {
    for (running, prompt_len) in [(64, 1000), (1024, 1000)] {
        let Decoding { mut scheduler, .. } = Decoding::new(running, prompt_len);
        for id in 0..1024 {
            let request = request(u64::from(running) + id, prompt_len);
            scheduler.submit(request, Duration::ZERO).expect("there is room");
        }
        let mut now = Duration::ZERO;
        for _ in 0..100 {
            let plan = scheduler.plan(now).expect("there is work");
            now += Duration::from_millis(10);
            scheduler.commit(answer(&plan), now).expect("the outcome is of the plan");
        }
        let parameter = format!("{running} running, 1024 waiting, prompt {prompt_len}");
        criterion.bench_function(&format!("forecast, {parameter}"), |bencher| {
            bencher.iter(|| scheduler.forecast(now));
        });
        criterion.bench_function(&format!("first wait asked, {parameter}"), |bencher| {
            let ask = |forecast: scheduler::Forecast| {
                forecast.wait(now, &Service::default(), 1000, 8192, 0)
            };
            bencher.iter_batched(|| scheduler.forecast(now), ask, BatchSize::PerIteration);
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = step, forecast
}
criterion_main!(benches);
