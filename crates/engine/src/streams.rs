//! Where each request's events go, and when they went.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use scheduler::Explanation;
use telemetry::{Ending, EngineMetrics};
use tokio::sync::mpsc::{Sender, error::TrySendError};
use types::{FinishReason, RequestEvent, RequestId};

use crate::reports::{Recent, ReportSender, RequestReport};

/// The streams of all requests in the engine.
#[derive(Debug)]
pub(crate) struct Streams {
    streams: BTreeMap<RequestId, Stream>,
    recent: Recent,
    metrics: EngineMetrics,
}

/// Who reads what comes of a request.
#[derive(Debug)]
pub(crate) struct Reader {
    /// What the reader calls the request.
    pub(crate) label: Arc<str>,
    pub(crate) events: Sender<RequestEvent>,
    pub(crate) report: ReportSender,
}

#[derive(Debug)]
struct Stream {
    reader: Reader,
    /// Where its time went, once it has ended.
    explanation: Option<Explanation>,
    prompt_tokens: u64,
    arrived: Duration,
    last_token: Option<Duration>,
}

impl Streams {
    pub(crate) fn new(metrics: EngineMetrics) -> Self {
        Self { streams: BTreeMap::new(), recent: Recent::default(), metrics }
    }

    pub(crate) fn open(
        &mut self,
        id: RequestId,
        reader: Reader,
        prompt_tokens: usize,
        arrived: Duration,
    ) {
        let prompt_tokens = prompt_tokens as u64;
        let explanation = None;
        let stream = Stream { reader, explanation, prompt_tokens, arrived, last_token: None };
        self.streams.insert(id, stream);
    }

    /// The account of a request that has ended; how it ended is still to come.
    pub(crate) fn explain(&mut self, explanation: Explanation) {
        if let Some(stream) = self.streams.get_mut(&explanation.id) {
            stream.explanation = Some(explanation);
        }
    }

    /// The report of a request that has not ended.
    pub(crate) fn open_report(&self, explanation: Explanation) -> Option<Arc<RequestReport>> {
        let label = self.streams.get(&explanation.id)?.reader.label.clone();
        Some(Arc::new(RequestReport { label, ending: None, explanation }))
    }

    /// The requests that ended last, the latest first.
    pub(crate) fn recent(&self) -> impl Iterator<Item = &Arc<RequestReport>> {
        self.recent.iter()
    }

    /// Sends events on.
    pub(crate) fn deliver(&mut self, events: Vec<(RequestId, RequestEvent)>, now: Duration) {
        for (id, event) in events {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let ending = stream.record(&event, now, &self.metrics);
            match stream.reader.events.try_send(event) {
                // A reader that is gone has said so, or is about to.
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(_)) => tracing::error!(%id, "a stream had too little room"),
            }
            if let Some(ending) = ending {
                self.end(id, ending);
            }
        }
    }

    /// Forgets a request that nobody reads.
    pub(crate) fn close(&mut self, id: RequestId, ending: Ending, now: Duration) {
        if let Some(stream) = self.streams.get(&id) {
            self.metrics.ended(ending, now.saturating_sub(stream.arrived));
            self.end(id, ending);
        }
    }

    /// Forgets a request but for its report. One that was refused has none.
    fn end(&mut self, id: RequestId, ending: Ending) {
        let Some(Stream { reader, explanation, .. }) = self.streams.remove(&id) else { return };
        let Some(explanation) = explanation else { return };
        let Reader { label, report, .. } = reader;
        let whole = Arc::new(RequestReport { label, ending: Some(ending), explanation });
        // Few want to know.
        let _nobody = report.send(whole.clone());
        self.recent.add(whole);
    }
}

impl Stream {
    /// Counts an event. How the request ended, if it is the last.
    fn record(
        &mut self,
        event: &RequestEvent,
        now: Duration,
        metrics: &EngineMetrics,
    ) -> Option<Ending> {
        let since_arrival = now.saturating_sub(self.arrived);
        match event {
            RequestEvent::Prefilled { .. } | RequestEvent::PromptLogprobs(_) => None,
            RequestEvent::Token { .. } => {
                match self.last_token.replace(now) {
                    None => metrics.first_token(since_arrival, self.prompt_tokens),
                    Some(last) => metrics.next_token(now.saturating_sub(last)),
                }
                None
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
                Some(ending)
            }
            RequestEvent::Failed(_) => {
                metrics.ended(Ending::Error, since_arrival);
                Some(Ending::Error)
            }
        }
    }
}
