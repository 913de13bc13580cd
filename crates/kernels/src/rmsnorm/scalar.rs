//! The meaning: one value at a time, the sum in double precision.

use super::Part;
use crate::quantize::{QUAD, quantize_row_scalar};

pub(super) fn run(part: Part<'_>) {
    let width = part.weight.len();
    for row in part.rows {
        let range = row * width..(row + 1) * width;
        // SAFETY: workers have different rows.
        let output = unsafe { part.output.part(range.clone()) };
        output.copy_from_slice(&part.input[range]);
        normalise_in_place(output, part.weight, part.epsilon);
        if let Some(quantized) = part.quantized {
            // SAFETY: workers have different quads.
            quantize_row_scalar(output, unsafe { quantized.quad_of(row) }, row % QUAD);
        }
    }
}

pub(super) fn normalise_in_place(values: &mut [f32], weight: &[f32], epsilon: f32) {
    let squares: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    let mean = squares / values.len() as f64;
    let factor = (1.0 / (mean + f64::from(epsilon)).sqrt()) as f32;
    for (value, weight) in values.iter_mut().zip(weight) {
        *value = *value * factor * weight;
    }
}
