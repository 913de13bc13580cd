//! What to compute next, for which request.
//!
//! [`Scheduler::plan`] turns state into one step's plan, whatever runs the model turns the plan into an outcome, and
//! [`Scheduler::commit`] folds the outcome back. There is no prefill phase and no decode phase: a request has tokens
//! known and positions computed, and a step hands out a budget of positions. Where the executor takes two steps at
//! once, the second is planned before the tokens of the first are known.
//!
//! Pure: no clock, no threads, no I/O, no randomness, containers in a fixed order. Time is an argument, a duration
//! since an origin that the caller chose. The same calls give the same plans.
//!
//! What always holds ([`Scheduler::invariants`] checks it):
//! - A request ends once, and its tokens come out once each, preempted or not.
//! - The running request of the lowest rank always advances: the one of the highest rank gives way when blocks run out.
//! - A request that was let in fits when it is alone, so it can always be finished.
//!
//! Where each request's time goes is kept account of, every moment once ([`Scheduler::take_ended`]).
//!
//! Where the executor takes drafts, a request's next tokens may be guessed from its own, and are computed at once
//! (`drafter.rs`). Its tokens are the same with and without.
//!
//! A step is put together by passes, one file each in `passes`; a new concern is a new pass.

mod account;
mod commit;
mod drafter;
mod error;
mod explanation;
mod forecast;
mod growth;
mod invariants;
mod limits;
mod line;
mod outputs;
mod pace;
mod passes;
mod plan;
mod preempt;
mod prompt_logprobs;
mod recent;
mod scheduler;
mod sequence;
mod settings;
mod slots;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::Error;
pub use explanation::{
    Cause, Explanation, Phase, Preemption, PreemptionReason, PrefixUse, Steps, Times,
};
pub use forecast::Forecast;
pub use kv::Miss;
pub use limits::{Limits, Refusal};
pub use queue::{PolicyKind, QueueFull};
pub use scheduler::{Counters, Scheduler};
pub use settings::Settings;

#[cfg(test)]
mod tests;
