//! What the thread is told.

use std::time::Duration;

use telemetry::Ending;
use tokio::sync::mpsc::Sender;
use types::{Fault, Request, RequestEvent, RequestId};

/// What the thread is told. The channel needs no bound of its own: a submission has reserved a place in the queue, and
/// each request is dropped at most once.
#[derive(Debug)]
pub(crate) enum Command {
    /// A request that was let in.
    Submit { request: Request, arrived: Duration, events: Sender<RequestEvent> },
    /// Nobody reads this request's events any more, for this reason.
    Drop { id: RequestId, ending: Ending },
    /// End every request.
    EndAll(Fault),
    /// End every request and the thread.
    Shutdown,
}
