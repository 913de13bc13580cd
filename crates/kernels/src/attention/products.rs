//! How keys and values are multiplied: as floats, or two bfloat16 values at a time where the CPU has that.

use super::{KvElement, cache::LINE};
use crate::lanes::{LANES, Lanes, PairDots};

/// Products with lines of the cache.
pub(super) trait Products<L: Lanes, E: KvElement> {
    /// How many times a line is gone through: registers may not hold both of its rows.
    const PASSES: usize;
    /// What a pass needs of a line, in registers.
    type Line: Copy;
    /// What the two rows of a line are multiplied with.
    type Factors: Copy;
    /// Factors of nothing.
    const NONE: Self::Factors;
    /// What scores are multiplied with, so that [`Self::exp`] of their differences is e to the power of the scores'.
    const SCALE: f32;

    fn line(line: &[E; LINE], pass: usize) -> Self::Line;
    /// For the first pass and the only one, the line with zeros for its second row, which may hold anything.
    fn first_row(line: &[E; LINE]) -> Self::Line;
    /// `sum` and the products of what a pass has.
    fn add(sum: L, line: Self::Line, factors: Self::Factors, pass: usize) -> L;
    /// Writes values as factors.
    fn store(values: L, factors: &mut [Self::Factors; LANES / 2]);
    /// The weights that differences of scores stand for.
    fn exp(differences: L) -> L;
    /// Writes the weights of scores relative to the largest of them, for an even number of blocks, each times the scale
    /// of its value where values have scales; lanes whose sum is the total of the weights without.
    fn weigh(
        scores: &[[f32; LANES]],
        largest: f32,
        scales: &[[f32; LANES]],
        weights: &mut [Self::Factors],
    ) -> L;
}

/// Floats, whatever keys and values are stored as.
pub(super) struct Floats;

impl<L: Lanes, E: KvElement> Products<L, E> for Floats {
    const PASSES: usize = 2;
    type Line = L;
    type Factors = [f32; 2];
    const NONE: [f32; 2] = [0.0; 2];
    const SCALE: f32 = 1.0;

    #[inline(always)]
    fn line(line: &[E; LINE], pass: usize) -> L {
        E::load(line)[pass]
    }

    #[inline(always)]
    fn first_row(line: &[E; LINE]) -> L {
        E::load(line)[0]
    }

    #[inline(always)]
    fn add(sum: L, row: L, factors: [f32; 2], pass: usize) -> L {
        row.fma(L::splat(factors[pass]), sum)
    }

    #[inline(always)]
    fn store(values: L, factors: &mut [[f32; 2]; LANES / 2]) {
        values.store_some(factors.as_flattened_mut());
    }

    #[inline(always)]
    fn exp(differences: L) -> L {
        differences.exp_to_88()
    }

    #[inline(always)]
    fn weigh(
        scores: &[[f32; LANES]],
        largest: f32,
        scales: &[[f32; LANES]],
        weights: &mut [[f32; 2]],
    ) -> L {
        let (largest, mut total) = (L::splat(largest), L::splat(0.0));
        let (weights, _) = weights.as_flattened_mut().as_chunks_mut();
        for ((scores, scales), weights) in scores.iter().zip(scales).zip(weights) {
            let relative = L::load(scores).sub(largest).exp_to_88();
            total = total.add(relative);
            let scaled = if E::IS_SCALED { relative.mul(L::load(scales)) } else { relative };
            scaled.store(weights);
        }
        total
    }
}

/// Pairs of bfloat16 values, for keys and values stored as such: queries and weights are rounded to bfloat16.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only x86-64 has a rung that multiplies pairs")
)]
pub(super) struct Bf16Pairs;

impl<L: PairDots> Products<L, u16> for Bf16Pairs {
    const PASSES: usize = 1;
    type Line = L::Pairs;
    /// Two bfloat16 values, the first lowest.
    type Factors = i32;
    const NONE: i32 = 0;
    /// Powers of 2 are the cheaper ones.
    const SCALE: f32 = std::f32::consts::LOG2_E;

    #[inline(always)]
    fn line(line: &[u16; LINE], _: usize) -> L::Pairs {
        L::load_pairs(line)
    }

    #[inline(always)]
    fn first_row(line: &[u16; LINE]) -> L::Pairs {
        L::firsts(L::load_pairs(line))
    }

    #[inline(always)]
    fn add(sum: L, line: L::Pairs, factors: i32, _: usize) -> L {
        L::add_pairs(sum, line, factors)
    }

    #[inline(always)]
    fn store(values: L, factors: &mut [i32; LANES / 2]) {
        values.store_bf16_pairs(factors);
    }

    #[inline(always)]
    fn exp(differences: L) -> L {
        differences.mul(L::splat(std::f32::consts::LN_2)).exp_to_88()
    }

    #[inline(always)]
    fn weigh(scores: &[[f32; LANES]], largest: f32, _: &[[f32; LANES]], weights: &mut [i32]) -> L {
        /// Two bfloat16 values of 1.
        const ONES: i32 = 0x3f80_3f80;
        let (largest, mut total) = (L::splat(largest), L::splat(0.0));
        let (scores, _) = scores.as_chunks();
        let (weights, _) = weights.as_chunks_mut();
        for ([first, second], weights) in scores.iter().zip(weights) {
            let pairs = L::exp2_to_0(L::load(first).sub(largest), L::load(second).sub(largest));
            total = total.add_pairs(pairs, ONES);
            L::store_pairs(pairs, weights);
        }
        total
    }
}
