//! How keys and values are multiplied: as floats, or two bfloat16 values at a time where the CPU has that.

use super::{KvElement, cache::LINE, tasks::SPAN};
use crate::lanes::{LANES, Lanes, PairDots};

/// Products with lines of the cache.
pub(super) trait Products<L: Lanes, E: KvElement> {
    /// A line in registers.
    type Line: Copy;
    /// What the two rows of a line are multiplied with.
    type Factors: Copy;
    /// Factors of nothing.
    const NONE: Self::Factors;

    fn line(line: &[E; LINE]) -> Self::Line;
    /// The line with zeros for its second row, which may hold anything.
    fn first_row(line: &[E; LINE]) -> Self::Line;
    fn factors(values: [f32; 2]) -> Self::Factors;
    /// `sum` and the products of both rows.
    fn add(sum: L, line: Self::Line, factors: Self::Factors) -> L;
    /// Weights as factors will hold them.
    fn rounded(weights: L) -> L;
    /// Rounded weights as factors.
    fn store(weights: &[f32; SPAN], factors: &mut [Self::Factors; SPAN / 2]);
}

/// Floats, whatever keys and values are stored as.
pub(super) struct Floats;

impl<L: Lanes, E: KvElement> Products<L, E> for Floats {
    type Line = [L; 2];
    type Factors = [f32; 2];
    const NONE: [f32; 2] = [0.0; 2];

    #[inline(always)]
    fn line(line: &[E; LINE]) -> [L; 2] {
        E::load(line)
    }

    #[inline(always)]
    fn first_row(line: &[E; LINE]) -> [L; 2] {
        let [first, _] = E::load(line);
        [first, L::splat(0.0)]
    }

    #[inline(always)]
    fn factors(values: [f32; 2]) -> [f32; 2] {
        values
    }

    #[inline(always)]
    fn add(sum: L, [first, second]: [L; 2], factors: [f32; 2]) -> L {
        second.fma(L::splat(factors[1]), first.fma(L::splat(factors[0]), sum))
    }

    #[inline(always)]
    fn rounded(weights: L) -> L {
        weights
    }

    #[inline(always)]
    fn store(weights: &[f32; SPAN], factors: &mut [[f32; 2]; SPAN / 2]) {
        factors.copy_from_slice(weights.as_chunks().0);
    }
}

/// Pairs of bfloat16 values, for keys and values stored as such: queries and weights are rounded to bfloat16.
pub(super) struct Bf16Pairs;

impl<L: PairDots> Products<L, u16> for Bf16Pairs {
    type Line = L::Pairs;
    /// Two bfloat16 values, the first lowest.
    type Factors = i32;
    const NONE: i32 = 0;

    #[inline(always)]
    fn line(line: &[u16; LINE]) -> L::Pairs {
        L::load_pairs(line)
    }

    #[inline(always)]
    fn first_row(line: &[u16; LINE]) -> L::Pairs {
        L::firsts(L::load_pairs(line))
    }

    #[inline(always)]
    fn factors(values: [f32; 2]) -> i32 {
        let [[a, b], [c, d]] = values.map(|value| half::bf16::from_f32(value).to_le_bytes());
        i32::from_le_bytes([a, b, c, d])
    }

    #[inline(always)]
    fn add(sum: L, line: L::Pairs, factors: i32) -> L {
        L::add_pairs(sum, line, factors)
    }

    #[inline(always)]
    fn rounded(weights: L) -> L {
        weights.rounded_to_bf16()
    }

    #[inline(always)]
    fn store(weights: &[f32; SPAN], factors: &mut [i32; SPAN / 2]) {
        let (targets, _) = factors.as_chunks_mut::<LANES>();
        for (weights, target) in weights.as_chunks::<LINE>().0.iter().zip(targets) {
            let (halves, _) = weights.as_chunks::<LANES>();
            L::store_pairs([L::load(&halves[0]), L::load(&halves[1])], target);
        }
    }
}
