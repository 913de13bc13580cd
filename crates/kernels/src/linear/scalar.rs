//! The meaning: one output of one row at a time.

use std::ops::Range;

use super::{
    BLOCK, DenseFormat, PANEL, Q8View, QuantizedLayout, SUM_BLOCK, Zero,
    packed::{dense_weight, minimum, quantum, scale},
};

pub(super) fn dense(
    format: DenseFormat,
    panel: &[u8],
    input: &[f32],
    columns: usize,
    rows: Range<usize>,
    mut emit: impl FnMut(usize, &[f32; PANEL]),
) {
    for row in rows {
        let input = &input[row * columns..][..columns];
        let values = std::array::from_fn(|output| {
            let products = input.iter().enumerate().map(|(column, input)| {
                f64::from(*input) * f64::from(dense_weight(panel, format, column * PANEL + output))
            });
            products.sum::<f64>() as f32
        });
        emit(row, &values);
    }
}

pub(super) fn quantized(
    layout: QuantizedLayout,
    panel: &[u8],
    input: Q8View<'_>,
    rows: Range<usize>,
    mut emit: impl FnMut(usize, &[f32; PANEL]),
) {
    let blocks = input.width / BLOCK;
    let record_bytes = panel.len() / blocks;
    for row in rows {
        let values = std::array::from_fn(|output| {
            let mut sum = 0.0_f32;
            for (block, record) in panel.chunks_exact(record_bytes).enumerate() {
                let integers = &input.values[row * input.width + block * BLOCK..][..BLOCK];
                for part in 0..layout.scales() {
                    let inputs = part * layout.scale_block..(part + 1) * layout.scale_block;
                    let mut dot: i32 = inputs
                        .clone()
                        .map(|index| {
                            let quantum = quantum(layout, record, output, index);
                            i32::from(quantum) * i32::from(integers[index])
                        })
                        .sum();
                    if let Zero::Point(point) = layout.zero {
                        let total: i32 = integers[inputs].iter().copied().map(i32::from).sum();
                        dot -= i32::from(point) * total;
                    }
                    let factor =
                        scale(layout, record, output, part) * input.scales[row * blocks + block];
                    sum += dot as f32 * factor;
                }
                if layout.zero == Zero::Minimum {
                    sum += minimum(layout, record, output, 0)
                        * input.scaled_sums[row * blocks + block];
                }
            }
            sum
        });
        emit(row, &values);
    }
}

/// Sums are kept per half block because a zero point is taken out per scale block.
const _: () = assert!(BLOCK == 2 * SUM_BLOCK);
