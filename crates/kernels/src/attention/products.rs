//! How keys and values are multiplied: as floats, or two bfloat16 values at a time where the CPU has that.

use super::{KvElement, cache::LINE};
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
    /// `sum` and the products of both rows.
    fn add(sum: L, line: Self::Line, factors: Self::Factors) -> L;
    /// Values as factors will hold them.
    fn rounded(values: L) -> L;
    /// Rounded values as factors, two each, as many as there are of the one or the other.
    fn store(values: &[f32], factors: &mut [Self::Factors]);
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
    fn add(sum: L, [first, second]: [L; 2], factors: [f32; 2]) -> L {
        second.fma(L::splat(factors[1]), first.fma(L::splat(factors[0]), sum))
    }

    #[inline(always)]
    fn rounded(values: L) -> L {
        values
    }

    #[inline(always)]
    fn store(values: &[f32], factors: &mut [[f32; 2]]) {
        for (values, factors) in values.as_chunks().0.iter().zip(factors) {
            *factors = *values;
        }
    }
}

/// Pairs of bfloat16 values, for keys and values stored as such: queries and weights are rounded to bfloat16.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only x86-64 has a rung that multiplies pairs")
)]
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
    fn add(sum: L, line: L::Pairs, factors: i32) -> L {
        L::add_pairs(sum, line, factors)
    }

    #[inline(always)]
    fn rounded(values: L) -> L {
        values.rounded_to_bf16()
    }

    #[inline(always)]
    fn store(values: &[f32], factors: &mut [i32]) {
        let (targets, _) = factors.as_chunks_mut::<{ LANES / 2 }>();
        for (values, target) in values.as_chunks().0.iter().zip(targets) {
            L::load(values).store_pairs(target);
        }
    }
}
