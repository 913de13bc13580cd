//! What it costs to keep a journal in memory, with 1,024 requests that run and 100,000 blocks known by their tokens:
//! `cargo bench -p journal`. Says first how many bytes it takes.
#![allow(missing_docs, reason = "the macros of criterion make functions without")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use journal::{Journal, RecordedScheduler, Recorder, Ring, TokenRecord, replay};
use scheduler::{Scheduler, Settings};
use types::{
    CacheGroup, ExecutorInfo, Request, RequestId, SampledToken, SamplingParams, Service,
    StepOutcome, WorkItem,
};

const RUNNING: u32 = 1024;
const PROMPT_TOKENS: u32 = 1400;
/// Each request has 100 blocks then.
const STEPS_FIRST: u32 = 200;
/// After so many more steps the requests begin anew, before blocks run out.
const STEPS: u32 = 400;
/// Far fewer steps than there were.
const RING_BYTES_MAX: usize = 512 << 10;

/// A scheduler all of whose requests generate.
struct Decoding {
    scheduler: RecordedScheduler,
    ring: Option<Arc<Ring>>,
    steps_left: u32,
}

impl Decoding {
    fn new(is_recorded: bool) -> Self {
        let info = ExecutorInfo {
            cache_groups: vec![CacheGroup::new(1 << 18, 16)],
            step_tokens_max: 8192,
            slots_max: RUNNING,
            context_max: 8192,
            vocab_size: 1 << 24,
            steps_in_flight_max: 1,
            draft_tokens_max: 0,
        };
        let settings = Settings {
            running_max: RUNNING,
            step_tokens_max: 8192,
            token_latency_target: None,
            ..Settings::default()
        };
        let recorder = is_recorded.then(|| {
            let mut recorder = Recorder::new(&info, &settings, TokenRecord::Hashes);
            recorder.keep_in_memory(RING_BYTES_MAX).expect("a thread can be started");
            recorder
        });
        let ring = recorder.as_ref().and_then(Recorder::memory);
        let scheduler = Scheduler::new(&info, settings).expect("the settings are sound");
        let mut scheduler = RecordedScheduler::new(scheduler, &info, recorder);
        for id in 0..RUNNING {
            let request = Request {
                id: RequestId(id.into()),
                // None begins like another.
                prompt: (0..PROMPT_TOKENS).map(|at| id * PROMPT_TOKENS + at).collect(),
                sampling: SamplingParams::default(),
                tokens_max: 8192,
                service: Service::default(),
            };
            scheduler.submit(request, Duration::ZERO).expect("there is room");
        }
        let mut decoding = Self { scheduler, ring, steps_left: STEPS };
        let mut steps = 0;
        while steps < STEPS_FIRST {
            steps += u32::from(decoding.step());
        }
        decoding
    }

    /// How long it takes to plan and commit a step. The requests begin anew when it is time, which is not counted.
    fn time_step(&mut self) -> Duration {
        if self.steps_left == 0 {
            *self = Self::new(self.ring.is_some());
        }
        self.steps_left -= 1;
        let begun = Instant::now();
        self.step();
        begun.elapsed()
    }

    /// Says whether every request drew a token.
    fn step(&mut self) -> bool {
        let plan = self.scheduler.plan(Duration::ZERO).expect("there is work");
        let drawing = plan.items.iter().filter(|item| item.sample);
        let token = |item: &WorkItem| SampledToken { slot: item.slot, token: 7, logprobs: None };
        let sampled: Vec<_> = drawing.map(token).collect();
        let all_drew = sampled.len() == RUNNING as usize;
        let outcome = StepOutcome { sampled, ..StepOutcome::empty(plan.id) };
        self.scheduler.commit(outcome, Duration::ZERO).expect("the outcome is of the plan");
        all_drew
    }
}

/// What recording adds to a step, on its own thread.
fn step(criterion: &mut Criterion) {
    for (is_recorded, name) in [(false, "a step"), (true, "a step, kept in a ring")] {
        let mut decoding = Decoding::new(is_recorded);
        criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| decoding.time_step()).sum());
        });
    }
}

/// What a ring hands out, and how it is read.
fn hand_out(criterion: &mut Criterion) {
    let decoding = Decoding::new(true);
    let ring = decoding.ring.clone().expect("it is recorded");
    let bytes = ring.snapshot();
    let journal = Journal::read(&bytes).expect("the ring is a journal");
    let state_bytes = bytes.len() - RING_BYTES_MAX;
    let (blocks, _) = decoding.scheduler.kv_blocks();
    let steps = replay(&journal, false).expect("it begins with a state").steps.len();
    println!("{blocks} blocks: about {state_bytes} bytes of state, and records of {steps} steps");
    criterion.bench_function("hand out state and records", |bencher| {
        bencher.iter(|| black_box(ring.snapshot()));
    });
    criterion.bench_function(&format!("read the state and replay {steps} steps"), |bencher| {
        bencher.iter(|| black_box(replay(&journal, false)));
    });
    let mut state_alone = Journal::read(&bytes).expect("the ring is a journal");
    state_alone.records.clear();
    criterion.bench_function("read the state", |bencher| {
        bencher.iter(|| black_box(replay(&state_alone, false)));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = step, hand_out
}
criterion_main!(benches);
