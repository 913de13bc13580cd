//! Where ids, seeds and the date come from. The rest of the front door is a function of the request and of these.

use std::time::SystemTime;

/// Ids, seeds and the date.
pub trait Source: Send + Sync {
    /// A new id, unique among all servers: letters and digits.
    fn id(&self) -> String;
    /// A seed for a request that names none.
    fn seed(&self) -> u64;
    /// The date.
    fn now(&self) -> SystemTime;
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

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

fn random() -> u64 {
    getrandom::u64().expect("an operating system without random numbers cannot serve")
}
