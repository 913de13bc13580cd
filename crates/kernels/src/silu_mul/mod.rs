//! The gate of a SwiGLU feed-forward layer (Shazeer 2020): `silu(gate) × up` with `silu(x) = x / (1 + e^-x)`.

mod lanes;
mod scalar;

#[cfg(test)]
mod cases;

use device::cpu::{Cpu, DisjointSlice, Rung};

use crate::{
    lanes::launch,
    quantize::{Q8Block, Q8Rows, Q8Writer, QUAD},
};

/// Arguments of [`silu_mul`].
pub struct SiluMul<'a> {
    /// `[rows][2 × width]`: the gate, then the factor.
    pub gate_up: &'a [f32],
    /// Rows to work on.
    pub rows: usize,
    /// Values in an output row.
    pub width: usize,
    /// `[rows][width]`, for products with dense weights.
    pub output: Option<&'a mut [f32]>,
    /// The same quantized, for products with quantized weights.
    pub quantized: Option<&'a mut Q8Rows>,
}

pub(crate) struct Part<'a> {
    pub(crate) gate_up: &'a [f32],
    pub(crate) width: usize,
    pub(crate) output: Option<&'a DisjointSlice<'a, f32>>,
    pub(crate) quantized: Option<&'a Q8Writer<'a>>,
    pub(crate) rows: std::ops::Range<usize>,
}

impl Part<'_> {
    /// Gate and factor of a row.
    fn row(&self, row: usize) -> (&[f32], &[f32]) {
        self.gate_up[row * 2 * self.width..][..2 * self.width].split_at(self.width)
    }

    /// Where a row goes.
    ///
    /// # Safety
    /// The row is one of this part's, and its targets are not in use already.
    unsafe fn targets(&self, row: usize) -> (Option<&mut [f32]>, Option<(&mut [Q8Block], usize)>) {
        let range = row * self.width..(row + 1) * self.width;
        // SAFETY: workers have different quads of rows.
        unsafe {
            (
                self.output.map(|output| output.part(range)),
                self.quantized.map(|quantized| (quantized.quad_of(row), row % QUAD)),
            )
        }
    }
}

/// Gates rows.
///
/// # Panics
/// If a buffer is too small.
pub fn silu_mul(cpu: &Cpu, args: SiluMul<'_>) {
    let SiluMul { gate_up, rows, width, output, quantized } = args;
    assert!(gate_up.len() >= rows * 2 * width, "silu_mul: input too short");
    assert!(
        output.as_ref().is_none_or(|output| output.len() >= rows * width),
        "silu_mul: output too short"
    );
    if let Some(quantized) = &quantized {
        assert!(
            quantized.width() == width && quantized.rows() >= rows,
            "silu_mul: quantized shape"
        );
    }
    let output = output.map(DisjointSlice::new);
    let quantized = quantized.map(Q8Rows::writer);
    cpu.pool.spread(rows, QUAD, width, &|rows| {
        let (output, quantized) = (output.as_ref(), quantized.as_ref());
        let part = Part { gate_up, width, output, quantized, rows };
        match cpu.isa.rung() {
            Rung::Scalar => scalar::run(part),
            _ => launch(cpu.isa, part),
        }
    });
}
