//! What the scheduler is proved with, on a virtual clock: a simulation is a function of its seed.
//!
//! [`workload`] are the loads under which policies are compared; `simulate` runs them. [`waits`] compares the waits
//! that are predicted with those that come. [`host`] are conversations for which blocks are too few. [`day`] sees that
//! nothing grows. [`soak`] drives random requests through random settings, with aborts, lost executors and too few
//! blocks, against a model that knows every token in advance, and checks the invariants after every call.

pub mod day;
pub mod host;
pub mod soak;
pub mod waits;
pub mod workload;
