//! The meaning: one value at a time.

use half::bf16;

use super::{BLOCK, GROUP, Q8Block, RowTarget, SUM_BLOCK, pair, scale};
use crate::lanes::LANES;

fn quantize_row(input: &[f32], quad: &mut [Q8Block], row: usize) {
    for (values, block) in input.chunks_exact(BLOCK).zip(quad) {
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let (scale, inverse) = scale(largest);
        let integer = |index: usize| (values[index] * inverse).round_ties_even() as i8;
        for (group, target) in block.values[row].iter_mut().enumerate() {
            let bytes = std::array::from_fn(|index| integer(group * GROUP + index).cast_unsigned());
            *target = i32::from_le_bytes(bytes);
        }
        let sum = |half: usize| -> i16 {
            (0..SUM_BLOCK).map(|index| i16::from(integer(half * SUM_BLOCK + index))).sum()
        };
        block.scales[row] = scale;
        block.sums[row] = pair([sum(0), sum(1)]);
        block.scaled_sums[row] = scale * f32::from(sum(0) + sum(1));
    }
}

/// Writes a row.
pub(crate) fn write_row(values: &[f32], target: RowTarget<'_>) {
    if let Some(floats) = target.floats {
        floats.copy_from_slice(values);
    }
    if let Some((quad, row)) = target.quantized {
        quantize_row(values, quad, row);
    }
    if let Some((quad, row)) = target.rounded {
        for (index, values) in values.chunks(LANES).enumerate() {
            let half = quad[index / 2].half(row, index % 2);
            *half = std::array::from_fn(|lane| {
                values.get(lane).map_or(0, |value| bf16::from_f32(*value).to_bits())
            });
        }
    }
}

/// Integer `index` of a row's block.
pub(crate) fn integer(block: &Q8Block, row: usize, index: usize) -> i32 {
    let bytes = block.values[row][index / GROUP].to_le_bytes();
    i32::from(bytes[index % GROUP].cast_signed())
}
