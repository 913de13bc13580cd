//! The smallest first, with ageing: a request is placed behind all work that has started when it arrives, by a multiple
//! of its own cost.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Arrival, OVERTAKEN_COSTS_MAX, Policy};
use crate::Place;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Shortest {
    /// The cost of all requests that have started.
    started: u64,
}

impl Policy for Shortest {
    fn place(&self, arrival: &Arrival) -> Place {
        let tag = self.started + OVERTAKEN_COSTS_MAX * arrival.cost;
        Place { class: arrival.priority, tag }
    }

    fn started(&mut self, _place: Place, _tenant: &Arc<str>, cost: u64) {
        self.started += cost;
    }
}
