//! What became of each request: for the one who asked, and for those who run the server.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use scheduler::Explanation;
use telemetry::Ending;
use tokio::sync::oneshot;

/// Requests that have ended and are remembered; of more, the longest ended are forgotten.
const RECENT_MAX: usize = 1024;

/// A request, where it is and where its time went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestReport {
    /// What the one who asked calls it.
    pub label: Arc<str>,
    /// How it ended, if it has.
    pub ending: Option<Ending>,
    /// Where its time went.
    pub explanation: Explanation,
}

/// Some of the requests that an engine has or had.
#[derive(Clone, Debug)]
pub struct Reports {
    /// The engine's time, by which the reports go.
    pub now: Duration,
    /// Those that run, those that wait, and those that ended, the latest first.
    pub reports: Vec<Arc<RequestReport>>,
}

/// The report of one request, which comes when it has ended.
#[derive(Debug)]
pub struct PendingReport(oneshot::Receiver<Arc<RequestReport>>);

impl PendingReport {
    /// Waits for the end of the request and gives its report. There is none for a request that was refused or whose
    /// engine is gone. Safe to cancel; not to be called again after it has returned.
    pub async fn wait(&mut self) -> Option<Arc<RequestReport>> {
        (&mut self.0).await.ok()
    }
}

/// Where one request's report is to go.
pub(crate) type ReportSender = oneshot::Sender<Arc<RequestReport>>;

pub(crate) fn pending() -> (ReportSender, PendingReport) {
    let (sender, receiver) = oneshot::channel();
    (sender, PendingReport(receiver))
}

/// The requests that ended last, in a ring.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<Arc<RequestReport>>);

impl Recent {
    pub(crate) fn add(&mut self, report: Arc<RequestReport>) {
        if self.0.len() == RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(report);
    }

    /// The latest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<RequestReport>> {
        self.0.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use scheduler::{Phase, PrefixUse, Steps, Times};
    use types::RequestId;

    use super::*;

    #[test]
    fn the_ring_forgets_the_oldest() {
        let mut recent = Recent::default();
        for id in 0..RECENT_MAX as u64 + 5 {
            let explanation = Explanation {
                id: RequestId(id),
                phase: Phase::Ended,
                tenant: Arc::default(),
                arrived: Duration::ZERO,
                until: Duration::ZERO,
                prompt_tokens: 1,
                generated_tokens: 1,
                waiting_at_arrival: 0,
                running_at_arrival: 0,
                times: Times::default(),
                prefix: PrefixUse::default(),
                steps: Steps::default(),
                preemptions: 0,
                preemptions_listed: Vec::new(),
                recomputed_tokens: 0,
                restored_tokens: 0,
                drafted_tokens: 0,
                accepted_tokens: 0,
            };
            let (label, ending) = (Arc::default(), Some(Ending::Stop));
            recent.add(Arc::new(RequestReport { label, ending, explanation }));
        }
        let ids: Vec<u64> = recent.iter().map(|report| report.explanation.id.0).collect();
        assert_eq!((ids.len(), ids[0]), (RECENT_MAX, RECENT_MAX as u64 + 4));
        assert_eq!(ids.last(), Some(&5));
    }
}
