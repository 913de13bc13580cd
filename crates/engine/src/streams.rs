//! Where each request's events go, and when they went.

use std::{collections::BTreeMap, time::Duration};

use telemetry::{Ending, EngineMetrics};
use tokio::sync::mpsc::{Sender, error::TrySendError};
use types::{FinishReason, RequestEvent, RequestId};

/// The streams of all requests in the engine.
#[derive(Debug)]
pub(crate) struct Streams {
    streams: BTreeMap<RequestId, Stream>,
    metrics: EngineMetrics,
}

#[derive(Debug)]
struct Stream {
    events: Sender<RequestEvent>,
    prompt_tokens: u64,
    arrived: Duration,
    last_token: Option<Duration>,
}

impl Streams {
    pub(crate) fn new(metrics: EngineMetrics) -> Self {
        Self { streams: BTreeMap::new(), metrics }
    }

    pub(crate) fn open(
        &mut self,
        id: RequestId,
        events: Sender<RequestEvent>,
        prompt_tokens: usize,
        arrived: Duration,
    ) {
        let prompt_tokens = prompt_tokens as u64;
        let stream = Stream { events, prompt_tokens, arrived, last_token: None };
        self.streams.insert(id, stream);
    }

    /// Sends events on.
    pub(crate) fn deliver(&mut self, events: Vec<(RequestId, RequestEvent)>, now: Duration) {
        for (id, event) in events {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let ended = stream.record(&event, now, &self.metrics);
            match stream.events.try_send(event) {
                // A reader that is gone has said so, or is about to.
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(_)) => tracing::error!(%id, "a stream had too little room"),
            }
            if ended {
                self.streams.remove(&id);
            }
        }
    }

    /// Forgets a request that nobody reads.
    pub(crate) fn close(&mut self, id: RequestId, ending: Ending, now: Duration) {
        if let Some(stream) = self.streams.remove(&id) {
            self.metrics.ended(ending, now.saturating_sub(stream.arrived));
        }
    }
}

impl Stream {
    /// Counts an event. Says whether it is the last.
    fn record(&mut self, event: &RequestEvent, now: Duration, metrics: &EngineMetrics) -> bool {
        let since_arrival = now.saturating_sub(self.arrived);
        match event {
            RequestEvent::Prefilled { .. } | RequestEvent::PromptLogprobs(_) => false,
            RequestEvent::Token { .. } => {
                match self.last_token.replace(now) {
                    None => metrics.first_token(since_arrival, self.prompt_tokens),
                    Some(last) => metrics.next_token(now.saturating_sub(last)),
                }
                false
            }
            RequestEvent::Finished { reason, usage } => {
                let ending = match reason {
                    FinishReason::StopToken(_) => Ending::Stop,
                    FinishReason::Length => Ending::Length,
                };
                let (prompt, generated) = (usage.prompt_tokens, usage.generated_tokens);
                let queued = Duration::from_millis(usage.queued_ms);
                metrics.ended(ending, since_arrival);
                metrics.used(prompt.into(), generated.into(), queued);
                true
            }
            RequestEvent::Failed(_) => {
                metrics.ended(Ending::Error, since_arrival);
                true
            }
        }
    }
}
