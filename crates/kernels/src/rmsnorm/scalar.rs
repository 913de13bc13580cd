//! The meaning: one value at a time, the sum in double precision.

use super::Part;
use crate::quantize::write_row_scalar;

pub(super) fn run(part: Part<'_>) {
    for row in part.rows.clone() {
        let mut normed = part.row(row).to_vec();
        normalise_in_place(&mut normed, part.weight, part.epsilon);
        // SAFETY: workers have different quads, and each row is written once.
        write_row_scalar(&normed, unsafe { part.targets.row(row) });
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
