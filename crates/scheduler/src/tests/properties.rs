//! Random requests, aborts, crashes and shortages: whatever happens, each request gets its own tokens, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::{prelude::*, test_runner::RngSeed};
use types::{
    CacheContent, CacheGroup, ExecutorInfo, Request, RequestId, SamplingParams, Service, TokenId,
};

use super::driver::{Driver, FAILING, POISON, VOCAB_SIZE, executor, prompt};
use crate::{
    Cause, Error, PolicyKind, Settings,
    sequence::Running,
    testing::{REPETITIVE, expected_output, logprobs_of},
};

#[derive(Clone, Debug)]
enum Operation {
    Submit(Arrival),
    Abort {
        which: usize,
    },
    Steps {
        count: usize,
    },
    /// As many steps as can be are under way, and the executor is lost.
    Crash,
    /// A request is aborted while all steps that can be are under way.
    AbortUnderWay {
        which: usize,
    },
}

#[derive(Clone, Debug)]
struct Arrival {
    /// Prompts of one family begin alike.
    family: u64,
    salt: u8,
    prompt_len: usize,
    tokens_max: u32,
    priority: i32,
    stop_tokens: Vec<TokenId>,
    tokens_min: u32,
    prompt_logprobs: bool,
    repetitive: bool,
    special: Option<TokenId>,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let special = prop_oneof![60 => Just(None), 1 => Just(Some(FAILING)), 1 => Just(Some(POISON))];
    let stop_tokens = prop::collection::vec(0..VOCAB_SIZE, 0..2);
    let who = (0..4u64, 0..2u8, -1..2i32, any::<bool>());
    (who, 1..30usize, 1..60u32, stop_tokens, 0..5u32, any::<bool>(), special).prop_map(
        |(who, prompt_len, tokens_max, stop_tokens, tokens_min, prompt_logprobs, special)| {
            let (family, salt, priority, repetitive) = who;
            Arrival {
                family,
                salt,
                prompt_len,
                tokens_max,
                priority,
                stop_tokens,
                tokens_min,
                prompt_logprobs,
                repetitive,
                special,
            }
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        16 => arrival().prop_map(Operation::Submit),
        1 => any::<usize>().prop_map(|which| Operation::Abort { which }),
        12 => (1..12usize).prop_map(|count| Operation::Steps { count }),
        1 => Just(Operation::Crash),
        1 => any::<usize>().prop_map(|which| Operation::AbortUnderWay { which }),
    ]
}

fn sizes() -> impl Strategy<Value = (ExecutorInfo, Settings)> {
    let content = prop_oneof![
        5 => Just(CacheContent::Everything),
        2 => (1..50u32).prop_map(CacheContent::Window),
        2 => (0..40u32).prop_map(CacheContent::State),
    ];
    let groups = prop::collection::vec((6..40u32, 1..9u32, 0..30u32, content), 1..4);
    let policies = PolicyKind::NAMES.map(|(_, policy)| policy);
    let choices = (
        any::<bool>(),
        prop::sample::select(policies.to_vec()),
        prop::option::of(1..30u64),
        0..9u32,
    );
    (groups, 1..3u32, 1..40u32, 1..20u32, 1..9u32, 1..12u32, 0..40u32, 0..120u32, choices).prop_map(
        |(
            groups,
            steps_in_flight_max,
            step_tokens_max,
            prefill_chunk_max,
            running_max,
            waiting_max,
            kv_reserve_percent,
            kv_growth_percent,
            (prefix_cache, policy, target_ms, draft_tokens_max),
        )| {
            let has_gaps = groups.iter().any(|(.., content)| *content != CacheContent::Everything);
            let group = |(blocks, block_tokens, host_blocks, content)| CacheGroup {
                host_blocks: if has_gaps { 0 } else { host_blocks },
                content,
                ..CacheGroup::new(blocks, block_tokens)
            };
            let cache_groups = groups.into_iter().map(group).collect();
            let settings = Settings {
                step_tokens_max,
                prefill_chunk_max,
                running_max,
                waiting_max,
                kv_reserve_percent,
                kv_growth_percent,
                prefix_cache,
                policy,
                tenant_weights: BTreeMap::from([("1".into(), 3)]),
                token_latency_target: target_ms.map(Duration::from_millis),
                draft_tokens_max,
            };
            (ExecutorInfo { cache_groups, steps_in_flight_max, ..executor(1) }, settings)
        },
    )
}

/// A driver that remembers what was asked for and checks each plan.
struct Run {
    driver: Driver,
    requests: Vec<Request>,
    aborted: BTreeSet<RequestId>,
    crashed: BTreeSet<RequestId>,
}

impl Run {
    fn submit(&mut self, arrival: &Arrival) {
        let id = RequestId(self.requests.len() as u64);
        // Some arrive while a step is under way.
        self.driver.now += Duration::from_millis(arrival.prompt_len as u64 % 3);
        let mut prompt = prompt(arrival.family, arrival.prompt_len);
        if let Some(special) = arrival.special {
            prompt[arrival.prompt_len / 2] = special;
        }
        let sampling = SamplingParams {
            seed: id.0 | if arrival.repetitive { REPETITIVE } else { 0 },
            stop_token_ids: arrival.stop_tokens.clone(),
            tokens_min: arrival.tokens_min,
            prompt_logprobs: arrival.prompt_logprobs.then_some(1),
            ..SamplingParams::default()
        };
        let cache_salt = arrival.salt.to_string().into();
        let tenant = (arrival.prompt_len % 3).to_string().into();
        let due = Some(Duration::from_millis(arrival.prompt_len as u64 * 20));
        let service = Service { priority: arrival.priority, due, tenant, cache_salt };
        let request = Request { id, prompt, sampling, tokens_max: arrival.tokens_max, service };
        let limits = self.driver.scheduler.limits;
        let check = limits.check(&request.prompt, &request.sampling, request.tokens_max);
        let full = self.driver.scheduler.waiting_new()
            >= self.driver.scheduler.settings().waiting_max as usize;
        match self.driver.submit_request(request.clone()) {
            Ok(()) => {
                let clipped = check.expect("what can never fit is refused");
                self.requests.push(Request { tokens_max: clipped, ..request });
            }
            Err(Error::Refused(refusal)) => assert_eq!(check, Err(refusal)),
            Err(Error::QueueFull(_)) => assert!(full),
            Err(other) => panic!("{other}"),
        }
    }

    fn pick(&self, which: usize) -> Option<RequestId> {
        (!self.requests.is_empty()).then(|| self.requests[which % self.requests.len()].id)
    }

    fn abort(&mut self, id: RequestId) {
        let ended = self.driver.stream(id.0).ended();
        let was_there = self.driver.abort(id.0);
        assert_eq!(was_there, !ended && !self.aborted.contains(&id));
        if was_there {
            self.aborted.insert(id);
        }
    }

    /// Plans a step and checks everything that a plan must keep to beyond what the model checks.
    fn plan(&mut self) -> bool {
        let slots = &self.driver.scheduler.slots;
        let suspect = slots.iter().any(|(_, r)| r.sequence.probation.is_some());
        // Its blocks may fall out of the window with what is under way.
        let has_windows = self.driver.scheduler.kv.has_windows();
        let may_wait = |running: &Running| has_windows && running.planned > running.computed;
        let needing_one: Vec<_> = slots
            .iter()
            .filter(|(_, running)| running.remaining() == 1 && !may_wait(running))
            .map(|(slot, _)| slot)
            .collect();
        let preemptions = self.driver.scheduler.counters().preemptions;
        let in_flight = self.driver.under_way.len();
        let has_work: BTreeSet<_> = slots
            .iter()
            .filter(|(_, r)| r.remaining() > 0 && !may_wait(r))
            .map(|(slot, _)| slot)
            .collect();
        let Some(plan) = self.driver.plan() else { return false };
        let settings = self.driver.scheduler.settings();
        assert!(plan.token_count() <= settings.step_tokens_max as usize, "{plan}");
        let served = |slot| plan.items.iter().any(|item| item.slot == slot);
        let preempted = self.driver.scheduler.counters().preemptions > preemptions;
        let alone = suspect || (plan.items.len() == 1 && plan.admit.len() == 1);
        assert!(!suspect || in_flight == 0, "{plan}: a step on probation has company");
        if !alone {
            let first = self.driver.scheduler.slots.in_order().first().copied();
            let due = first.filter(|slot| has_work.contains(slot));
            assert!(due.is_none_or(served), "{plan}: the first in order advances");
            let all = needing_one.iter().all(|slot| served(*slot));
            assert!(all || preempted, "{plan}: one position was denied without a shortage");
            let chunk = plan.items.iter().map(|item| item.known().len()).max().unwrap_or(0);
            assert!(chunk <= settings.prefill_chunk_max as usize, "{plan}");
        }
        assert!(!preempted || plan.admit.is_empty(), "{plan}: room taken went to a newcomer");
        self.driver.under_way.push_back(plan);
        true
    }

    fn plan_all(&mut self) -> bool {
        while self.plan() {}
        !self.driver.under_way.is_empty()
    }

    fn step(&mut self) -> bool {
        self.plan_all();
        self.driver.finish_oldest().is_some()
    }

    fn crash(&mut self) {
        if self.plan_all() {
            let before: Vec<RequestId> =
                self.driver.scheduler.slots.iter().map(|(_, running)| running.ticket.id).collect();
            self.driver.crash();
            let failed = |id: &RequestId| self.driver.streams[id].failed.is_some();
            self.crashed.extend(before.into_iter().filter(failed));
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Submit(arrival) => self.submit(arrival),
            Operation::Abort { which } => {
                if let Some(id) = self.pick(*which) {
                    self.abort(id);
                }
            }
            Operation::Steps { count } => {
                for _ in 0..*count {
                    self.step();
                }
            }
            Operation::Crash => self.crash(),
            Operation::AbortUnderWay { which } => {
                let Some(id) = self.pick(*which) else { return };
                if self.plan_all() {
                    self.abort(id);
                    self.driver.finish_oldest();
                }
            }
        }
    }

    fn check_streams(&self) {
        for request in &self.requests {
            let Request { id, prompt, sampling, tokens_max, .. } = request;
            let stream = &self.driver.streams[id];
            let (expected, reason) = expected_output(prompt, sampling, *tokens_max, VOCAB_SIZE);
            assert!(expected.starts_with(&stream.tokens), "{id} has other tokens");
            let special = |token| prompt.contains(&token);
            if let Some(whole) = &stream.prompt_logprobs {
                let due = (1..prompt.len()).map(|at| logprobs_of(prompt[at], at as u32));
                assert!(due.eq(whole.iter().cloned()), "{id} has other prompt log-probabilities");
            }
            assert_eq!(
                stream.prompt_logprobs.is_some(),
                sampling.prompt_logprobs.is_some() && !stream.tokens.is_empty(),
                "{id}"
            );
            let explained = stream.explanation.as_ref().expect("every account is closed");
            assert_eq!(explained.generated_tokens as usize, stream.tokens.len(), "{id}");
            if let Some((_, usage)) = stream.finished {
                let queued = Cause::NAMES[..6].iter().map(|(cause, _)| explained.times.of(*cause));
                let queued_ms = queued.sum::<Duration>().as_millis() as u64;
                // Time after a crash is in both.
                assert!(queued_ms >= usage.queued_ms, "{explained:?} {usage:?}");
                assert_eq!(explained.prefix.hit_tokens, usage.cached_tokens);
                assert_eq!(explained.preemptions, usage.preemptions);
                assert!(explained.steps.prefill + explained.steps.recompute > 0);
                assert!(explained.steps.decode < usage.generated_tokens);
                assert!(explained.accepted_tokens <= explained.drafted_tokens);
            }
            if self.aborted.contains(id) {
                assert!(!stream.ended(), "{id} was aborted and ended");
            } else if special(FAILING) || special(POISON) || self.crashed.contains(id) {
                assert!(stream.failed.is_some(), "{id} should have failed");
            } else {
                assert_eq!(stream.failed, None, "{id}");
                let (got, usage) = stream.finished.expect("every request ends");
                assert_eq!((&stream.tokens, got), (&expected, reason), "{id}");
                assert_eq!(usage.prompt_tokens as usize, prompt.len());
                assert_eq!(usage.generated_tokens as usize, expected.len());
            }
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn each_request_gets_its_tokens_once(
        (info, settings) in sizes(),
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        let mut run = Run {
            driver: Driver::new(info, settings),
            requests: Vec::new(),
            aborted: BTreeSet::new(),
            crashed: BTreeSet::new(),
        };
        for operation in &operations {
            run.apply(operation);
        }
        let mut steps = 0;
        while run.step() {
            steps += 1;
            prop_assert!(steps < 50_000, "no end in sight");
        }
        run.driver.run();
        run.check_streams();
    }
}
