//! Dense weights: a step of 16 outputs in one vector, up to four rows together.

use std::ops::Range;

use super::{DenseFormat, PANEL};
use crate::lanes::{Dots, LaneKernel, Lanes};

/// One panel against some rows.
pub(super) struct Part<'a, F> {
    pub(super) format: DenseFormat,
    pub(super) panel: &'a [u8],
    pub(super) input: &'a [f32],
    pub(super) columns: usize,
    pub(super) rows: Range<usize>,
    pub(super) emit: &'a mut F,
}

impl<F: FnMut(usize, &[f32; PANEL])> LaneKernel for Part<'_, F> {
    #[inline(always)]
    fn run<L: Lanes + Dots>(mut self) {
        match self.format {
            DenseFormat::F32 => self.all_rows::<L, { PANEL * 4 }>(|bytes| {
                let (values, _) = bytes.as_chunks::<4>();
                let values: [f32; PANEL] =
                    std::array::from_fn(|lane| f32::from_le_bytes(values[lane]));
                L::load(&values)
            }),
            DenseFormat::F16 => {
                self.all_rows::<L, { PANEL * 2 }>(|bytes| L::load_f16(&halves(bytes)))
            }
            DenseFormat::Bf16 => {
                self.all_rows::<L, { PANEL * 2 }>(|bytes| L::load_bf16(&halves(bytes)))
            }
        }
    }
}

#[inline(always)]
fn halves(bytes: &[u8; PANEL * 2]) -> [u16; PANEL] {
    let (values, _) = bytes.as_chunks::<2>();
    std::array::from_fn(|lane| u16::from_le_bytes(values[lane]))
}

impl<F: FnMut(usize, &[f32; PANEL])> Part<'_, F> {
    #[inline(always)]
    fn all_rows<L: Lanes, const BYTES: usize>(&mut self, load: impl Fn(&[u8; BYTES]) -> L + Copy) {
        let (records, _) = self.panel.as_chunks::<BYTES>();
        let mut row = self.rows.start;
        while self.rows.end - row >= 4 {
            self.some_rows::<L, BYTES, 4>(records, row, load);
            row += 4;
        }
        match self.rows.end - row {
            1 => self.some_rows::<L, BYTES, 1>(records, row, load),
            2 => self.some_rows::<L, BYTES, 2>(records, row, load),
            3 => self.some_rows::<L, BYTES, 3>(records, row, load),
            _ => {}
        }
    }

    #[inline(always)]
    fn some_rows<L: Lanes, const BYTES: usize, const N: usize>(
        &mut self,
        records: &[[u8; BYTES]],
        row: usize,
        load: impl Fn(&[u8; BYTES]) -> L,
    ) {
        let mut inputs: [&[f32]; N] = [&[]; N];
        for (index, input) in inputs.iter_mut().enumerate() {
            *input = &self.input[(row + index) * self.columns..][..records.len()];
        }
        let mut sums = [L::splat(0.0); N];
        for (column, record) in records.iter().enumerate() {
            let weights = load(record);
            for (sum, input) in sums.iter_mut().zip(&inputs) {
                *sum = weights.fma(L::splat(input[column]), *sum);
            }
        }
        for (index, sum) in sums.into_iter().enumerate() {
            let mut values = [0.0; PANEL];
            sum.store(&mut values);
            (self.emit)(row + index, &values);
        }
    }
}
