//! The meaning: one value at a time.

use super::Part;
use crate::quantize::{QUAD, quantize_row_scalar};

pub(super) fn run(part: Part<'_>) {
    let width = part.width;
    for row in part.rows {
        let (gate, up) = part.gate_up[row * 2 * width..][..2 * width].split_at(width);
        // SAFETY: workers have different rows.
        let output = unsafe { part.output.part(row * width..(row + 1) * width) };
        for ((output, &gate), &up) in output.iter_mut().zip(gate).zip(up) {
            *output = gate / (1.0 + (-gate).exp()) * up;
        }
        if let Some(quantized) = part.quantized {
            // SAFETY: workers have different quads.
            quantize_row_scalar(output, unsafe { quantized.quad_of(row) }, row % QUAD);
        }
    }
}
