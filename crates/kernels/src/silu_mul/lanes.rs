//! Sixteen values at a time.

use super::Part;
use crate::{
    lanes::{Dots, LaneKernel, Lanes},
    quantize::{RowValues, write_row},
};

impl LaneKernel for Part<'_> {
    #[inline(always)]
    fn run<L: Lanes + Dots>(self) {
        for row in self.rows.clone() {
            let (gate, up) = self.row(row);
            // SAFETY: workers have different quads, and each row is written once.
            write_row::<L>(Gated { gate, up }, unsafe { self.targets.row(row) });
        }
    }
}

struct Gated<'a> {
    gate: &'a [f32],
    up: &'a [f32],
}

impl<L: Lanes> RowValues<L> for Gated<'_> {
    #[inline(always)]
    fn lanes(&self, first: usize) -> L {
        let (gate, up): (L, L) = (self.gate.lanes(first), self.up.lanes(first));
        let (zero, one) = (L::splat(0.0), L::splat(1.0));
        gate.div(one.add(zero.sub(gate).exp())).mul(up)
    }
}
