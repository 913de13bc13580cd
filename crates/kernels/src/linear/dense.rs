//! Dense weights: a step of 16 outputs in one vector, up to four rows together.

use std::ops::Range;

use super::{DenseFormat, PANEL, Target};
use crate::lanes::{Dots, LaneKernel, Lanes};

/// Some panels against some rows.
pub(super) struct Part<'a, P> {
    pub(super) format: DenseFormat,
    /// Panels with their numbers.
    pub(super) panels: P,
    pub(super) input: &'a [f32],
    pub(super) columns: usize,
    pub(super) rows: Range<usize>,
    pub(super) target: &'a Target<'a>,
}

impl<'a, P: Iterator<Item = (usize, &'a [u8])>> LaneKernel for Part<'a, P> {
    #[inline(always)]
    fn run<L: Lanes + Dots>(self) {
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

impl<'a, P: Iterator<Item = (usize, &'a [u8])>> Part<'a, P> {
    #[inline(always)]
    fn all_rows<L: Lanes, const BYTES: usize>(self, load: impl Fn(&[u8; BYTES]) -> L + Copy) {
        let Self { panels, input, columns, rows, target, .. } = self;
        for (number, panel) in panels {
            let (records, _) = panel.as_chunks::<BYTES>();
            let target = target.panel(number);
            let mut row = rows.start;
            macro_rules! some {
                ($n:literal) => {{
                    let values = some_rows::<L, BYTES, $n>(records, (input, columns), row, load);
                    for (row, values) in (row..).zip(values) {
                        target.write(row, values);
                    }
                    row += $n;
                }};
            }
            while rows.end - row >= 4 {
                some!(4);
            }
            match rows.end - row {
                1 => some!(1),
                2 => some!(2),
                3 => some!(3),
                _ => {}
            }
            debug_assert!(row == rows.end);
        }
    }
}

#[inline(always)]
fn some_rows<L: Lanes, const BYTES: usize, const N: usize>(
    records: &[[u8; BYTES]],
    (input, columns): (&[f32], usize),
    row: usize,
    load: impl Fn(&[u8; BYTES]) -> L,
) -> [L; N] {
    let mut inputs: [&[f32]; N] = [&[]; N];
    for (index, values) in inputs.iter_mut().enumerate() {
        *values = &input[(row + index) * columns..][..records.len()];
    }
    let mut sums = [L::splat(0.0); N];
    for (column, record) in records.iter().enumerate() {
        let weights = load(record);
        for (sum, input) in sums.iter_mut().zip(&inputs) {
            *sum = weights.fma(L::splat(input[column]), *sum);
        }
    }
    sums
}
