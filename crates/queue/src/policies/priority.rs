//! Strictly by priority, and first come, first served within one. A running request gives way to a waiting one of a
//! lower class when there is no room for both.

use serde::{Deserialize, Serialize};

use super::{Arrival, Policy};
use crate::Place;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Priority;

impl Policy for Priority {
    fn place(&self, arrival: &Arrival) -> Place {
        Place { class: arrival.priority, tag: 0 }
    }

    fn preempts_classes(&self) -> bool {
        true
    }
}
