//! The meaning: one value at a time.

use super::Part;
use crate::quantize::write_row_scalar;

pub(super) fn run(part: Part<'_>) {
    for row in part.rows.clone() {
        let (gate, up) = part.row(row);
        let pairs = gate.iter().zip(up);
        let gated: Vec<f32> = pairs.map(|(&gate, &up)| gate / (1.0 + (-gate).exp()) * up).collect();
        // SAFETY: workers have different quads, and each row is written once.
        write_row_scalar(&gated, unsafe { part.targets.row(row) });
    }
}
