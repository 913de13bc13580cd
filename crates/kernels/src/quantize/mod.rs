//! Activations as matrix products read them if not as floats: as 8-bit integers, or rounded to bfloat16 (`bf16.rs`).
//!
//! As integers, each 32 consecutive values of a row share one scale, `value ≈ scale × integer` with integers in
//! -127..=127. Rows lie in quads (`quads.rs`): the integers of four rows stand together with their scales. The sums of
//! the integers travel along, so that the product can take the zero point or the minimum of a weight block out of its
//! inner loop.

mod bf16;
mod lanes;
mod quads;
mod scalar;
mod targets;

#[cfg(test)]
mod cases;

pub use bf16::{Bf16Block, Bf16Rows, round_to_bf16};
pub(crate) use lanes::{RowValues, write_row};
pub use quads::QuadRows;
pub(crate) use scalar::{integer, write_row as write_row_scalar};
pub use targets::RowOutputs;
pub(crate) use targets::{RowTarget, RowTargets};

use std::ops::Range;

use device::cpu::{Cpu, Plain, Rung};

use crate::lanes::{Dots, LaneKernel, Lanes, launch};

/// Values that share a scale.
pub const BLOCK: usize = 32;
/// Values that share a sum: half a block, as some weight formats change scale every 16.
pub(crate) const SUM_BLOCK: usize = 16;
/// Rows that lie together.
pub(crate) const QUAD: usize = 4;
/// Values that a dot-product instruction takes of a row at once.
pub(crate) const GROUP: usize = 4;

/// A block of each of four rows.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Q8Block {
    /// `[row][group]`: four integers each, the first in the lowest byte.
    pub(crate) values: [[i32; BLOCK / GROUP]; QUAD],
    /// Values are integers times this.
    pub(crate) scales: [f32; QUAD],
    /// Scale times the sum of all integers.
    pub(crate) scaled_sums: [f32; QUAD],
    /// Of each row the sums of the integers of both halves, 16 bits each, the first half's lowest.
    pub(crate) sums: [i32; QUAD],
}

// SAFETY: made of integers and floats alone, without padding; all bytes zero is a value.
unsafe impl Plain for Q8Block {}
const _: () = assert!(size_of::<Q8Block>() == 128 + 3 * 16);

/// Two integers of 16 bits in one number, the first lowest.
pub(crate) fn pair(integers: [i16; 2]) -> i32 {
    let [[a, b], [c, d]] = integers.map(i16::to_le_bytes);
    i32::from_le_bytes([a, b, c, d])
}

/// Quantized rows.
pub type Q8Rows = QuadRows<Q8Block>;

impl Q8Rows {
    /// Room for `rows` rows of `width` values.
    ///
    /// # Panics
    /// If `width` is not a multiple of 32.
    pub fn new(rows: usize, width: usize) -> Self {
        assert!(width.is_multiple_of(BLOCK), "a quantized row has whole blocks, got width {width}");
        Self::with_blocks(rows, width)
    }
}

/// Quantizes the first `rows` rows of `input`, `[rows][output.width()]`.
///
/// # Panics
/// If a buffer is too small.
pub fn quantize(cpu: &Cpu, input: &[f32], rows: usize, output: &mut Q8Rows) {
    let width = output.width();
    let outputs = RowOutputs { quantized: Some(output), ..RowOutputs::default() };
    write_rows(cpu, "quantize", input, [rows, width], outputs);
}

/// Writes rows of floats in other forms.
fn write_rows(
    cpu: &Cpu,
    kernel: &str,
    input: &[f32],
    [rows, width]: [usize; 2],
    outputs: RowOutputs<'_>,
) {
    assert!(input.len() >= rows * width, "{kernel}: input too short");
    let targets = RowTargets::new(kernel, [rows, width], outputs);
    cpu.pool.spread(rows, QUAD, width / 8, &|rows| match cpu.isa.rung() {
        Rung::Scalar => {
            for row in rows {
                // SAFETY: workers have different quads, and each row is written once.
                write_row_scalar(&input[row * width..][..width], unsafe { targets.row(row) });
            }
        }
        _ => launch(cpu.isa, Rows { input, targets: &targets, rows, width }),
    });
}

struct Rows<'a> {
    input: &'a [f32],
    targets: &'a RowTargets<'a>,
    rows: Range<usize>,
    width: usize,
}

impl LaneKernel for Rows<'_> {
    #[inline(always)]
    fn run<L: Lanes + Dots>(self) {
        for row in self.rows {
            let input = &self.input[row * self.width..][..self.width];
            // SAFETY: workers have different quads, and each row is written once.
            write_row::<L>(input, unsafe { self.targets.row(row) });
        }
    }
}

/// The scale of values of which none is further from 0 than `largest`, and the factor that makes them integers up to
/// 127.
#[inline(always)]
pub(crate) fn scale(largest: f32) -> (f32, f32) {
    (largest / 127.0, if largest > 0.0 { 127.0 / largest } else { 0.0 })
}
