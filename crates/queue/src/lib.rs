//! Requests that wait for their turn.
//!
//! Pure: no clock, no threads, no I/O. Time is an argument, a duration since an origin that the caller chose.
//!
//! What always holds: requests leave in order of their [`Rank`]; a rank is given once, at arrival, and kept, so a
//! request that comes back after a preemption stands where it stood, in front of all that came later. The limit refuses
//! new requests only: one that was let in is never turned away.
//!
//! A [`Policy`] is a way to make a [`Rank`].

mod policies;
mod rank;
mod waiting;

pub use policies::{ActivePolicy, Arrival, Policy, PolicyKind};
pub use rank::{Place, Rank};
pub use waiting::{QueueFull, Ticket, WaitingQueue};
