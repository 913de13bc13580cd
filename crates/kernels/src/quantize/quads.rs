//! Rows in quads: for each 32 values, what stands for them in four rows lies together, so that a product that takes
//! four rows at once reads one stream.

use device::cpu::{AlignedBuffer, DisjointSlice, Plain};

use super::{BLOCK, QUAD};

/// Rows of activations, all of one width. `B` is a block of each of four rows.
pub struct QuadRows<B: Plain> {
    width: usize,
    /// `[quad][block]`
    pub(super) blocks: AlignedBuffer<B>,
}

impl<B: Plain> QuadRows<B> {
    /// Room for `rows` rows of `width` values, the last block perhaps not full.
    pub(super) fn with_blocks(rows: usize, width: usize) -> Self {
        let blocks = rows.div_ceil(QUAD) * width.div_ceil(BLOCK);
        Self { width, blocks: AlignedBuffer::zeroed_in_huge_pages(blocks) }
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows there is room for.
    pub fn rows(&self) -> usize {
        self.blocks.len().checked_div(self.blocks_per_row()).unwrap_or(0) * QUAD
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.blocks.len() * size_of::<B>()
    }

    /// The blocks of rows `4 × quad ..`, in order.
    pub(crate) fn quad(&self, quad: usize) -> &[B] {
        let blocks = self.blocks_per_row();
        &self.blocks[quad * blocks..][..blocks]
    }

    fn blocks_per_row(&self) -> usize {
        self.width.div_ceil(BLOCK)
    }

    pub(super) fn writer(&mut self) -> QuadWriter<'_, B> {
        QuadWriter {
            blocks_per_row: self.blocks_per_row(),
            blocks: DisjointSlice::new(&mut self.blocks),
        }
    }
}

/// Hands quads out to the threads that fill them.
pub(super) struct QuadWriter<'a, B> {
    blocks_per_row: usize,
    blocks: DisjointSlice<'a, B>,
}

impl<B> QuadWriter<'_, B> {
    /// The blocks of the quad in which `row` lies.
    ///
    /// # Safety
    /// No other thread may use a row of the same quad.
    #[expect(clippy::mut_from_ref, reason = "this is the purpose; the condition is stated")]
    pub(super) unsafe fn quad_of(&self, row: usize) -> &mut [B] {
        let first = row / QUAD * self.blocks_per_row;
        // SAFETY: parts of different quads do not overlap, and the caller keeps threads to different quads.
        unsafe { self.blocks.part(first..first + self.blocks_per_row) }
    }
}
