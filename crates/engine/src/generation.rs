//! The stream of one request's events.

use std::{
    sync::mpsc,
    task::{Context, Poll},
};

use telemetry::Ending;
use tokio::sync::mpsc::Receiver;
use types::{Fault, FaultKind, RequestEvent, RequestId};

use crate::{PendingReport, command::Command};

/// A request in the engine, as the one who asked sees it. Dropping it before its end aborts the request.
#[derive(Debug)]
pub struct Generation {
    id: RequestId,
    events: Receiver<RequestEvent>,
    commands: mpsc::Sender<Command>,
    report: Option<PendingReport>,
    ended: bool,
}

impl Generation {
    pub(crate) fn new(
        id: RequestId,
        events: Receiver<RequestEvent>,
        commands: mpsc::Sender<Command>,
        report: PendingReport,
    ) -> Self {
        Self { id, events, commands, report: Some(report), ended: false }
    }

    /// The request's id in the engine.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// What will be known of the request when it has ended, in whatever way; the first time this is asked.
    pub fn take_report(&mut self) -> Option<PendingReport> {
        self.report.take()
    }

    /// The next event; `None` after the last, which is `Finished` or `Failed`. Safe to cancel.
    pub async fn next(&mut self) -> Option<RequestEvent> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`next`](Self::next), for code outside of an async runtime.
    ///
    /// # Panics
    /// Inside of one.
    pub fn next_blocking(&mut self) -> Option<RequestEvent> {
        if self.ended {
            return None;
        }
        let event = self.events.blocking_recv();
        self.seen(event)
    }

    /// As [`next`](Self::next), for stream implementations.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<RequestEvent>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.events.poll_recv(context).map(|event| self.seen(event))
    }

    /// The reader has all it wants, a stop string for instance: ends the request, and counts it as complete.
    pub fn complete(mut self) {
        self.leave(Ending::Stop);
    }

    fn leave(&mut self, ending: Ending) {
        if !self.ended {
            self.ended = true;
            // An engine that is gone needs no word.
            let _gone = self.commands.send(Command::Drop { id: self.id, ending });
        }
    }

    /// Every stream has an end that says how it went, also when the engine's thread is gone.
    fn seen(&mut self, event: Option<RequestEvent>) -> Option<RequestEvent> {
        let event = event.unwrap_or_else(|| {
            RequestEvent::Failed(Fault::new(FaultKind::Unavailable, "the engine has stopped"))
        });
        self.ended = matches!(event, RequestEvent::Finished { .. } | RequestEvent::Failed(_));
        Some(event)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.leave(Ending::Abort);
    }
}
