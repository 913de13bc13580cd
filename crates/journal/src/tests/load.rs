//! Random loads on a recorded scheduler.

use std::{sync::Arc, time::Duration};

use scheduler::{
    Counters, Explanation, PolicyKind, Scheduler, Settings,
    testing::{FakeModel, REPETITIVE},
};
use types::{
    CacheContent, CacheGroup, ExecutorInfo, Fault, Request, RequestId, SamplingParams, Service,
    StepPlan, TokenId,
};

use crate::{RecordedScheduler, Recorder, Ring, Setup, TokenRecord};

pub(super) const STOP: u32 = 7;
/// A prompt with this token fails alone.
const FAILING: TokenId = 3;

/// Numbers from a seed.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A run with arrivals, shared beginnings, second turns, priorities, aborts, requests that fail, preemptions and lost
/// executors.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) seed: u64,
    pub(super) tokens: TokenRecord,
    pub(super) groups: Vec<CacheGroup>,
    pub(super) vocab_size: u32,
    /// Prompts have tokens from this one on.
    pub(super) first_token: TokenId,
    pub(super) rounds: u32,
    pub(super) ring_bytes_max: usize,
}

/// What came of it.
pub(super) struct Ran {
    pub(super) ring: Arc<Ring>,
    /// Every plan as one line.
    pub(super) plans: Vec<String>,
    pub(super) counters: Counters,
    pub(super) losses: u32,
    /// Where the time of those that ended went.
    pub(super) ended: Vec<Explanation>,
}

impl Load {
    pub(super) fn new(seed: u64, tokens: TokenRecord) -> Self {
        let has_states = seed % 5 == 3;
        let host_blocks = if has_states { 0 } else { 12 };
        let mut groups =
            vec![CacheGroup { blocks_kept: 16, host_blocks, ..CacheGroup::new(24, 4) }];
        if has_states {
            let content = CacheContent::State(8);
            groups.push(CacheGroup { content, ..CacheGroup::new(20, 4) });
        }
        Self {
            seed,
            tokens,
            groups,
            vocab_size: super::VOCAB_SIZE,
            first_token: 100,
            rounds: 600,
            ring_bytes_max: 64 << 20,
        }
    }

    pub(super) fn setup(&self) -> Setup {
        let (version, tokens) = (String::new(), self.tokens);
        Setup { version, tokens, info: self.info(), settings: self.settings() }
    }

    pub(super) fn info(&self) -> ExecutorInfo {
        ExecutorInfo {
            cache_groups: self.groups.clone(),
            step_tokens_max: 32,
            slots_max: 6,
            context_max: 90,
            vocab_size: self.vocab_size,
            steps_in_flight_max: 1 + (self.seed % 2) as u32,
            draft_tokens_max: 6,
        }
    }

    pub(super) fn settings(&self) -> Settings {
        let (seed, policies) = (self.seed, PolicyKind::NAMES);
        Settings {
            waiting_max: 8,
            kv_growth_percent: 0,
            policy: policies[seed as usize % policies.len()].1,
            tenant_weights: [("tenant 1".into(), 3)].into(),
            token_latency_target: Some(Duration::from_millis(10)),
            draft_tokens_max: if seed.is_multiple_of(4) { 5 } else { 0 },
            ..Settings::default()
        }
    }

    fn request(&self, numbers: &mut Numbers, id: u64) -> Request {
        let family = numbers.below(3) as u32;
        let length = 4 + numbers.below(30) as u32;
        let tokens = (0..length).map(|at| self.first_token + family * 50 + at);
        let fails = numbers.below(40) == 0;
        Request {
            id: RequestId(id),
            prompt: tokens.chain(fails.then_some(FAILING)).collect(),
            sampling: SamplingParams {
                seed: numbers.below(1000) | if id.is_multiple_of(2) { REPETITIVE } else { 0 },
                stop_token_ids: vec![STOP, 8, 9],
                prompt_logprobs: (numbers.below(5) == 0).then_some(1),
                ..SamplingParams::default()
            },
            tokens_max: 1 + numbers.below(40) as u32,
            service: Service {
                tenant: format!("tenant {}", numbers.below(3)).into(),
                priority: numbers.below(2) as i32 - 1,
                due: (numbers.below(2) == 0).then(|| Duration::from_millis(90)),
                cache_salt: if numbers.below(4) == 0 { "salt".into() } else { "".into() },
            },
        }
    }

    pub(super) fn run(&self) -> Ran {
        self.run_and_look(|_, _, _| {})
    }

    /// After each round, `look` gets its number and may look at everything.
    pub(super) fn run_and_look(&self, mut look: impl FnMut(u32, &Scheduler, &Ran)) -> Ran {
        let mut numbers = Numbers(self.seed);
        let info = self.info();
        let mut recorder = Recorder::new(&info, &self.settings(), self.tokens);
        recorder.keep_in_memory(self.ring_bytes_max).unwrap();
        let mut ran = Ran {
            ring: recorder.memory().unwrap(),
            plans: Vec::new(),
            counters: Counters::default(),
            losses: 0,
            ended: Vec::new(),
        };
        let scheduler = Scheduler::new(&info, self.settings()).unwrap();
        let mut scheduler = RecordedScheduler::new(scheduler, &info, Some(recorder));
        let model = || FakeModel::new(info.clone()).with_failing_token(FAILING);
        let mut executor = model();
        let mut under_way: Vec<StepPlan> = Vec::new();
        let (mut now, mut next) = (Duration::ZERO, 0);
        for round in 0..self.rounds {
            if round + 100 < self.rounds && numbers.below(3) == 0 {
                let _refused = scheduler.submit(self.request(&mut numbers, next), now);
                next += 1;
            }
            if next > 0 && numbers.below(12) == 0 {
                scheduler.abort(RequestId(next - 1 - numbers.below(next.min(6))), now);
            }
            if numbers.below(150) == 0 {
                under_way.clear();
                scheduler.requeue_all(&Fault::internal("lost"), now);
                executor = model();
                ran.losses += 1;
            }
            while let Some(plan) = scheduler.plan(now) {
                ran.plans.push(plan.to_string());
                under_way.push(plan);
            }
            now += Duration::from_nanos(900_001 + numbers.below(3_000_000));
            if numbers.below(4) == 0 {
                executor.leave_out();
            }
            if !under_way.is_empty() {
                let outcome = executor.run(&under_way.remove(0));
                scheduler.commit(outcome, now).unwrap();
            }
            ran.ended.extend(scheduler.take_ended());
            ran.counters = scheduler.counters();
            look(round, &scheduler, &ran);
        }
        ran
    }
}
