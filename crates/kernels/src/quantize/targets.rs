//! Where the rows of an activation go: as floats, as integers, or both.

use device::cpu::DisjointSlice;

use super::{Q8Block, Q8Rows, Q8Writer, QUAD};

/// Rows that workers write, each its own quads.
pub(crate) struct RowTargets<'a> {
    width: usize,
    floats: Option<DisjointSlice<'a, f32>>,
    quantized: Option<Q8Writer<'a>>,
}

/// A row to be written.
pub(crate) struct RowTarget<'a> {
    pub(crate) floats: Option<&'a mut [f32]>,
    /// The blocks of its quad, and which row of the four it is.
    pub(crate) quantized: Option<(&'a mut [Q8Block], usize)>,
}

impl<'a> RowTargets<'a> {
    /// # Panics
    /// If a target has no room for as many rows or another width.
    pub(crate) fn new(
        kernel: &str,
        [rows, width]: [usize; 2],
        floats: Option<&'a mut [f32]>,
        quantized: Option<&'a mut Q8Rows>,
    ) -> Self {
        if let Some(floats) = &floats {
            assert!(floats.len() >= rows * width, "{kernel}: output too short");
        }
        if let Some(quantized) = &quantized {
            assert!(quantized.width() == width, "{kernel}: quantized output of another width");
            assert!(quantized.rows() >= rows, "{kernel}: quantized output too short");
        }
        Self {
            width,
            floats: floats.map(DisjointSlice::new),
            quantized: quantized.map(Q8Rows::writer),
        }
    }

    /// # Safety
    /// No other thread may use a row of the same quad, and the row's target must not be in use already.
    pub(crate) unsafe fn row(&self, row: usize) -> RowTarget<'_> {
        let range = row * self.width..(row + 1) * self.width;
        // SAFETY: rows do not overlap, quads do not either, and the caller keeps threads to different quads.
        unsafe {
            RowTarget {
                floats: self.floats.as_ref().map(|floats| floats.part(range)),
                quantized: self.quantized.as_ref().map(|writer| (writer.quad_of(row), row % QUAD)),
            }
        }
    }
}
