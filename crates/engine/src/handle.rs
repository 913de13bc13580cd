//! The engine as the rest of the program sees it.

use std::sync::{Arc, atomic::Ordering, mpsc};

use telemetry::Rejection;
use tokio::sync::oneshot;
use types::{
    ExecutorInfo, Fault, FaultKind, MemoryReport, Request, RequestId, SamplingParams, Service,
    TokenId,
};

use crate::{
    EngineState, EngineStats, Generation, Reports, command::Command, reports, shared::Shared,
    streams::Reader,
};

/// A request as it comes in.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRequest {
    /// Tokens to start from; at least one.
    pub prompt: Vec<TokenId>,
    /// How tokens are drawn and which end the request.
    pub sampling: SamplingParams,
    /// Generate at most this many tokens, at least one. Clipped to what fits after the prompt: prompt and output
    /// together are at most the context and what the KV cache holds of one request. A request that was clipped ends
    /// with `Length` like any other that reached its limit.
    pub tokens_max: u32,
    /// How it is served among others.
    pub service: Service,
    /// What it is called in reports; requests may share a label.
    pub label: Arc<str>,
}

/// Submits requests to an engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl EngineHandle {
    pub(crate) fn new(shared: Arc<Shared>, commands: mpsc::Sender<Command>) -> Self {
        Self { shared, commands }
    }

    /// Takes a request or refuses it, at once: `Invalid` when it is wrong or can never fit, `Overloaded` with the time
    /// after which to come back when too many wait, `Unavailable` when the engine takes no requests.
    pub fn submit(&self, new: NewRequest) -> Result<Generation, Fault> {
        let refused = |reason, fault| {
            self.shared.metrics.rejected(reason);
            fault
        };
        let unavailable =
            |message| refused(Rejection::Unavailable, Fault::new(FaultKind::Unavailable, message));
        match self.state() {
            EngineState::Running => {}
            EngineState::Draining => return Err(unavailable("the engine is draining")),
            EngineState::Stopped => return Err(unavailable("the engine has stopped")),
            EngineState::Failed => return Err(unavailable("the engine has failed")),
        }
        let NewRequest { prompt, sampling, tokens_max, service, label } = new;
        let tokens_max = self
            .shared
            .limits
            .check(&prompt, &sampling, tokens_max)
            .map_err(|refusal| refused(Rejection::Invalid, refusal.into()))?;
        self.shared
            .take_place(&service, prompt.len() as u32, tokens_max)
            .map_err(|refusal| refused(Rejection::Overloaded, refusal))?;
        let id = RequestId(self.shared.numbers.next_id.fetch_add(1, Ordering::Relaxed));
        // Room for every event there can be: the end of the prompt, its log-probabilities, the tokens, the end.
        let (events, receiver) = tokio::sync::mpsc::channel(tokens_max as usize + 3);
        let (report, pending_report) = reports::pending();
        let reader = Reader { label, events, report };
        let request = Request { id, prompt, sampling, tokens_max, service };
        let arrived = self.shared.clock.now();
        self.shared.arrivals.send();
        self.commands
            .send(Command::Submit { request, arrived, reader })
            .map_err(|_| unavailable("the engine has stopped"))?;
        Ok(Generation::new(id, receiver, self.commands.clone(), pending_report))
    }

    /// What is known of the requests in the engine and of those that ended last: of all, or of those with this label,
    /// at most `count_max`. The engine answers between two steps.
    pub async fn reports(
        &self,
        label: Option<Arc<str>>,
        count_max: usize,
    ) -> Result<Reports, Fault> {
        let gone = || Fault::new(FaultKind::Unavailable, "the engine has stopped");
        let (answer, receiver) = oneshot::channel();
        self.commands.send(Command::Report { label, count_max, answer }).map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())
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
        self.shared.stats()
    }

    /// What the engine was told lately, as a journal's file would have it, if it is kept. Takes a while: for what the
    /// scheduler knew before, all of that is written down.
    pub fn journal(&self) -> Option<Vec<u8>> {
        Some(self.shared.journal.as_ref()?.snapshot())
    }

    /// Whether the engine takes requests.
    pub fn state(&self) -> EngineState {
        self.shared.state()
    }

    /// Takes no more requests; those in the engine go on.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Ends every request in the engine with `fault`.
    pub fn end_all(&self, fault: Fault) {
        // An engine that is gone has none.
        let _gone = self.commands.send(Command::EndAll(fault));
    }
}
