//! Root-mean-square norm (Zhang and Sennrich 2019): `y = x / sqrt(mean(x²) + epsilon) × weight`, a row at a time.

mod lanes;
mod scalar;

#[cfg(test)]
mod cases;

use device::cpu::{Cpu, DisjointSlice, Rung};

use crate::{
    lanes::launch,
    quantize::{QUAD, RowOutputs, RowTargets},
};

/// Arguments of [`rms_norm`].
pub struct RmsNorm<'a> {
    /// `[rows][width]`
    pub input: &'a [f32],
    /// Rows to normalise.
    pub rows: usize,
    /// `[width]`
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
    /// `[rows][width]`, as the products that follow read them.
    pub output: RowOutputs<'a>,
}

pub(crate) struct Part<'a> {
    pub(crate) input: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) epsilon: f32,
    pub(crate) targets: &'a RowTargets<'a>,
    pub(crate) rows: std::ops::Range<usize>,
}

impl Part<'_> {
    fn row(&self, row: usize) -> &[f32] {
        &self.input[row * self.weight.len()..][..self.weight.len()]
    }
}

/// Normalises rows.
///
/// # Panics
/// If a buffer is too small.
pub fn rms_norm(cpu: &Cpu, args: RmsNorm<'_>) {
    let RmsNorm { input, rows, weight, epsilon, output } = args;
    let width = weight.len();
    assert!(input.len() >= rows * width, "rms_norm: input too short");
    let targets = &RowTargets::new("rms_norm", [rows, width], output);
    cpu.pool.spread(rows, QUAD, width / 4, &|rows| {
        let part = Part { input, weight, epsilon, targets, rows };
        match cpu.isa.rung() {
            Rung::Scalar => scalar::run(part),
            _ => launch(cpu.isa, part),
        }
    });
}

/// Normalises parts of rows in place, one after another: the heads of a query or key, each of `weight.len()` values.
///
/// # Panics
/// If a head does not lie within its row or the buffer is too small.
pub fn rms_norm_heads(cpu: &Cpu, args: RmsNormHeads<'_>) {
    let RmsNormHeads { values, rows, stride, offset, heads, weight, epsilon } = args;
    let width = weight.len();
    assert!(offset + heads * width <= stride, "rms_norm_heads: heads outside of a row");
    assert!(values.len() >= rows * stride, "rms_norm_heads: buffer too short");
    let values = DisjointSlice::new(values);
    cpu.pool.spread(rows, 1, heads * width, &|rows| {
        for row in rows {
            let start = row * stride + offset;
            // SAFETY: workers have different rows.
            let heads = unsafe { values.part(start..start + heads * width) };
            for head in heads.chunks_exact_mut(width) {
                scalar::normalise_in_place(head, weight, epsilon);
            }
        }
    });
}

/// Arguments of [`rms_norm_heads`].
pub struct RmsNormHeads<'a> {
    /// `[rows][stride]`
    pub values: &'a mut [f32],
    /// Rows to work on.
    pub rows: usize,
    /// Values from one row to the next.
    pub stride: usize,
    /// Where the first head begins in a row.
    pub offset: usize,
    /// Heads in a row.
    pub heads: usize,
    /// `[head width]`
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}
