//! The real queue, scheduler and KV manager on a virtual clock.
//!
//! [`run()`] serves a [trace] on replicas of a [`Device`] whose steps take what a model of it says, and tells what
//! each request got; [`report`] and [`plot`] sum that up. A simulation is a function of its arguments.

pub mod device;
pub mod generate;
pub mod plot;
mod random;
pub mod report;
pub mod run;
pub mod trace;

pub use device::{Device, contenders};
pub use random::Random;
pub use run::run;
pub use trace::Job;

#[cfg(test)]
mod tests;
