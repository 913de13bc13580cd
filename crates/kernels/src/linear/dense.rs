//! Dense weights: tiles of some rows against the panels that registers have sums for, one record after the other.
//!
//! On a rung with products of bfloat16 pairs, bfloat16 weights multiply inputs rounded to bfloat16; everywhere else
//! floats are multiplied, whatever the weights are stored as.

use std::{marker::PhantomData, ops::Range};

use device::cpu::Plain;

use super::{DenseFormat, PANEL, PackedMatrix, Target};
use crate::{
    lanes::{Dots, LaneKernel, Lanes, PairDots, PairKernel},
    quantize::{BLOCK, Bf16Block, Bf16Rows, QUAD},
};

/// Panels that a tile takes, where registers have room for their sums.
const PANELS: usize = 2;
/// Pairs of weights of 16 outputs.
type Record = [u16; 2 * PANEL];
/// Pairs of inputs in a block of rounded rows.
const BLOCK_PAIRS: usize = BLOCK / 2;
/// How far ahead of their use weights are fetched.
const PREFETCH_BYTES: usize = 2048;

/// Some panels of a matrix against some rows.
pub(super) struct Part<'a, I> {
    pub(super) matrix: &'a PackedMatrix,
    pub(super) panels: Range<usize>,
    pub(super) input: I,
    /// From a multiple of 4 on.
    pub(super) rows: Range<usize>,
    pub(super) target: &'a Target<'a>,
}

impl LaneKernel for (Part<'_, &[f32]>, DenseFormat) {
    #[inline(always)]
    fn run<L: Lanes + Dots>(self) {
        let (part, format) = self;
        let (input, columns) = (part.input, part.matrix.columns());
        match format {
            DenseFormat::F32 => {
                let format = PhantomData;
                part.all::<L, _>(Floats::<F32, PANEL, 1> { input, columns, format });
            }
            DenseFormat::F16 => {
                let format = PhantomData;
                part.all::<L, _>(Floats::<F16, PANEL, 1> { input, columns, format });
            }
            DenseFormat::Bf16 => {
                let format = PhantomData;
                part.all::<L, _>(Floats::<Bf16, { 2 * PANEL }, 2> { input, columns, format });
            }
        }
    }
}

impl PairKernel for Part<'_, &Bf16Rows> {
    #[inline(always)]
    fn run<L: Lanes + Dots + PairDots>(self) {
        let input = self.input;
        self.all::<L, _>(Pairs { input });
    }
}

impl<I> Part<'_, I> {
    #[inline(always)]
    fn all<L: Lanes + Dots, P: Products<L>>(self, products: P) {
        let Self { matrix, panels, rows, target, .. } = self;
        for first in panels.clone().step_by(PANELS) {
            let both = (first + 1 < panels.end).then(|| [first, first + 1]);
            let mut row = rows.start;
            macro_rules! some {
                ($n:literal) => {{
                    if PANELS * $n <= L::SUMS
                        && let Some([first, second]) = both
                    {
                        let weights = [matrix.panel(first), matrix.panel(second)];
                        let [first_sums, second_sums] = products.tile::<$n, PANELS>(weights, row);
                        write(target, first, row, &first_sums);
                        write(target, second, row, &second_sums);
                    } else {
                        for panel in first..panels.end.min(first + PANELS) {
                            let [sums] = products.tile::<$n, 1>([matrix.panel(panel)], row);
                            write(target, panel, row, &sums);
                        }
                    }
                    row += $n;
                }};
            }
            if P::ROWS_MAX < 6 {
                while rows.end - row >= 4 {
                    some!(4);
                }
            } else if L::SUMS == 24 {
                while rows.end - row >= 12 {
                    some!(12);
                }
                if rows.end - row >= 8 {
                    some!(8);
                }
            } else {
                while rows.end - row >= 6 {
                    some!(6);
                }
            }
            if rows.end - row >= 4 {
                some!(4);
            }
            match rows.end - row {
                3 => some!(3),
                2 => some!(2),
                1 => some!(1),
                _ => {}
            }
            debug_assert!(row == rows.end);
        }
    }
}

/// Writes the sums of rows from `row` on.
#[inline(always)]
fn write<L: Lanes>(target: &Target<'_>, panel: usize, row: usize, sums: &[L]) {
    let target = target.panel(panel);
    for (index, sums) in sums.iter().enumerate() {
        target.write(row + index, *sums);
    }
}

/// Products of rows with panels.
trait Products<L: Lanes> {
    /// Rows that a tile takes at most.
    const ROWS_MAX: usize = usize::MAX;

    /// The sums of `N` rows from `row` on for the outputs of `P` panels. Each is added up from the first column to the
    /// last, whatever `N` and `P`.
    fn tile<const N: usize, const P: usize>(&self, panels: [&[u8]; P], row: usize) -> [[L; N]; P];
}

/// The records of a panel.
#[inline(always)]
fn records<T: Plain, const N: usize>(panel: &[u8]) -> &[[T; N]] {
    // SAFETY: any bits are values of the integers and floats that are plain. The machines that there are rungs for put
    // the lowest byte first.
    let (before, records, _) = unsafe { panel.align_to() };
    assert!(before.is_empty(), "a panel begins where a vector may");
    records
}

/// How floats are made of a record of `COLUMNS` columns, `M` values. Not a closure: one that is not inlined has none of
/// the rung's instructions.
trait Format<L, const M: usize, const COLUMNS: usize> {
    type Value: Plain;

    fn load(record: &[Self::Value; M]) -> [L; COLUMNS];
}

struct F32;
struct F16;
struct Bf16;

impl<L: Lanes> Format<L, PANEL, 1> for F32 {
    type Value = f32;

    #[inline(always)]
    fn load(record: &[f32; PANEL]) -> [L; 1] {
        [L::load(record)]
    }
}

impl<L: Lanes> Format<L, PANEL, 1> for F16 {
    type Value = u16;

    #[inline(always)]
    fn load(record: &[u16; PANEL]) -> [L; 1] {
        [L::load_f16(record)]
    }
}

impl<L: Lanes> Format<L, { 2 * PANEL }, 2> for Bf16 {
    type Value = u16;

    #[inline(always)]
    fn load(record: &[u16; 2 * PANEL]) -> [L; 2] {
        L::load_bf16_pairs(record)
    }
}

/// With floats.
struct Floats<'a, F, const M: usize, const COLUMNS: usize> {
    /// `[rows][columns]`
    input: &'a [f32],
    columns: usize,
    format: PhantomData<F>,
}

impl<L, F, const M: usize, const COLUMNS: usize> Products<L> for Floats<'_, F, M, COLUMNS>
where
    L: Lanes + Dots,
    F: Format<L, M, COLUMNS>,
{
    /// With more rows and records of two columns, the compiler's tiles do half as much.
    const ROWS_MAX: usize = if COLUMNS == 1 { usize::MAX } else { 4 };

    #[inline(always)]
    fn tile<const N: usize, const P: usize>(&self, panels: [&[u8]; P], row: usize) -> [[L; N]; P] {
        let steps = self.columns / COLUMNS;
        let mut weights_of: [&[[F::Value; M]]; P] = [&[]; P];
        for (weights, panel) in weights_of.iter_mut().zip(panels) {
            *weights = &records(panel)[..self.columns.div_ceil(COLUMNS)];
        }
        let mut inputs: [&[[f32; COLUMNS]]; N] = [&[]; N];
        let mut rest: [&[f32]; N] = [&[]; N];
        for (index, (inputs, rest)) in inputs.iter_mut().zip(&mut rest).enumerate() {
            let row = &self.input[(row + index) * self.columns..][..self.columns];
            (*inputs, *rest) = row.as_chunks();
            *inputs = &inputs[..steps];
        }
        let mut sums = [[L::splat(0.0); N]; P];
        for step in 0..steps {
            let mut weights = [[L::splat(0.0); COLUMNS]; P];
            for (weights, records) in weights.iter_mut().zip(weights_of) {
                *weights = F::load(&records[step]);
                L::prefetch((&raw const records[step]).wrapping_byte_add(PREFETCH_BYTES));
            }
            for column in 0..COLUMNS {
                for (index, input) in inputs.iter().enumerate() {
                    let factor = L::splat(input[step][column]);
                    for (sums, weights) in sums.iter_mut().zip(weights) {
                        sums[index] = weights[column].fma(factor, sums[index]);
                    }
                }
            }
        }
        if COLUMNS == 2 && self.columns % COLUMNS == 1 {
            for (sums, records) in sums.iter_mut().zip(weights_of) {
                let weights = F::load(&records[steps])[0];
                for (sum, rest) in sums.iter_mut().zip(rest) {
                    *sum = weights.fma(L::splat(rest[0]), *sum);
                }
            }
        }
        sums
    }
}

/// With inputs rounded to bfloat16, pairs of columns at a time.
struct Pairs<'a> {
    input: &'a Bf16Rows,
}

impl<L: Lanes + Dots + PairDots> Products<L> for Pairs<'_> {
    #[inline(always)]
    fn tile<const N: usize, const P: usize>(&self, panels: [&[u8]; P], row: usize) -> [[L; N]; P] {
        // Tiles of 12, 8 and 4 rows begin with a quad; those of 6 would not.
        const { assert!(L::SUMS == 24) };
        // Quads beyond the last row are not read; the first stands in for them.
        let quad = row / QUAD;
        let first = self.input.quad(quad);
        let second = self.input.quad(if N > QUAD { quad + 1 } else { quad });
        let third = self.input.quad(if N > 2 * QUAD { quad + 2 } else { quad });
        let mut blocks: [&[[Record; BLOCK_PAIRS]]; P] = [&[]; P];
        let mut rest: [&[Record]; P] = [&[]; P];
        for ((blocks, rest), panel) in blocks.iter_mut().zip(&mut rest).zip(panels) {
            (*blocks, *rest) = records(panel).as_chunks();
        }
        let mut sums = [[L::splat(0.0); N]; P];
        let count = blocks[0].len();
        for block in 0..count {
            let mut records: [&[Record]; P] = [&[]; P];
            for (records, blocks) in records.iter_mut().zip(blocks) {
                *records = &blocks[block];
            }
            add_pairs(&mut sums, records, [&first[block], &second[block], &third[block]]);
        }
        if !rest[0].is_empty() {
            add_pairs(&mut sums, rest, [&first[count], &second[count], &third[count]]);
        }
        sums
    }
}

#[inline(always)]
fn add_pairs<L: Dots + PairDots, const N: usize, const P: usize>(
    sums: &mut [[L; N]; P],
    records: [&[Record]; P],
    inputs: [&Bf16Block; 3],
) {
    for step in 0..records[0].len().min(BLOCK_PAIRS) {
        let mut weights = [L::load_pairs(&records[0][step]); P];
        for (weights, records) in weights.iter_mut().zip(records) {
            *weights = L::load_pairs(&records[step]);
            L::prefetch((&raw const records[step]).wrapping_byte_add(PREFETCH_BYTES));
        }
        for index in 0..N {
            let factors = inputs[index / QUAD].pairs[index % QUAD][step];
            for (sums, weights) in sums.iter_mut().zip(weights) {
                sums[index] = sums[index].add_pairs(weights, factors);
            }
        }
    }
}
