//! Activations as 8-bit integers: each 32 consecutive values of a row share one scale, `value ≈ scale × integer` with
//! integers in -127..=127.
//!
//! Rows lie in quads: for each block of 32 values, the integers of four rows stand together with their scales, so that
//! a matrix product that takes four rows at once reads one stream. The sums of the integers travel along, so that the
//! product can take the zero point or the minimum of a weight block out of its inner loop.

mod lanes;
mod scalar;
mod targets;

#[cfg(test)]
mod cases;

pub(crate) use lanes::{RowValues, write_row};
pub(crate) use scalar::{integer, write_row as write_row_scalar};
pub(crate) use targets::{RowTarget, RowTargets};

use std::ops::Range;

use device::cpu::{AlignedBuffer, Cpu, DisjointSlice, Plain, Rung};

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
pub(crate) struct Q8Block {
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

/// Quantized rows, all of one width.
pub struct Q8Rows {
    width: usize,
    /// `[quad][block]`
    blocks: AlignedBuffer<Q8Block>,
}

impl Q8Rows {
    /// Room for `rows` rows of `width` values.
    ///
    /// # Panics
    /// If `width` is not a multiple of 32.
    pub fn new(rows: usize, width: usize) -> Self {
        assert!(width.is_multiple_of(BLOCK), "a quantized row has whole blocks, got width {width}");
        let blocks = rows.div_ceil(QUAD) * width / BLOCK;
        Self { width, blocks: AlignedBuffer::zeroed_in_huge_pages(blocks) }
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows there is room for.
    pub fn rows(&self) -> usize {
        (self.blocks.len() * BLOCK).checked_div(self.width).unwrap_or(0) * QUAD
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.blocks.len() * size_of::<Q8Block>()
    }

    /// The blocks of rows `4 × quad ..`, in order.
    pub(crate) fn quad(&self, quad: usize) -> &[Q8Block] {
        let blocks = self.width / BLOCK;
        &self.blocks[quad * blocks..][..blocks]
    }

    fn writer(&mut self) -> Q8Writer<'_> {
        Q8Writer {
            blocks_per_row: self.width / BLOCK,
            blocks: DisjointSlice::new(&mut self.blocks),
        }
    }
}

/// Hands quads out to the threads that fill them.
struct Q8Writer<'a> {
    blocks_per_row: usize,
    blocks: DisjointSlice<'a, Q8Block>,
}

impl Q8Writer<'_> {
    /// The blocks of the quad in which `row` lies.
    ///
    /// # Safety
    /// No other thread may use a row of the same quad.
    #[expect(clippy::mut_from_ref, reason = "this is the purpose; the condition is stated")]
    unsafe fn quad_of(&self, row: usize) -> &mut [Q8Block] {
        let first = row / QUAD * self.blocks_per_row;
        // SAFETY: parts of different quads do not overlap, and the caller keeps threads to different quads.
        unsafe { self.blocks.part(first..first + self.blocks_per_row) }
    }
}

/// Quantizes the first `rows` rows of `input`, `[rows][output.width()]`.
///
/// # Panics
/// If a buffer is too small.
pub fn quantize(cpu: &Cpu, input: &[f32], rows: usize, output: &mut Q8Rows) {
    let width = output.width();
    assert!(input.len() >= rows * width, "quantize: input too short");
    let targets = RowTargets::new("quantize", [rows, width], None, Some(output));
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
