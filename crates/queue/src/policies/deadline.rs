//! By when the first token is due. A request that says nothing is due in ten seconds, so that it is not put off for
//! ever by those that are in a hurry.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Arrival, Policy};
use crate::Place;

const DUE_UNLESS_SAID: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Deadline;

impl Policy for Deadline {
    fn place(&self, arrival: &Arrival) -> Place {
        let due = arrival.now + arrival.due.unwrap_or(DUE_UNLESS_SAID);
        Place { class: arrival.priority, tag: due.as_micros().try_into().unwrap_or(u64::MAX) }
    }
}
