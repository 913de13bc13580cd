//! What the thread is told.

use std::{sync::Arc, time::Duration};

use telemetry::Ending;
use tokio::sync::oneshot;
use types::{Fault, Request, RequestId};

use crate::{Reports, streams::Reader};

/// What the thread is told. The channel needs no bound of its own: a submission has reserved a place in the queue, and
/// each request is dropped at most once.
#[derive(Debug)]
pub(crate) enum Command {
    /// A request that was let in.
    Submit { request: Request, arrived: Duration, reader: Reader },
    /// Nobody reads this request's events any more, for this reason.
    Drop { id: RequestId, ending: Ending },
    /// Tell what is known of requests: of all, or of those with this label; so many at most.
    Report { label: Option<Arc<str>>, count_max: usize, answer: oneshot::Sender<Reports> },
    /// End every request.
    EndAll(Fault),
    /// End every request and the thread.
    Shutdown,
}
