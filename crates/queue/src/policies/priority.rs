//! Strictly by priority, and first come, first served within one. A running request gives way to a waiting one of a
//! lower class when there is no room for both.

use super::{Arrival, Policy};
use crate::Place;

#[derive(Debug)]
pub(super) struct Priority;

impl Policy for Priority {
    fn place(&mut self, arrival: &Arrival) -> Place {
        Place { class: arrival.priority, tag: 0 }
    }

    fn preempts_classes(&self) -> bool {
        true
    }
}
