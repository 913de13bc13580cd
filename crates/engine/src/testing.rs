//! A deterministic executor for tests, here and in the crates above.
//!
//! What it generates is known without running it: [`expected_output`]. It checks that plans keep to the contract.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use scheduler::testing::FakeModel;
pub use scheduler::testing::{expected_output, logprobs_of};
use types::{
    Arrivals, CacheGroup, Executor, ExecutorInfo, Fault, FaultKind, MemoryReport, StepOutcome,
    StepPlan, TokenId,
};

/// How a fake executor behaves. Shared by the executors that follow one another in an engine.
#[derive(Clone, Debug)]
pub struct FakeSettings {
    /// Its limits.
    pub info: ExecutorInfo,
    /// A request with this token in its prompt fails alone.
    pub failing_token: Option<TokenId>,
    /// A step with a request that has this token in its prompt panics.
    pub panicking_token: Option<TokenId>,
    /// Steps that panic, by number; each comes once in the life of an engine.
    pub panicking_steps: Vec<u64>,
    /// Steps that end in a fault.
    pub faulty_steps: Vec<u64>,
    /// Times at which no executor can be built, counted from 0, the one at the start.
    pub failing_builds: Vec<u64>,
    /// Lets steps through one by one.
    pub gate: Option<StepGate>,
}

impl FakeSettings {
    /// Room for 8 requests, 64 blocks of 16 positions, and ids up to `vocab_size`.
    pub fn new(vocab_size: u32) -> Self {
        Self {
            info: ExecutorInfo {
                cache_groups: vec![CacheGroup::new(64, 16)],
                step_tokens_max: 256,
                slots_max: 8,
                context_max: 512,
                vocab_size,
                steps_in_flight_max: 1,
                draft_tokens_max: 0,
            },
            failing_token: None,
            panicking_token: None,
            panicking_steps: Vec::new(),
            faulty_steps: Vec::new(),
            failing_builds: Vec::new(),
            gate: None,
        }
    }

    /// For [`Engine::start`](crate::Engine::start).
    pub fn factory(self) -> impl FnMut() -> Result<Box<dyn Executor>, Fault> + Send + 'static {
        let mut builds = 0..;
        move || {
            let fails = builds.next().is_some_and(|build| self.failing_builds.contains(&build));
            if fails {
                return Err(Fault::new(FaultKind::Unavailable, "there is no device, as told"));
            }
            Ok(Box::new(FakeExecutor::new(self.clone())))
        }
    }
}

/// Blocks a fake executor's steps: each waits for a permit, until the [`StepPermits`] are dropped.
#[derive(Clone, Debug)]
pub struct StepGate {
    permits: Arc<Mutex<mpsc::Receiver<()>>>,
}

/// Lets steps through a [`StepGate`]. Dropping it opens the gate for good.
#[derive(Debug)]
pub struct StepPermits {
    permits: mpsc::Sender<()>,
}

impl StepGate {
    /// A closed gate and the means to let steps through.
    pub fn closed() -> (Self, StepPermits) {
        let (sender, receiver) = mpsc::channel();
        (Self { permits: Arc::new(Mutex::new(receiver)) }, StepPermits { permits: sender })
    }

    fn wait(&self) {
        let permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        // An error means that the gate is open for good.
        let _open = permits.recv();
    }
}

impl StepPermits {
    /// Lets `count` more steps through.
    pub fn let_through(&self, count: usize) {
        for _ in 0..count {
            // Without an engine there is nothing to let through.
            let _gone = self.permits.send(());
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct FakeExecutor {
    settings: FakeSettings,
    model: FakeModel,
    under_way: VecDeque<StepPlan>,
    arrivals: Arc<Arrivals>,
}

impl FakeExecutor {
    /// An executor that behaves as `settings` say.
    pub fn new(settings: FakeSettings) -> Self {
        let mut model = FakeModel::new(settings.info.clone());
        if let Some(token) = settings.failing_token {
            model = model.with_failing_token(token);
        }
        Self { settings, model, under_way: VecDeque::new(), arrivals: Arc::default() }
    }
}

impl Executor for FakeExecutor {
    fn info(&self) -> &ExecutorInfo {
        &self.settings.info
    }

    fn submit(&mut self, plan: StepPlan) -> Result<(), Fault> {
        let free = self.under_way.len() < self.settings.info.steps_in_flight_max as usize;
        assert!(free, "{plan} comes while as many steps are under way as can be");
        self.under_way.push_back(plan);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutcome, Fault> {
        let plan = self.under_way.pop_front().expect("a step is under way");
        if let Some(gate) = &self.settings.gate {
            gate.wait();
        }
        assert!(!self.settings.panicking_steps.contains(&plan.id.0), "{} panics as told", plan.id);
        if self.settings.faulty_steps.contains(&plan.id.0) {
            return Err(Fault::new(FaultKind::Internal, format!("{} fails as told", plan.id)));
        }
        if self.arrivals.is_anyone_new() {
            self.model.leave_out();
        }
        let outcome = self.model.run(&plan);
        if let Some(token) = self.settings.panicking_token {
            for item in &plan.items {
                let prompt = self.model.prompt(item.slot).unwrap_or_default();
                assert!(!prompt.contains(&token), "{} has the panicking token", item.slot);
            }
        }
        Ok(outcome)
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport::default()
    }

    fn watch(&mut self, arrivals: Arc<Arrivals>) {
        self.arrivals = arrivals;
    }
}
