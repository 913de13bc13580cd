//! A scheduler and a fake model, driven step by step.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use types::{
    CacheGroup, ExecutorInfo, Fault, FaultKind, FinishReason, Request, RequestEvent, RequestId,
    SamplingParams, Service, StepOutcome, StepPlan, TokenId, TokenLogprobs, Usage,
};

use crate::{
    Error, Explanation, Phase, PolicyKind, Scheduler, Settings,
    testing::{FakeModel, expected_output},
};

pub(super) const VOCAB_SIZE: u32 = 50;
/// Makes its request fail alone.
pub(super) const FAILING: TokenId = 50;
/// Makes the step fail as a whole.
pub(super) const POISON: TokenId = 51;

/// What each step takes, besides what its positions and copies do.
const STEP: Duration = Duration::from_millis(10);

/// What came out for one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub(super) cached_tokens: Option<u32>,
    pub(super) tokens: Vec<TokenId>,
    pub(super) prompt_logprobs: Option<Vec<TokenLogprobs>>,
    pub(super) finished: Option<(FinishReason, Usage)>,
    pub(super) failed: Option<Fault>,
    pub(super) arrived: Duration,
    /// Its account, once it is closed.
    pub(super) explanation: Option<Explanation>,
}

impl Stream {
    pub(super) fn ended(&self) -> bool {
        self.finished.is_some() || self.failed.is_some()
    }
}

#[derive(Debug)]
pub(super) struct Driver {
    pub(super) scheduler: Scheduler,
    pub(super) model: FakeModel,
    pub(super) streams: BTreeMap<RequestId, Stream>,
    pub(super) now: Duration,
    /// What each position of a step takes.
    pub(super) position: Duration,
    /// What each block copied takes.
    pub(super) copy: Duration,
    pub(super) crashes: u32,
    /// Plans submitted, not answered yet.
    pub(super) under_way: VecDeque<StepPlan>,
    info: ExecutorInfo,
}

/// An executor with one group of `blocks` blocks of 4 positions.
pub(super) fn executor(blocks: u32) -> ExecutorInfo {
    ExecutorInfo {
        cache_groups: vec![CacheGroup::new(blocks, 4)],
        step_tokens_max: 64,
        slots_max: 8,
        context_max: 200,
        // The special tokens are above what the model draws, and inside what a request may name.
        vocab_size: VOCAB_SIZE + 2,
        steps_in_flight_max: 1,
        draft_tokens_max: 8,
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        step_tokens_max: 32,
        prefill_chunk_max: 8,
        running_max: 8,
        waiting_max: 100,
        kv_reserve_percent: 0,
        // As many as fit run at once and give way to each other.
        kv_growth_percent: 0,
        policy: PolicyKind::Priority,
        token_latency_target: None,
        ..Settings::default()
    }
}

fn model(info: &ExecutorInfo) -> FakeModel {
    FakeModel::new(ExecutorInfo { vocab_size: VOCAB_SIZE, ..info.clone() })
        .with_failing_token(FAILING)
}

impl Driver {
    pub(super) fn new(info: ExecutorInfo, settings: Settings) -> Self {
        Self {
            scheduler: Scheduler::new(&info, settings).unwrap(),
            model: model(&info),
            streams: BTreeMap::new(),
            now: Duration::ZERO,
            position: Duration::ZERO,
            copy: Duration::ZERO,
            crashes: 0,
            under_way: VecDeque::new(),
            info,
        }
    }

    pub(super) fn submit(&mut self, id: u64, prompt: Vec<TokenId>, tokens_max: u32) {
        self.submit_request(request(id, prompt, tokens_max)).unwrap();
    }

    pub(super) fn submit_request(&mut self, request: Request) -> Result<(), Error> {
        let id = request.id;
        self.scheduler.submit(request, self.now)?;
        self.streams.insert(id, Stream { arrived: self.now, ..Stream::default() });
        self.check();
        Ok(())
    }

    pub(super) fn abort(&mut self, id: u64) -> bool {
        let was_there = self.scheduler.abort(RequestId(id), self.now);
        self.check();
        was_there
    }

    pub(super) fn plan(&mut self) -> Option<StepPlan> {
        let plan = self.scheduler.plan(self.now);
        self.check();
        plan
    }

    pub(super) fn commit(&mut self, outcome: StepOutcome) -> Result<(), Error> {
        let events = self.scheduler.commit(outcome, self.now)?;
        self.check();
        self.take(events);
        Ok(())
    }

    /// Plans as many steps as can be under way, and runs and commits the oldest; its plan, if there was one.
    pub(super) fn step(&mut self) -> Option<StepPlan> {
        while let Some(plan) = self.plan() {
            self.under_way.push_back(plan);
        }
        self.finish_oldest()
    }

    /// Runs and commits the oldest step under way; its plan, if there was one. A step with the poison token crashes.
    pub(super) fn finish_oldest(&mut self) -> Option<StepPlan> {
        let plan = self.under_way.pop_front()?;
        let positions = self.position * plan.token_count() as u32;
        self.now += STEP + positions + self.copy * plan.copies.len() as u32;
        let outcome = self.model.run(&plan);
        let poisoned =
            plan.items.iter().any(|item| self.model.prompt(item.slot).unwrap().contains(&POISON));
        if poisoned {
            self.crash();
        } else {
            self.commit(outcome).unwrap();
        }
        Some(plan)
    }

    /// The executor is lost, and a new one takes its place.
    pub(super) fn crash(&mut self) {
        self.crashes += 1;
        let fault = Fault::new(FaultKind::Internal, "it crashed twice");
        self.under_way.clear();
        let events = self.scheduler.requeue_all(&fault, self.now);
        self.check();
        self.take(events);
        self.model = model(&self.info);
    }

    /// Steps until there is nothing to do; the plans as text.
    pub(super) fn run(&mut self) -> Vec<String> {
        let mut plans = Vec::new();
        while let Some(plan) = self.step() {
            plans.push(plan.to_string());
            assert!(plans.len() < 20_000, "no end in sight: {:?}", &plans[plans.len() - 5..]);
        }
        assert!(self.scheduler.is_idle());
        assert_eq!(self.model.slots_used(), 0, "the executor was told of every release");
        assert_eq!(self.scheduler.kv_blocks().0, 0, "all blocks came back");
        plans
    }

    /// Runs so many requests that come at once, each with its own tokens; most that ran side by side.
    pub(super) fn run_at_once(&mut self, count: u64, prompt_len: usize, tokens_max: u32) -> usize {
        for id in 0..count {
            self.submit(id, prompt(id, prompt_len), tokens_max);
        }
        let mut most = 0;
        while self.step().is_some() {
            most = most.max(self.scheduler.running());
        }
        for id in 0..count {
            let wanted = expected(id, &prompt(id, prompt_len), tokens_max);
            assert_eq!(self.stream(id).tokens, wanted);
        }
        most
    }

    pub(super) fn stream(&self, id: u64) -> &Stream {
        &self.streams[&RequestId(id)]
    }

    /// What must hold after each call. Each moment of a request is charged once, so the causes add up to its time.
    pub(super) fn check(&mut self) {
        self.scheduler.invariants();
        for open in self.scheduler.explain(self.now) {
            let stream = &self.streams[&open.id];
            assert_eq!(open.times.total(), self.now - stream.arrived, "{open:?}");
            assert_ne!(open.phase, Phase::Ended, "{open:?}");
        }
        for closed in self.scheduler.take_ended() {
            let stream = self.streams.get_mut(&closed.id).expect("it was submitted");
            assert_eq!((closed.phase, closed.until), (Phase::Ended, self.now), "{closed:?}");
            assert_eq!(closed.times.total(), self.now - stream.arrived, "{closed:?}");
            assert_eq!(stream.explanation, None, "it ends once");
            stream.explanation = Some(closed);
        }
    }

    fn take(&mut self, events: Vec<(RequestId, RequestEvent)>) {
        for (id, event) in events {
            let stream = self.streams.get_mut(&id).unwrap();
            assert!(!stream.ended(), "{id} goes on after its end: {event:?}");
            match event {
                RequestEvent::Prefilled { cached_tokens } => {
                    assert!(stream.tokens.is_empty(), "{id}: before the first token");
                    assert!(stream.cached_tokens.replace(cached_tokens).is_none(), "{id}: once");
                }
                RequestEvent::PromptLogprobs(whole) => {
                    assert!(stream.tokens.is_empty(), "{id}: before the first token");
                    assert!(stream.prompt_logprobs.replace(whole).is_none(), "{id}: once");
                }
                RequestEvent::Token { token, .. } => stream.tokens.push(token),
                RequestEvent::Finished { reason, usage } => stream.finished = Some((reason, usage)),
                RequestEvent::Failed(fault) => stream.failed = Some(fault),
            }
        }
    }
}

pub(super) fn request(id: u64, prompt: Vec<TokenId>, tokens_max: u32) -> Request {
    let sampling = SamplingParams { seed: id, ..SamplingParams::default() };
    Request { id: RequestId(id), prompt, sampling, tokens_max, service: Service::default() }
}

pub(super) fn prompt(seed: u64, len: usize) -> Vec<TokenId> {
    (0..len as u64).map(|index| ((seed * 31 + index * 7) % u64::from(VOCAB_SIZE)) as u32).collect()
}

/// What the model generates for a request made by [`request`].
pub(super) fn expected(id: u64, prompt: &[TokenId], tokens_max: u32) -> Vec<TokenId> {
    expected_output(prompt, &request(id, Vec::new(), 1).sampling, tokens_max, VOCAB_SIZE).0
}
