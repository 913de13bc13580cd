//! The only clock below the handle.

use std::time::{Duration, Instant};

/// Time since the engine started. The scheduler gets it as an argument.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(self) -> Duration {
        self.start.elapsed()
    }
}
