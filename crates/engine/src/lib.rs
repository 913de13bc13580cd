//! The step loop: one OS thread a replica, which joins the scheduler and an executor.
//!
//! Async ends here. [`EngineHandle`] is what the rest of the program holds: it answers at once whether a request is
//! taken, and gives out a [`Generation`], the stream of one request's events. The thread never waits for a reader: a
//! stream has room for every event that its request can have. Dropping a `Generation` aborts its request.
//!
//! An executor that takes two steps at once gets the next one before the events of the last are out, so that a device
//! need not wait for the host.
//!
//! When a step fails as a whole, by a fault or a panic of the executor, the executor is built again and the requests
//! are computed again in it, so their streams go on; one that is to blame ends alone (see `scheduler`). An executor
//! that keeps failing makes the engine give up: it ends what it has and refuses what comes.
//!
//! The thread is `replica.rs`; it knows its clock and its channel only as arguments of `run`.

mod clock;
mod command;
mod engine;
mod executor_guard;
mod generation;
mod handle;
mod replica;
mod reports;
mod settings;
mod shared;
mod streams;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use engine::Engine;
pub use generation::Generation;
pub use handle::{EngineHandle, NewRequest};
pub use reports::{PendingReport, Reports, RequestReport};
pub use scheduler::{
    Cause, Explanation, Miss, Phase, PolicyKind, Preemption, PreemptionReason,
    Settings as SchedulerSettings,
};
pub use settings::{EngineSettings, JournalSettings, TokenRecord};
pub use shared::{EngineState, EngineStats};

#[cfg(test)]
mod tests;
