//! Activations as 8-bit integers: each 32 consecutive values of a row share one scale, `value ≈ scale × integer` with
//! integers in -127..=127.
//!
//! The sums of the integers travel along, so that a matrix product can take the zero point or the minimum of a weight
//! block out of its inner loop.

mod lanes;
mod scalar;

#[cfg(test)]
mod cases;

pub(crate) use lanes::quantize_row as quantize_row_lanes;
pub(crate) use scalar::quantize_row as quantize_row_scalar;

use std::ops::Range;

use device::cpu::{AlignedBuffer, Cpu, DisjointSlice, Rung, partition};

use crate::lanes::{LaneKernel, Lanes, launch};

/// Values that share a scale.
pub const BLOCK: usize = 32;
/// Values that share a sum: half a block, as some weight formats change scale every 16.
pub const SUM_BLOCK: usize = 16;

/// Quantized rows, all of one width.
pub struct Q8Rows {
    width: usize,
    /// `[row][width]`
    pub(crate) values: AlignedBuffer<i8>,
    /// `[row][width / 32]`
    pub(crate) scales: AlignedBuffer<f32>,
    /// `[row][width / 16]`: sums of the integers.
    pub(crate) sums: AlignedBuffer<i32>,
    /// `[row][width / 32]`: scale times the sum of the block's integers.
    pub(crate) scaled_sums: AlignedBuffer<f32>,
}

impl Q8Rows {
    /// Room for `rows` rows of `width` values.
    ///
    /// # Panics
    /// If `width` is not a multiple of 32.
    pub fn new(rows: usize, width: usize) -> Self {
        assert!(width.is_multiple_of(BLOCK), "a quantized row has whole blocks, got width {width}");
        Self {
            width,
            values: AlignedBuffer::zeroed(rows * width),
            scales: AlignedBuffer::zeroed(rows * width / BLOCK),
            sums: AlignedBuffer::zeroed(rows * width / SUM_BLOCK),
            scaled_sums: AlignedBuffer::zeroed(rows * width / BLOCK),
        }
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows there is room for.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.values.len() + 4 * (self.scales.len() + self.sums.len() + self.scaled_sums.len())
    }

    pub(crate) fn writer(&mut self) -> Q8Writer<'_> {
        Q8Writer {
            width: self.width,
            values: DisjointSlice::new(&mut self.values),
            scales: DisjointSlice::new(&mut self.scales),
            sums: DisjointSlice::new(&mut self.sums),
            scaled_sums: DisjointSlice::new(&mut self.scaled_sums),
        }
    }
}

/// Hands rows out to the threads that fill them.
pub(crate) struct Q8Writer<'a> {
    width: usize,
    values: DisjointSlice<'a, i8>,
    scales: DisjointSlice<'a, f32>,
    sums: DisjointSlice<'a, i32>,
    scaled_sums: DisjointSlice<'a, f32>,
}

/// One row to fill.
pub(crate) struct Q8RowMut<'a> {
    pub(crate) values: &'a mut [i8],
    pub(crate) scales: &'a mut [f32],
    pub(crate) sums: &'a mut [i32],
    pub(crate) scaled_sums: &'a mut [f32],
}

impl Q8Writer<'_> {
    /// # Safety
    /// No other thread may use the same row.
    pub(crate) unsafe fn row(&self, row: usize) -> Q8RowMut<'_> {
        let cut = |per: usize| -> Range<usize> {
            let each = self.width / per;
            row * each..(row + 1) * each
        };
        // SAFETY: parts of different rows do not overlap, and the caller keeps threads to different rows.
        unsafe {
            Q8RowMut {
                values: self.values.part(cut(1)),
                scales: self.scales.part(cut(BLOCK)),
                sums: self.sums.part(cut(SUM_BLOCK)),
                scaled_sums: self.scaled_sums.part(cut(BLOCK)),
            }
        }
    }
}

/// Quantizes the first `rows` rows of `input`, `[rows][output.width()]`.
///
/// # Panics
/// If a buffer is too small.
pub fn quantize(cpu: &Cpu, input: &[f32], rows: usize, output: &mut Q8Rows) {
    let width = output.width();
    assert!(input.len() >= rows * width, "quantize: input too short");
    assert!(output.rows() >= rows, "quantize: output too short");
    let writer = output.writer();
    cpu.pool.run(&|worker| {
        let rows = partition(rows, cpu.pool.threads(), worker);
        match cpu.isa.rung() {
            Rung::Scalar => {
                for row in rows {
                    // SAFETY: workers have different rows.
                    let target = unsafe { writer.row(row) };
                    quantize_row_scalar(&input[row * width..][..width], target);
                }
            }
            _ => launch(cpu.isa, Rows { input, writer: &writer, rows, width }),
        }
    });
}

struct Rows<'a> {
    input: &'a [f32],
    writer: &'a Q8Writer<'a>,
    rows: Range<usize>,
    width: usize,
}

impl LaneKernel for Rows<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for row in self.rows {
            // SAFETY: workers have different rows.
            let target = unsafe { self.writer.row(row) };
            quantize_row_lanes::<L>(&self.input[row * self.width..][..self.width], target);
        }
    }
}
