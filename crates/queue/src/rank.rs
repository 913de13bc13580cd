//! The order of service.

use serde::{Deserialize, Serialize};

/// Where a policy places a request. The lower place is served first and preempted last.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Place {
    /// The class: all of a lower one go before.
    pub class: i32,
    /// Within a class; what it counts is the policy's own.
    pub tag: u64,
}

/// Where a request stands: its place, and among equals the order of arrival. No two requests share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rank {
    /// As the policy said.
    pub place: Place,
    /// The number of the arrival.
    pub arrival: u64,
}
