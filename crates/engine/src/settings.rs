//! Settings of an engine.

use std::time::Duration;

/// Settings of an engine. The executor's own limits always hold as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// What a step may hold, and how many requests run and wait.
    pub scheduler: scheduler::Settings,
    /// How often in a row the executor may fail, in a step or while it is built, without a step in between that
    /// succeeds. Once more, and the engine gives up.
    pub executor_failures_max: u32,
    /// How long to wait before building the executor again after building it failed.
    pub rebuild_pause: Duration,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            scheduler: scheduler::Settings::default(),
            executor_failures_max: 8,
            rebuild_pause: Duration::from_millis(500),
        }
    }
}
