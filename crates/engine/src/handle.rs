//! The engine as the rest of the program sees it.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU64, Ordering},
    mpsc,
};

use types::{
    ExecutorInfo, Fault, FaultKind, MemoryReport, Request, RequestId, SamplingParams, TokenId,
};

use crate::{Generation, thread::Command};

/// A request as it comes in.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRequest {
    /// Tokens to start from; at least one.
    pub prompt: Vec<TokenId>,
    /// How tokens are drawn and which end the request.
    pub sampling: SamplingParams,
    /// Generate at most this many tokens. Clipped to what fits after the prompt; at least one.
    pub tokens_max: u32,
    /// Lower is served first; equal priorities are served in order of arrival.
    pub priority: i32,
}

/// Whether an engine takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// It does.
    Running,
    /// No new ones; those that it has go on.
    Draining,
    /// It was shut down.
    Stopped,
    /// Its executor failed too often.
    Failed,
}

impl EngineState {
    const ALL: [Self; 4] = [Self::Running, Self::Draining, Self::Stopped, Self::Failed];
}

/// A look at an engine; each number is current, but they are read one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineStats {
    /// Whether it takes requests.
    pub state: EngineState,
    /// Requests with a slot.
    pub running: u32,
    /// Requests in the queue.
    pub waiting: u32,
    /// Most requests in the queue.
    pub waiting_max: u32,
    /// KV blocks in use, over all cache groups.
    pub kv_blocks_used: u64,
    /// KV blocks in the pool, over all cache groups.
    pub kv_blocks_total: u64,
    /// Steps done since the start.
    pub steps: u64,
    /// Tokens generated since the start.
    pub generated_tokens: u64,
    /// Preemptions since the start.
    pub preemptions: u64,
    /// Times the executor failed and was built again since the start.
    pub executor_rebuilds: u64,
}

/// Submits requests to an engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// What the handles and the thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) info: ExecutorInfo,
    pub(crate) memory: MemoryReport,
    pub(crate) state: AtomicU8,
    pub(crate) next_id: AtomicU64,
}

impl Shared {
    pub(crate) fn state(&self) -> EngineState {
        EngineState::ALL[usize::from(self.state.load(Ordering::Acquire))]
    }

    pub(crate) fn set_state(&self, state: EngineState) {
        self.state.store(state as u8, Ordering::Release);
    }
}

impl EngineHandle {
    pub(crate) fn new(shared: Arc<Shared>, commands: mpsc::Sender<Command>) -> Self {
        Self { shared, commands }
    }

    /// Takes a request or refuses it, at once.
    pub fn submit(&self, new: NewRequest) -> Result<Generation, Fault> {
        if self.state() != EngineState::Running {
            return Err(Fault::new(FaultKind::Unavailable, "the engine takes no requests"));
        }
        let id = RequestId(self.shared.next_id.fetch_add(1, Ordering::Relaxed));
        let NewRequest { prompt, sampling, tokens_max, priority } = new;
        let (events, receiver) = tokio::sync::mpsc::channel(tokens_max as usize + 2);
        let request = Request { id, prompt, sampling, tokens_max, priority };
        self.commands
            .send(Command::Submit { request, events })
            .map_err(|_| Fault::new(FaultKind::Unavailable, "the engine has stopped"))?;
        Ok(Generation::new(id, receiver, self.commands.clone()))
    }

    /// The executor's limits.
    pub fn info(&self) -> &ExecutorInfo {
        &self.shared.info
    }

    /// Where the executor's memory went.
    pub fn memory(&self) -> MemoryReport {
        self.shared.memory
    }

    /// How the engine does.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            state: self.state(),
            running: 0,
            waiting: 0,
            waiting_max: 0,
            kv_blocks_used: 0,
            kv_blocks_total: 0,
            steps: 0,
            generated_tokens: 0,
            preemptions: 0,
            executor_rebuilds: 0,
        }
    }

    /// Whether the engine takes requests.
    pub fn state(&self) -> EngineState {
        self.shared.state()
    }

    /// Takes no more requests; those in the engine go on.
    pub fn drain(&self) {
        self.shared.set_state(EngineState::Draining);
    }

    /// Ends every request in the engine with `fault`.
    pub fn end_all(&self, fault: Fault) {
        let _gone = self.commands.send(Command::EndAll(fault));
    }
}
