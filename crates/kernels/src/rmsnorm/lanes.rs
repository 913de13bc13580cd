//! Sixteen values at a time; the squares add up in four independent sums.

use super::Part;
use crate::{
    lanes::{Dots, LANES, LaneKernel, Lanes},
    quantize::{RowValues, write_row},
};

impl LaneKernel for Part<'_> {
    #[inline(always)]
    fn run<L: Lanes + Dots>(self) {
        for row in self.rows.clone() {
            let input = self.row(row);
            let factor = factor::<L>(input, self.epsilon);
            let normed = Normed { input, weight: self.weight, factor };
            // SAFETY: workers have different quads, and each row is written once.
            write_row::<L>(normed, unsafe { self.targets.row(row) });
        }
    }
}

struct Normed<'a, L> {
    input: &'a [f32],
    weight: &'a [f32],
    factor: L,
}

impl<L: Lanes> RowValues<L> for Normed<'_, L> {
    #[inline(always)]
    fn lanes(&self, first: usize) -> L {
        let (input, weight): (L, L) = (self.input.lanes(first), self.weight.lanes(first));
        input.mul(self.factor).mul(weight)
    }
}

/// One divided by the root of the mean square, in all lanes.
#[inline(always)]
fn factor<L: Lanes>(input: &[f32], epsilon: f32) -> L {
    let mut sums = [L::splat(0.0); 4];
    let (whole, rest) = input.as_chunks::<{ 4 * LANES }>();
    for values in whole {
        for (values, sum) in values.as_chunks().0.iter().zip(&mut sums) {
            let values = L::load(values);
            *sum = values.fma(values, *sum);
        }
    }
    for (values, sum) in rest.chunks(LANES).zip(&mut sums) {
        let values = L::load_some(values);
        *sum = values.fma(values, *sum);
    }
    let squares = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
    L::splat(1.0 / (squares / input.len() as f32 + epsilon).sqrt())
}
