//! Where ids, seeds and the date come from. The rest of the front door is a function of the request and of these.

use std::time::{SystemTime, UNIX_EPOCH};

/// Ids, seeds and the date.
pub trait Source: Send + Sync {
    /// A new id, unique among all servers: letters and digits.
    fn id(&self) -> String;
    /// A seed for a request that names none.
    fn seed(&self) -> u64;
    /// Seconds since 1970.
    fn unix_seconds(&self) -> u64;
}

/// Random ids and seeds, and the system's clock.
pub(crate) struct RandomSource;

impl Source for RandomSource {
    fn id(&self) -> String {
        format!("{:016x}{:016x}", random(), random())
    }

    fn seed(&self) -> u64 {
        random()
    }

    fn unix_seconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

fn random() -> u64 {
    getrandom::u64().expect("an operating system without random numbers cannot serve")
}
