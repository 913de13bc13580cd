//! The meaning: one value at a time.

use super::{BLOCK, Q8RowMut, SUM_BLOCK};

pub(crate) fn quantize_row(input: &[f32], output: Q8RowMut<'_>) {
    for (index, block) in input.chunks_exact(BLOCK).enumerate() {
        let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scale = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let integers = &mut output.values[index * BLOCK..][..BLOCK];
        for (integer, value) in integers.iter_mut().zip(block) {
            *integer = (value * inverse).round_ties_even() as i8;
        }
        let sum = |half: usize| -> i32 {
            integers[half * SUM_BLOCK..][..SUM_BLOCK].iter().copied().map(i32::from).sum()
        };
        output.scales[index] = scale;
        output.sums[2 * index] = sum(0);
        output.sums[2 * index + 1] = sum(1);
        output.scaled_sums[index] = scale * (sum(0) + sum(1)) as f32;
    }
}
