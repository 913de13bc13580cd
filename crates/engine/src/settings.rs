//! Settings of an engine.

use std::{path::PathBuf, time::Duration};

pub use journal::TokenRecord;

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
    /// What is written down of what happens.
    pub journal: JournalSettings,
}

/// Where the engine records what its scheduler is told; see the crate `journal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// A file to write to, in place of one that is there.
    pub file: Option<PathBuf>,
    /// The file grows no larger than about this many bytes.
    pub file_bytes_max: u64,
    /// The newest so many bytes are kept in memory; none with 0.
    pub memory_bytes_max: usize,
    /// Whether tokens and names are hidden.
    pub tokens: TokenRecord,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self {
            file: None,
            file_bytes_max: 1 << 30,
            memory_bytes_max: 8 << 20,
            tokens: TokenRecord::default(),
        }
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            scheduler: scheduler::Settings::default(),
            executor_failures_max: 8,
            rebuild_pause: Duration::from_millis(500),
            journal: JournalSettings::default(),
        }
    }
}
