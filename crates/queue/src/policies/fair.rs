//! Tenants share by their weights, counted in tokens; small requests go before large ones; nobody waits for ever.
//!
//! Self-clocked fair queueing: each tenant has a counter of the cost, over its weight, of all it has asked for, and
//! the clock is where the counter stood behind whoever started last. A request begins at its tenant's counter, or at
//! the clock if the tenant was away: idle time earns nothing. It is placed behind that beginning by a multiple of its
//! own cost, so that smaller ones may pass, also those of its own tenant; the clock runs on as they do, and reaches it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Arrival, OVERTAKEN_COSTS_MAX, Policy};
use crate::Place;

/// Counters are in parts of a token, so that weights divide well.
const PARTS: u64 = 1024;
/// Tenants remembered before those are forgotten whose counters the clock has passed.
const TENANTS_MAX: usize = 4096;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Fair {
    weights: BTreeMap<Arc<str>, u32>,
    clock: u64,
    /// By tenant, in parts of a token over its weight.
    counters: BTreeMap<Arc<str>, u64>,
}

impl Fair {
    pub(super) fn new(weights: BTreeMap<Arc<str>, u32>) -> Self {
        Self { weights, clock: 0, counters: BTreeMap::new() }
    }

    fn parts(&self, tenant: &Arc<str>, cost: u64) -> u64 {
        let weight = self.weights.get(tenant).copied().unwrap_or(1).max(1);
        cost * PARTS / u64::from(weight)
    }

    /// Where the next request of a tenant begins.
    fn begin(&self, tenant: &Arc<str>) -> u64 {
        self.counters.get(tenant).copied().unwrap_or(0).max(self.clock)
    }
}

impl Policy for Fair {
    fn place(&self, arrival: &Arrival) -> Place {
        let parts = self.parts(&arrival.tenant, arrival.cost);
        let tag = self.begin(&arrival.tenant) + OVERTAKEN_COSTS_MAX * parts;
        Place { class: arrival.priority, tag }
    }

    fn arrived(&mut self, arrival: &Arrival) {
        let end = self.begin(&arrival.tenant) + self.parts(&arrival.tenant, arrival.cost);
        if self.counters.len() >= TENANTS_MAX {
            self.counters.retain(|_, counter| *counter > self.clock);
        }
        self.counters.insert(arrival.tenant.clone(), end);
    }

    fn started(&mut self, place: Place, tenant: &Arc<str>, cost: u64) {
        let end = place.tag.saturating_sub((OVERTAKEN_COSTS_MAX - 1) * self.parts(tenant, cost));
        self.clock = self.clock.max(end);
    }

    fn ended(&mut self, tenant: &Arc<str>, expected: u64, real: u64) {
        let (expected, real) = (self.parts(tenant, expected), self.parts(tenant, real));
        if let Some(counter) = self.counters.get_mut(tenant) {
            *counter = (*counter + real).saturating_sub(expected);
        }
    }
}
