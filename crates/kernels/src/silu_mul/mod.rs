//! The gate of a SwiGLU feed-forward layer (Shazeer 2020): `silu(gate) × up` with `silu(x) = x / (1 + e^-x)`.

mod lanes;
mod scalar;

#[cfg(test)]
mod cases;

use device::cpu::{Cpu, Rung};

use crate::{
    lanes::launch,
    quantize::{QUAD, RowOutputs, RowTargets},
};

/// Arguments of [`silu_mul`].
pub struct SiluMul<'a> {
    /// `[rows][2 × width]`: the gate, then the factor.
    pub gate_up: &'a [f32],
    /// Rows to work on.
    pub rows: usize,
    /// Values in an output row.
    pub width: usize,
    /// `[rows][width]`, as the products that follow read them.
    pub output: RowOutputs<'a>,
}

pub(crate) struct Part<'a> {
    pub(crate) gate_up: &'a [f32],
    pub(crate) width: usize,
    pub(crate) targets: &'a RowTargets<'a>,
    pub(crate) rows: std::ops::Range<usize>,
}

impl Part<'_> {
    /// Gate and factor of a row.
    fn row(&self, row: usize) -> (&[f32], &[f32]) {
        self.gate_up[row * 2 * self.width..][..2 * self.width].split_at(self.width)
    }
}

/// Gates rows.
///
/// # Panics
/// If a buffer is too small.
pub fn silu_mul(cpu: &Cpu, args: SiluMul<'_>) {
    let SiluMul { gate_up, rows, width, output } = args;
    assert!(gate_up.len() >= rows * 2 * width, "silu_mul: input too short");
    let targets = &RowTargets::new("silu_mul", [rows, width], output);
    cpu.pool.spread(rows, QUAD, width, &|rows| {
        let part = Part { gate_up, width, targets, rows };
        match cpu.isa.rung() {
            Rung::Scalar => scalar::run(part),
            _ => launch(cpu.isa, part),
        }
    });
}
