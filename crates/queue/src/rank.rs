//! The order of service.

/// Where a request stands: the lower rank is served first and preempted last. No two requests share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// The class; lower is served first.
    pub priority: i32,
    /// Within a class, the number of the arrival.
    pub arrival: u64,
}
