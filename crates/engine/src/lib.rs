//! The step loop: one OS thread a replica, which joins the scheduler and an executor.
//!
//! Async ends here. [`EngineHandle`] is what the rest of the program holds: it answers at once whether a request is
//! taken, and gives out a [`Generation`], the stream of one request's events. The thread never waits for a reader, and
//! dropping a `Generation` aborts its request.

mod generation;
mod handle;
mod settings;
mod thread;

pub use generation::Generation;
pub use handle::{EngineHandle, EngineState, EngineStats, NewRequest};
pub use settings::EngineSettings;
pub use thread::Engine;
