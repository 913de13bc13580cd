//! Half a block at a time.

use super::{BLOCK, Q8RowMut, SUM_BLOCK};
use crate::lanes::Lanes;

#[inline(always)]
pub(crate) fn quantize_row<L: Lanes>(input: &[f32], output: Q8RowMut<'_>) {
    let (halves, _) = input.as_chunks::<SUM_BLOCK>();
    let (integers, _) = output.values.as_chunks_mut::<SUM_BLOCK>();
    for index in 0..input.len() / BLOCK {
        let low = L::load(&halves[2 * index]);
        let high = L::load(&halves[2 * index + 1]);
        let largest = low.abs().max(high.abs()).largest();
        let scale = largest / 127.0;
        let inverse = L::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let low = low.mul(inverse).round();
        let high = high.mul(inverse).round();
        integers[2 * index] = low.to_i8();
        integers[2 * index + 1] = high.to_i8();
        // Integers below 2^24 add up exactly in floats.
        let (low_sum, high_sum) = (low.sum(), high.sum());
        output.scales[index] = scale;
        output.sums[2 * index] = low_sum as i32;
        output.sums[2 * index + 1] = high_sum as i32;
        output.scaled_sums[index] = scale * (low_sum + high_sum);
    }
}
