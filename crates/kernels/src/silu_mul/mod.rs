//! The gate of a SwiGLU feed-forward layer (Shazeer 2020): `silu(gate) × up` with `silu(x) = x / (1 + e^-x)`.

mod lanes;
mod scalar;

#[cfg(test)]
mod cases;

use device::cpu::{Cpu, DisjointSlice, Rung};

use crate::{
    lanes::launch,
    quantize::{Q8Rows, Q8Writer, QUAD},
};

/// Arguments of [`silu_mul`].
pub struct SiluMul<'a> {
    /// `[rows][2 × width]`: the gate, then the factor.
    pub gate_up: &'a [f32],
    /// Rows to work on.
    pub rows: usize,
    /// Values in an output row.
    pub width: usize,
    /// `[rows][width]`
    pub output: &'a mut [f32],
    /// The output once more, quantized, for products with quantized weights.
    pub quantized: Option<&'a mut Q8Rows>,
}

pub(crate) struct Part<'a> {
    pub(crate) gate_up: &'a [f32],
    pub(crate) width: usize,
    pub(crate) output: &'a DisjointSlice<'a, f32>,
    pub(crate) quantized: Option<&'a Q8Writer<'a>>,
    pub(crate) rows: std::ops::Range<usize>,
}

/// Gates rows.
///
/// # Panics
/// If a buffer is too small.
pub fn silu_mul(cpu: &Cpu, args: SiluMul<'_>) {
    let SiluMul { gate_up, rows, width, output, quantized } = args;
    assert!(gate_up.len() >= rows * 2 * width, "silu_mul: input too short");
    assert!(output.len() >= rows * width, "silu_mul: output too short");
    if let Some(quantized) = &quantized {
        assert!(
            quantized.width() == width && quantized.rows() >= rows,
            "silu_mul: quantized shape"
        );
    }
    let output = DisjointSlice::new(output);
    let quantized = quantized.map(Q8Rows::writer);
    cpu.pool.spread(rows, QUAD, width, &|rows| {
        let part = Part { gate_up, width, output: &output, quantized: quantized.as_ref(), rows };
        match cpu.isa.rung() {
            Rung::Scalar => scalar::run(part),
            _ => launch(cpu.isa, part),
        }
    });
}
