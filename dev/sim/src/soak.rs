//! Whether anything ever breaks: random requests, settings and accidents, against a model that checks every plan.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use scheduler::{
    PolicyKind, Scheduler, Settings,
    testing::{FakeModel, expected_output},
};
use types::{
    CacheGroup, ExecutorInfo, Fault, FinishReason, Request, RequestEvent, RequestId,
    SamplingParams, Service, StepPlan, TokenId,
};

use crate::random::Random;

const VOCAB_SIZE: u32 = 50;

#[derive(Default)]
struct Stream {
    tokens: Vec<TokenId>,
    finished: Option<FinishReason>,
    failed: bool,
}

struct Soak {
    random: Random,
    info: ExecutorInfo,
    scheduler: Scheduler,
    model: FakeModel,
    under_way: VecDeque<StepPlan>,
    requests: BTreeMap<RequestId, Request>,
    streams: BTreeMap<RequestId, Stream>,
    aborted: BTreeSet<RequestId>,
    now: Duration,
    steps: u64,
    defect: Option<Defect>,
}

/// A defect planted between the scheduler and the model, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A block of a table is another one.
    WrongBlock,
    /// A slot that is to be released is not.
    LostRelease,
    /// A position is computed again instead of the next one.
    RepeatedPosition,
    /// A request does not hear of a token.
    LostToken,
    /// A request hears of a token twice.
    TokenTwice,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::WrongBlock,
        Self::LostRelease,
        Self::RepeatedPosition,
        Self::LostToken,
        Self::TokenTwice,
    ];
}

/// Runs one seed for about `steps` steps. How many there were.
///
/// # Panics
/// When anything is not as it must be; the message names the seed where it shows only at the end.
pub fn run(seed: u64, steps: u64) -> u64 {
    run_with(seed, steps, None)
}

/// The same, with a defect that now and then shows.
///
/// # Panics
/// When it is found.
pub fn run_with(seed: u64, steps: u64, defect: Option<Defect>) -> u64 {
    let mut soak = Soak::new(seed);
    soak.defect = defect;
    while soak.steps < steps {
        soak.act();
    }
    soak.finish(seed);
    soak.steps
}

impl Soak {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let group = |random: &mut Random| CacheGroup {
            blocks: random.between(8, 60),
            block_tokens: random.between(1, 8),
        };
        let cache_groups = (0..random.between(1, 2)).map(|_| group(&mut random)).collect();
        let info = ExecutorInfo {
            cache_groups,
            step_tokens_max: 64,
            slots_max: 12,
            context_max: 200,
            vocab_size: VOCAB_SIZE,
            steps_in_flight_max: random.between(1, 2),
        };
        let policies = PolicyKind::NAMES;
        let target_ms = random.between(0, 30);
        let settings = Settings {
            step_tokens_max: random.between(1, 48),
            prefill_chunk_max: random.between(1, 24),
            running_max: random.between(1, 12),
            waiting_max: random.between(1, 40),
            kv_reserve_percent: random.between(0, 30),
            kv_growth_percent: random.between(0, 120),
            prefix_cache: !random.chance(4),
            policy: policies[random.next() as usize % policies.len()].1,
            tenant_weights: BTreeMap::from([("1".into(), 3)]),
            token_latency_target: (target_ms > 0).then(|| Duration::from_millis(target_ms.into())),
        };
        Self {
            scheduler: Scheduler::new(&info, settings).expect("the settings allow something"),
            model: FakeModel::new(info.clone()),
            info,
            random,
            under_way: VecDeque::new(),
            requests: BTreeMap::new(),
            streams: BTreeMap::new(),
            aborted: BTreeSet::new(),
            now: Duration::ZERO,
            steps: 0,
            defect: None,
        }
    }

    /// One thing that happens.
    fn act(&mut self) {
        match self.random.between(0, 99) {
            0..30 => self.submit(),
            30..33 => self.abort(),
            33 if self.random.chance(8) => self.lose_executor(),
            _ => self.step(),
        }
    }

    fn submit(&mut self) {
        let random = &mut self.random;
        let id = RequestId(self.requests.len() as u64);
        let family = random.between(0, 5);
        let length = random.spread(1, 60);
        let stops = random.between(0, 2);
        let request = Request {
            id,
            prompt: (0..length).map(|place| (family * 31 + place * 7) % VOCAB_SIZE).collect(),
            sampling: SamplingParams {
                seed: random.next(),
                stop_token_ids: (0..stops).map(|_| random.between(0, VOCAB_SIZE - 1)).collect(),
                prompt_logprobs: random.chance(6).then_some(1),
                ..SamplingParams::default()
            },
            tokens_max: random.spread(1, 80),
            service: Service {
                priority: random.between(0, 2) as i32,
                due: random.chance(3).then(|| Duration::from_millis(500)),
                tenant: random.between(0, 2).to_string().into(),
                cache_salt: random.between(0, 1).to_string().into(),
            },
        };
        let (room, now) = (self.scheduler.limits(), self.now);
        let tokens_max = room.check(&request.prompt, &request.sampling, request.tokens_max);
        if self.scheduler.submit(request.clone(), now).is_ok() {
            let tokens_max = tokens_max.expect("what can never fit is refused");
            self.requests.insert(id, Request { tokens_max, ..request });
            self.streams.insert(id, Stream::default());
        }
        self.scheduler.invariants();
    }

    fn abort(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let last = self.requests.len() as u64;
        // Those that came lately are still there, more often than not.
        let recent = self.random.next() % 20 + 1;
        let id = RequestId(last.saturating_sub(recent));
        if self.scheduler.abort(id, self.now) {
            self.aborted.insert(id);
        }
        self.scheduler.invariants();
    }

    fn lose_executor(&mut self) {
        self.under_way.clear();
        let fault = Fault::internal("lost twice");
        let events = self.scheduler.requeue_all(&fault, self.now);
        self.scheduler.invariants();
        self.take(events);
        self.model = FakeModel::new(self.info.clone());
    }

    fn step(&mut self) {
        while let Some(mut plan) = self.scheduler.plan(self.now) {
            self.scheduler.invariants();
            let budget = self.scheduler.settings().step_tokens_max as usize;
            assert!(plan.token_count() <= budget, "{plan}: more than the budget");
            self.spoil(&mut plan);
            self.under_way.push_back(plan);
        }
        if let Some(plan) = self.under_way.pop_front() {
            let took_us = 2000 + 300 * plan.token_count() as u64 + self.random.next() % 1000;
            self.now += Duration::from_micros(took_us);
            let outcome = self.model.run(&plan);
            let events = self.scheduler.commit(outcome, self.now).expect("the plan was answered");
            self.scheduler.invariants();
            self.take(events);
        } else {
            self.now += Duration::from_millis(1);
        }
        self.steps += 1;
    }

    /// Does to a plan what the defect planted does.
    fn spoil(&mut self, plan: &mut StepPlan) {
        let Some(defect) = self.defect.filter(|_| self.random.chance(10)) else { return };
        match (defect, plan.items.first_mut()) {
            (Defect::LostRelease, _) => drop(plan.release.pop()),
            (Defect::WrongBlock, Some(item)) => {
                let block = &mut item.block_tables[0][0];
                block.0 = (block.0 + 1) % self.info.cache_groups[0].blocks;
            }
            (Defect::RepeatedPosition, Some(item)) if item.positions.start > 0 => {
                item.positions.start -= 1;
            }
            _ => {}
        }
    }

    fn take(&mut self, mut events: Vec<(RequestId, RequestEvent)>) {
        let token =
            events.iter().position(|(_, event)| matches!(event, RequestEvent::Token { .. }));
        match (self.defect, token.filter(|_| self.steps.is_multiple_of(10))) {
            (Some(Defect::LostToken), Some(place)) => drop(events.remove(place)),
            (Some(Defect::TokenTwice), Some(place)) => {
                let again = events[place].clone();
                events.insert(place, again);
            }
            _ => {}
        }
        for (id, event) in events {
            let stream = self.streams.get_mut(&id).expect("events are for requests that came");
            let ended = stream.finished.is_some() || stream.failed;
            assert!(!ended && !self.aborted.contains(&id), "{id} goes on after its end: {event:?}");
            match event {
                RequestEvent::Token { token, .. } => stream.tokens.push(token),
                RequestEvent::Finished { reason, .. } => stream.finished = Some(reason),
                RequestEvent::Failed(_) => stream.failed = true,
                RequestEvent::Prefilled { .. } | RequestEvent::PromptLogprobs(_) => {}
            }
        }
    }

    /// Everything comes to its end, exactly once, with its own tokens, and nothing is left.
    fn finish(&mut self, seed: u64) {
        let mut steps: u64 = 0;
        while !self.scheduler.is_idle() || !self.under_way.is_empty() {
            self.step();
            steps += 1;
            assert!(steps < 100_000, "seed {seed}: somebody waits for ever");
        }
        assert_eq!(self.scheduler.kv_blocks().0, 0, "seed {seed}: blocks are lost");
        assert_eq!(self.model.slots_used(), 0, "seed {seed}: slots are lost");
        for (id, request) in &self.requests {
            let Request { prompt, sampling, tokens_max, .. } = request;
            let stream = &self.streams[id];
            let (expected, reason) = expected_output(prompt, sampling, *tokens_max, VOCAB_SIZE);
            assert!(expected.starts_with(&stream.tokens), "seed {seed}: {id} has other tokens");
            if !self.aborted.contains(id) && !stream.failed {
                assert_eq!(stream.finished, Some(reason), "seed {seed}: {id}");
                assert_eq!(stream.tokens, expected, "seed {seed}: {id}");
            }
        }
    }
}
