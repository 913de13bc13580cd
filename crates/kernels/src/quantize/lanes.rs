//! Half a block at a time.

use super::{BLOCK, Q8Block, SUM_BLOCK};
use crate::lanes::Lanes;

/// Quantizes a row into its place, `row` of four, in each block.
#[inline(always)]
pub(crate) fn quantize_row<L: Lanes>(input: &[f32], quad: &mut [Q8Block], row: usize) {
    let (blocks, _) = input.as_chunks::<BLOCK>();
    for (values, block) in blocks.iter().zip(quad) {
        let (halves, _) = values.as_chunks::<SUM_BLOCK>();
        let (low, high) = (L::load(&halves[0]), L::load(&halves[1]));
        let largest = low.abs().max(high.abs()).largest();
        let scale = largest / 127.0;
        let inverse = L::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let low = low.mul(inverse).round();
        let high = high.mul(inverse).round();
        let (low_values, high_values) = block.values[row].split_at_mut(SUM_BLOCK / 4);
        low_values.copy_from_slice(&low.to_i8_groups());
        high_values.copy_from_slice(&high.to_i8_groups());
        // Integers below 2^24 add up exactly in floats.
        let (low_sum, high_sum) = (low.sum(), high.sum());
        block.scales[row] = scale;
        block.sums[row] = [low_sum as i32, high_sum as i32];
        block.scaled_sums[row] = scale * (low_sum + high_sum);
    }
}
