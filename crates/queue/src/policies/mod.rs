//! Who is served first.
//!
//! A policy places a request once, when it arrives, and is then told that it has. Waiting makes no difference to the
//! order between two requests, so ageing is part of the place: later arrivals get later places, however small they are.

mod deadline;
mod fair;
mod first_come;
mod priority;
mod shortest;

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::Place;

/// A request may be overtaken by later ones with this many times its own cost, of each tenant where these share, and by
/// no more: the price of letting small ones go first. With less, several large ones that have waited long enough stand
/// in the way of all small ones as soon as the device is nearly busy.
const OVERTAKEN_COSTS_MAX: u64 = 16;

/// A request as a policy sees it when it arrives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Arrival {
    /// When.
    pub now: Duration,
    /// Lower goes first, where the policy has classes.
    pub priority: i32,
    /// On whose behalf.
    pub tenant: Arc<str>,
    /// What it is expected to cost, in tokens of a prompt.
    pub cost: u64,
    /// How long after its arrival its first token is due.
    pub due: Option<Duration>,
}

/// An order of service.
pub trait Policy: fmt::Debug + Send {
    /// Where a request goes that arrives now.
    fn place(&self, arrival: &Arrival) -> Place;

    /// A request was let in, and is where it was placed.
    fn arrived(&mut self, _arrival: &Arrival) {}

    /// A request that was placed so left the queue for the first time.
    fn started(&mut self, _place: Place, _tenant: &Arc<str>, _cost: u64) {}

    /// A request ended that was expected to cost something and did cost something.
    fn ended(&mut self, _tenant: &Arc<str>, _expected: u64, _real: u64) {}

    /// Whether one that comes now may go before those that came earlier.
    fn lets_pass(&self) -> bool {
        true
    }

    /// Whether a running request gives way to a waiting one of a lower class.
    fn preempts_classes(&self) -> bool {
        false
    }
}

/// The policies there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyKind {
    /// In order of arrival; see `first_come.rs`.
    FirstCome,
    /// By priority, and a lower one makes room for itself; see `priority.rs`.
    Priority,
    /// Tenants share by their weights, small requests before large ones, with ageing; see `fair.rs`.
    #[default]
    Fair,
    /// The smallest first, with ageing; see `shortest.rs`.
    Shortest,
    /// By when the first token is due; see `deadline.rs`.
    Deadline,
}

impl PolicyKind {
    /// All of them, with the names that settings use.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("first-come", Self::FirstCome),
        ("priority", Self::Priority),
        ("fair", Self::Fair),
        ("shortest", Self::Shortest),
        ("deadline", Self::Deadline),
    ];

    /// A policy that has seen no request. `weights` are the tenants' shares, 1 where nothing is said.
    pub fn start(self, weights: &BTreeMap<Arc<str>, u32>) -> ActivePolicy {
        ActivePolicy(match self {
            Self::FirstCome => State::FirstCome(first_come::FirstCome),
            Self::Priority => State::Priority(priority::Priority),
            Self::Fair => State::Fair(fair::Fair::new(weights.clone())),
            Self::Shortest => State::Shortest(shortest::Shortest::default()),
            Self::Deadline => State::Deadline(deadline::Deadline),
        })
    }
}

/// One of the policies, with what it remembers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActivePolicy(State);

#[derive(Clone, Debug, Serialize, Deserialize)]
enum State {
    FirstCome(first_come::FirstCome),
    Priority(priority::Priority),
    Fair(fair::Fair),
    Shortest(shortest::Shortest),
    Deadline(deadline::Deadline),
}

impl Deref for ActivePolicy {
    type Target = dyn Policy;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            State::FirstCome(policy) => policy,
            State::Priority(policy) => policy,
            State::Fair(policy) => policy,
            State::Shortest(policy) => policy,
            State::Deadline(policy) => policy,
        }
    }
}

impl DerefMut for ActivePolicy {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match &mut self.0 {
            State::FirstCome(policy) => policy,
            State::Priority(policy) => policy,
            State::Fair(policy) => policy,
            State::Shortest(policy) => policy,
            State::Deadline(policy) => policy,
        }
    }
}

#[cfg(test)]
mod tests;
