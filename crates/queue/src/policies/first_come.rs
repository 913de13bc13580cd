//! First come, first served, whoever comes.

use serde::{Deserialize, Serialize};

use super::{Arrival, Policy};
use crate::Place;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FirstCome;

impl Policy for FirstCome {
    fn place(&self, _arrival: &Arrival) -> Place {
        Place::default()
    }

    fn lets_pass(&self) -> bool {
        false
    }
}
