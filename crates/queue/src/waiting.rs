//! The queue itself.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use types::{Fault, FaultKind, RequestId, planted, planted::Planted};

use crate::{Place, Rank};

/// What a queue knows of a request, from its arrival to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Whose ticket.
    pub id: RequestId,
    /// Where it stands.
    pub rank: Rank,
    /// When it came.
    pub arrived: Duration,
    /// Whether it left the queue before and came back.
    pub returned: bool,
}

/// The queue takes no more new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full: {limit} requests wait, the next would wait about {} ms", wait.as_millis())]
pub struct QueueFull {
    /// Most new requests that may wait.
    pub limit: usize,
    /// How long one more is expected to wait.
    pub wait: Duration,
}

impl From<QueueFull> for Fault {
    fn from(full: QueueFull) -> Self {
        let retry_after_ms = full.wait.as_millis().try_into().unwrap_or(u64::MAX);
        Self::new(FaultKind::Overloaded, full.to_string()).with_retry_after_ms(retry_after_ms)
    }
}

/// Waiting requests with what belongs to each, in order of rank. Every operation takes logarithmic time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WaitingQueue<T> {
    limit: usize,
    entries: BTreeMap<Rank, (Ticket, T)>,
    ranks: BTreeMap<RequestId, Rank>,
    arrivals: u64,
    returned: usize,
}

impl<T> WaitingQueue<T> {
    /// A queue for at most `limit` new requests.
    pub fn new(limit: usize) -> Self {
        Self { limit, entries: BTreeMap::new(), ranks: BTreeMap::new(), arrivals: 0, returned: 0 }
    }

    /// Whether there is no room for one more new request.
    pub fn is_full(&self) -> bool {
        self.new_len() >= self.limit && !planted::is(Planted::OverfullQueue)
    }

    /// Most new requests that may wait.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The number of the next arrival.
    pub fn next_arrival(&self) -> u64 {
        self.arrivals
    }

    /// Lets a request in that arrived at `now`. An id comes once.
    ///
    /// # Panics
    /// When the queue is full.
    pub fn push(&mut self, id: RequestId, place: Place, now: Duration, body: T) {
        assert!(!self.is_full(), "the caller saw room for {id}");
        let rank = Rank { place, arrival: self.arrivals };
        self.arrivals += 1;
        self.insert(Ticket { id, rank, arrived: now, returned: false }, body);
    }

    /// Takes a request back that left before, to the place that its rank gives it. Never refused: such requests are as
    /// few as can run at once.
    pub fn put_back(&mut self, ticket: Ticket, body: T) {
        self.returned += 1;
        self.insert(Ticket { returned: true, ..ticket }, body);
    }

    fn insert(&mut self, ticket: Ticket, body: T) {
        let twice = self.ranks.insert(ticket.id, ticket.rank);
        assert!(twice.is_none(), "{} waits already", ticket.id);
        self.entries.insert(ticket.rank, (ticket, body));
    }

    /// The request to be served next.
    pub fn first(&self) -> Option<(&Ticket, &T)> {
        self.entries.first_key_value().map(|(_, (ticket, body))| (ticket, body))
    }

    /// Takes the request to be served next.
    pub fn take_first(&mut self) -> Option<(Ticket, T)> {
        let (_, (ticket, body)) = self.entries.pop_first()?;
        self.ranks.remove(&ticket.id);
        self.returned -= usize::from(ticket.returned);
        Some((ticket, body))
    }

    /// A request that waits, wherever it stands.
    pub fn get(&self, id: RequestId) -> Option<(&Ticket, &T)> {
        let rank = self.ranks.get(&id)?;
        self.entries.get(rank).map(|(ticket, body)| (ticket, body))
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, id: RequestId) -> Option<(&Ticket, &mut T)> {
        let rank = self.ranks.get(&id)?;
        self.entries.get_mut(rank).map(|(ticket, body)| (&*ticket, body))
    }

    /// Takes a request out, wherever it stands.
    pub fn remove(&mut self, id: RequestId) -> Option<(Ticket, T)> {
        let rank = self.ranks.remove(&id)?;
        let (ticket, body) = self.entries.remove(&rank)?;
        self.returned -= usize::from(ticket.returned);
        Some((ticket, body))
    }

    /// All that wait, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Ticket, &T)> {
        self.entries.values().map(|(ticket, body)| (ticket, body))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many wait that never left the queue; these count against the limit.
    pub fn new_len(&self) -> usize {
        self.entries.len() - self.returned
    }

    /// Checks what must always hold. For tests and simulation.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn invariants(&self) {
        assert!(self.new_len() <= self.limit, "more new requests than the limit");
        assert_eq!(self.ranks.len(), self.entries.len(), "index and entries differ");
        let returned = self.entries.values().filter(|(ticket, _)| ticket.returned).count();
        assert_eq!(returned, self.returned, "returned requests miscounted");
        for (rank, (ticket, _)) in &self.entries {
            assert_eq!(*rank, ticket.rank, "an entry stands in another's place");
            assert_eq!(self.ranks.get(&ticket.id), Some(rank), "{} is not indexed", ticket.id);
            assert!(rank.arrival < self.arrivals, "{} has not arrived", ticket.id);
        }
    }
}

#[cfg(test)]
mod tests;
