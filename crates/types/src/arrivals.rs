//! Whether somebody new has come while a step is computed.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of requests sent to an engine and of those it has taken notice of. An executor may look between two steps of
/// its computation, and leave out what [gives way](crate::WorkItem::gives_way).
#[derive(Debug, Default)]
pub struct Arrivals {
    sent: AtomicU64,
    noticed: AtomicU64,
}

impl Arrivals {
    /// A request is on its way to the engine.
    pub fn send(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// The engine has taken notice of one.
    pub fn notice(&self) {
        self.noticed.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one is on its way.
    pub fn is_anyone_new(&self) -> bool {
        // They only ever grow, and whoever is overlooked by one look is seen by the next.
        self.noticed.load(Ordering::Relaxed) < self.sent.load(Ordering::Relaxed)
    }
}
