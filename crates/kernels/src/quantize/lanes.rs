//! Half a block at a time.

use super::{BLOCK, Bf16Block, Q8Block, RowTarget, SUM_BLOCK, pair, scale};
use crate::lanes::{LANES, Lanes};

/// A row whose values are made where they are written.
pub(crate) trait RowValues<L: Lanes> {
    /// Sixteen values from `first` on, or as many as there are.
    fn lanes(&self, first: usize) -> L;
}

/// Floats as they are.
impl<L: Lanes> RowValues<L> for &[f32] {
    #[inline(always)]
    fn lanes(&self, first: usize) -> L {
        L::load_some(&self[first..])
    }
}

/// Writes a row.
#[inline(always)]
pub(crate) fn write_row<L: Lanes>(values: impl RowValues<L>, target: RowTarget<'_>) {
    let RowTarget { width, mut floats, quantized, mut rounded } = target;
    if let Some((quad, row)) = quantized {
        for (index, block) in quad.iter_mut().enumerate() {
            let first = index * BLOCK;
            let (low, high) = (values.lanes(first), values.lanes(first + SUM_BLOCK));
            store(low, first, &mut floats, &mut rounded);
            store(high, first + SUM_BLOCK, &mut floats, &mut rounded);
            quantize_block(low, high, block, row);
        }
    } else {
        for first in (0..width).step_by(LANES) {
            store(values.lanes(first), first, &mut floats, &mut rounded);
        }
    }
}

/// Stores sixteen values of a row from `first` on, or as many as there are.
#[inline(always)]
fn store<L: Lanes>(
    values: L,
    first: usize,
    floats: &mut Option<&mut [f32]>,
    rounded: &mut Option<(&mut [Bf16Block], usize)>,
) {
    if let Some(floats) = floats {
        let end = floats.len().min(first + LANES);
        values.store_some(&mut floats[first..end]);
    }
    if let Some((quad, row)) = rounded {
        values.store_bf16(quad[first / BLOCK].half(*row, first % BLOCK / LANES));
    }
}

#[inline(always)]
fn quantize_block<L: Lanes>(low: L, high: L, block: &mut Q8Block, row: usize) {
    let (scale, inverse) = scale(low.abs().max(high.abs()).largest());
    let inverse = L::splat(inverse);
    let (values, sums) = L::to_i8_block(low.mul(inverse), high.mul(inverse));
    block.values[row] = values;
    block.scales[row] = scale;
    block.sums[row] = pair(sums);
    block.scaled_sums[row] = scale * f32::from(sums[0] + sums[1]);
}

/// Half a block is a vector.
const _: () = assert!(SUM_BLOCK == LANES);
