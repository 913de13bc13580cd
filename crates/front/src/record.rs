//! What is remembered of one HTTP request, for its log line.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use engine::{PendingReport, RequestReport};

/// Filled in on the way, read once at the end.
#[derive(Debug)]
pub(crate) struct Record {
    /// As the client sent it, or made here; goes back in the `x-request-id` header and into ids of answers.
    pub(crate) id: String,
    pub(crate) started: Instant,
    model: OnceLock<String>,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    output_tokens: AtomicU64,
    first_token: OnceLock<Instant>,
    /// The first thing that went wrong.
    error: Mutex<Option<String>>,
    /// What the engine will say of the answers, and what it has said, in their order.
    reports: tokio::sync::Mutex<Reports>,
}

#[derive(Debug, Default)]
struct Reports {
    pending: VecDeque<PendingReport>,
    known: Vec<Arc<RequestReport>>,
}

impl Record {
    pub(crate) fn new(id: String) -> Self {
        Self {
            id,
            started: Instant::now(),
            model: OnceLock::new(),
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            output_tokens: AtomicU64::new(0),
            first_token: OnceLock::new(),
            error: Mutex::new(None),
            reports: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn set_model(&self, name: &str) {
        self.model.get_or_init(|| name.to_owned());
    }

    pub(crate) fn add_prompt_tokens(&self, count: usize) {
        self.prompt_tokens.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Tokens of a prompt that were in the cache.
    pub(crate) fn add_cached_tokens(&self, count: u32) {
        self.cached_tokens.fetch_add(count.into(), Ordering::Relaxed);
    }

    pub(crate) fn add_output_tokens(&self, count: usize, now: Instant) {
        if count > 0 {
            self.first_token.get_or_init(|| now);
            self.output_tokens.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// The engine will have something to say of one more answer.
    pub(crate) fn expect_report(&self, report: PendingReport) {
        let mut reports = self.reports.try_lock().expect("nobody waits before all are expected");
        reports.pending.push_back(report);
    }

    /// Whether the engine still has something to say.
    pub(crate) fn awaits_reports(&self) -> bool {
        self.reports.try_lock().is_ok_and(|reports| !reports.pending.is_empty())
    }

    /// Waits for what the engine has to say of each answer, when it has ended. Safe to cancel.
    pub(crate) async fn reports(&self) -> Vec<Arc<RequestReport>> {
        let mut reports = self.reports.lock().await;
        while let Some(pending) = reports.pending.front_mut() {
            let report = pending.wait().await;
            reports.pending.pop_front();
            reports.known.extend(report);
        }
        reports.known.clone()
    }

    /// Of the answers that the engine has spoken of, the one that took longest.
    pub(crate) fn slowest(&self) -> Option<Arc<RequestReport>> {
        let reports = self.reports.try_lock().ok()?;
        reports.known.iter().max_by_key(|report| report.explanation.times.total()).cloned()
    }

    pub(crate) fn set_error(&self, message: &str) {
        self.error().get_or_insert_with(|| message.to_owned());
    }

    pub(crate) fn model(&self) -> Option<&str> {
        self.model.get().map(String::as_str)
    }

    pub(crate) fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens.load(Ordering::Relaxed)
    }

    pub(crate) fn cached_tokens(&self) -> u64 {
        self.cached_tokens.load(Ordering::Relaxed)
    }

    pub(crate) fn output_tokens(&self) -> u64 {
        self.output_tokens.load(Ordering::Relaxed)
    }

    pub(crate) fn first_token_ms(&self) -> Option<u64> {
        let first = self.first_token.get()?;
        u64::try_from(first.duration_since(self.started).as_millis()).ok()
    }

    pub(crate) fn error(&self) -> MutexGuard<'_, Option<String>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
