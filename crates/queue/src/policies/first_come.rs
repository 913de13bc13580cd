//! First come, first served, whoever comes.

use super::{Arrival, Policy};
use crate::Place;

#[derive(Debug)]
pub(super) struct FirstCome;

impl Policy for FirstCome {
    fn place(&mut self, _arrival: &Arrival) -> Place {
        Place::default()
    }

    fn lets_pass(&self) -> bool {
        false
    }
}
