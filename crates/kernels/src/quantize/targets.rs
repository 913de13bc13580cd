//! Where the rows of an activation go, in one form or several.

use device::cpu::DisjointSlice;

use super::{Bf16Block, Bf16Rows, Q8Block, Q8Rows, QUAD, quads::QuadWriter};

/// Where a kernel writes its rows: in each form in which a product reads them.
#[derive(Default)]
pub struct RowOutputs<'a> {
    /// As floats, `[rows][width]`.
    pub floats: Option<&'a mut [f32]>,
    /// Quantized to 8 bits.
    pub quantized: Option<&'a mut Q8Rows>,
    /// Rounded to bfloat16.
    pub rounded: Option<&'a mut Bf16Rows>,
}

/// Rows that workers write, each its own quads.
pub(crate) struct RowTargets<'a> {
    width: usize,
    floats: Option<DisjointSlice<'a, f32>>,
    quantized: Option<QuadWriter<'a, Q8Block>>,
    rounded: Option<QuadWriter<'a, Bf16Block>>,
}

/// A row to be written.
pub(crate) struct RowTarget<'a> {
    pub(crate) width: usize,
    pub(crate) floats: Option<&'a mut [f32]>,
    /// The blocks of its quad, and which row of the four it is.
    pub(crate) quantized: Option<(&'a mut [Q8Block], usize)>,
    /// Likewise.
    pub(crate) rounded: Option<(&'a mut [Bf16Block], usize)>,
}

impl<'a> RowTargets<'a> {
    /// # Panics
    /// If an output has no room for as many rows or another width.
    pub(crate) fn new(kernel: &str, [rows, width]: [usize; 2], outputs: RowOutputs<'a>) -> Self {
        let RowOutputs { floats, quantized, rounded } = outputs;
        if let Some(floats) = &floats {
            assert!(floats.len() >= rows * width, "{kernel}: output too short");
        }
        let quads = [
            quantized.as_ref().map(|quantized| ("quantized", quantized.width(), quantized.rows())),
            rounded.as_ref().map(|rounded| ("rounded", rounded.width(), rounded.rows())),
        ];
        for (form, its_width, its_rows) in quads.into_iter().flatten() {
            assert!(its_width == width, "{kernel}: {form} output of another width");
            assert!(its_rows >= rows, "{kernel}: {form} output too short");
        }
        Self {
            width,
            floats: floats.map(DisjointSlice::new),
            quantized: quantized.map(Q8Rows::writer),
            rounded: rounded.map(Bf16Rows::writer),
        }
    }

    /// # Safety
    /// No other thread may use a row of the same quad, and the row's target must not be in use already.
    pub(crate) unsafe fn row(&self, row: usize) -> RowTarget<'_> {
        let range = row * self.width..(row + 1) * self.width;
        // SAFETY: rows do not overlap, quads do not either, and the caller keeps threads to different quads.
        unsafe {
            RowTarget {
                width: self.width,
                floats: self.floats.as_ref().map(|floats| floats.part(range)),
                quantized: self.quantized.as_ref().map(|writer| (writer.quad_of(row), row % QUAD)),
                rounded: self.rounded.as_ref().map(|writer| (writer.quad_of(row), row % QUAD)),
            }
        }
    }
}
