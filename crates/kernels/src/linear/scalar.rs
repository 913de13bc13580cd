//! The meaning: one output of one row at a time.

use std::ops::Range;

use super::{
    BLOCK, DenseFormat, PANEL, QuantizedLayout, Zero,
    packed::{Record, dense_weight},
};
use crate::quantize::{Q8Rows, QUAD, integer};

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
                f64::from(*input) * f64::from(dense_weight(panel, format, column, output))
            });
            products.sum::<f64>() as f32
        });
        emit(row, &values);
    }
}

pub(super) fn quantized(
    layout: QuantizedLayout,
    panel: &[u8],
    input: &Q8Rows,
    rows: Range<usize>,
    mut emit: impl FnMut(usize, &[f32; PANEL]),
) {
    let records: Vec<Record<'_>> =
        (0..input.width() / BLOCK).map(|block| Record::new(layout, panel, block)).collect();
    for row in rows {
        let lane = row % QUAD;
        let values = std::array::from_fn(|output| {
            let mut sum = 0.0_f32;
            for (record, block) in records.iter().zip(input.quad(row / QUAD)) {
                for part in 0..layout.parts() {
                    let inputs = part * layout.scale_block..(part + 1) * layout.scale_block;
                    let mut dot = 0;
                    for index in inputs {
                        let quantum = i32::from(record.quantum(output, index));
                        let point = match layout.zero {
                            Zero::Point(point) => i32::from(point),
                            Zero::Minimum => 0,
                        };
                        dot += (quantum - point) * integer(block, lane, index);
                    }
                    sum += dot as f32 * (record.scale(output, part) * block.scales[lane]);
                }
                if layout.zero == Zero::Minimum {
                    sum += record.minimum(output) * block.scaled_sums[lane];
                }
            }
            sum
        });
        emit(row, &values);
    }
}
