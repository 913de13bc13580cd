//! Activations rounded to bfloat16, for products of pairs.

use device::cpu::{Cpu, Plain};

use super::{BLOCK, QUAD, QuadRows, RowOutputs, write_rows};
use crate::lanes::LANES;

/// A block of each of four rows: 16 pairs each.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Bf16Block {
    /// `[row][pair]`: two bfloat16 values of neighbours, the first lowest.
    pub(crate) pairs: [[i32; BLOCK / 2]; QUAD],
}

// SAFETY: made of integers alone, without padding; all bytes zero is a value.
unsafe impl Plain for Bf16Block {}
const _: () = assert!(size_of::<Bf16Block>() == 256);

impl Bf16Block {
    /// Half of a row's values, to be written.
    #[inline(always)]
    pub(super) fn half(&mut self, row: usize, half: usize) -> &mut [u16; LANES] {
        let (halves, _) = self.pairs[row].as_chunks_mut::<{ LANES / 2 }>();
        // SAFETY: of the same size, less aligned, and any bits are values of both. The machines that there are rungs
        // for put the lower half first.
        unsafe { &mut *(&raw mut halves[half]).cast() }
    }
}

/// Rows rounded to bfloat16.
pub type Bf16Rows = QuadRows<Bf16Block>;

impl Bf16Rows {
    /// Room for `rows` rows of `width` values.
    pub fn new(rows: usize, width: usize) -> Self {
        Self::with_blocks(rows, width)
    }
}

/// Rounds the first `rows` rows of `input`, `[rows][output.width()]`, to the nearest bfloat16 values, ties to even.
///
/// # Panics
/// If a buffer is too small.
pub fn round_to_bf16(cpu: &Cpu, input: &[f32], rows: usize, output: &mut Bf16Rows) {
    let width = output.width();
    let outputs = RowOutputs { rounded: Some(output), ..RowOutputs::default() };
    write_rows(cpu, "round_to_bf16", input, [rows, width], outputs);
}
