//! Sixty-four values at a time, in four independent vectors.

use super::{COLLECT_BLOCK, Collect, CollectPart, SurveyPart, Weigh, WeighPart};
use crate::lanes::{LANES, LaneKernel, Lanes};

const BLOCK: usize = COLLECT_BLOCK;

/// Up to sixty-four values; missing ones are `fill`.
#[inline(always)]
fn block<L: Lanes>(values: &[f32], fill: f32) -> [L; BLOCK / LANES] {
    let mut padded;
    let full = match values.first_chunk::<BLOCK>() {
        Some(full) => full,
        None => {
            padded = [fill; BLOCK];
            padded[..values.len()].copy_from_slice(values);
            &padded
        }
    };
    let (vectors, _) = full.as_chunks::<LANES>();
    [L::load(&vectors[0]), L::load(&vectors[1]), L::load(&vectors[2]), L::load(&vectors[3])]
}

#[inline(always)]
fn largest<L: Lanes>(block: &[L; BLOCK / LANES]) -> f32 {
    block[0].max(block[1]).max(block[2].max(block[3])).largest()
}

impl LaneKernel for SurveyPart<'_> {
    /// The index of a block is kept, and the value sought in it at the end, so that the loop compares no indices.
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { row, survey } = self;
        let zero = L::splat(0.0);
        let mut zeros = [zero; BLOCK / LANES];
        let mut found: &[f32] = &[];
        for (index, values) in row.chunks(BLOCK).enumerate() {
            let block: [L; BLOCK / LANES] = block(values, values[0]);
            for (zeros, values) in zeros.iter_mut().zip(block) {
                // Every sum with an infinity times 0, or a NaN, is NaN; others are 0.
                *zeros = values.fma(zero, *zeros);
            }
            let largest = largest(&block);
            if largest > survey.largest {
                (survey.largest, survey.index, found) = (largest, index * BLOCK, values);
            }
        }
        survey.index += found.iter().position(|&value| value == survey.largest).unwrap_or(0);
        survey.is_finite = zeros[0].add(zeros[1]).add(zeros[2].add(zeros[3])).sum() == 0.0;
    }
}

impl LaneKernel for WeighPart<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Weigh { logits, largest, scale, weights } = self.args;
        let (largest, scale) = (L::splat(largest), L::splat(scale));
        let mut sums = [L::splat(0.0); BLOCK / LANES];
        let (vectors, rest) = logits.as_chunks::<LANES>();
        let (weight_vectors, weight_rest) = weights.as_chunks_mut::<LANES>();
        for (index, (logits, weights)) in vectors.iter().zip(weight_vectors).enumerate() {
            let values = L::load(logits).sub(largest).mul(scale).exp();
            values.store(weights);
            sums[index % sums.len()] = sums[index % sums.len()].add(values);
        }
        if !rest.is_empty() {
            // Missing logits weigh nothing.
            let [rest, ..] = block::<L>(rest, f32::NEG_INFINITY);
            let values = rest.sub(largest).mul(scale).exp();
            values.store_some(weight_rest);
            sums[0] = sums[0].add(values);
        }
        *self.sum = f64::from(sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum());
    }
}

impl LaneKernel for CollectPart<'_> {
    /// Few blocks hold a value that is wanted: the others are passed over after one comparison.
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Collect { row, start, floor, limit, found } = self.args;
        let floors = L::splat(floor);
        for (index, values) in row[start.min(row.len())..].chunks(BLOCK).enumerate() {
            let first = start + index * BLOCK;
            if found.len() >= limit {
                *self.end = first;
                return;
            }
            let block: [L; BLOCK / LANES] = block(values, values[0]);
            if largest(&block) < floor {
                continue;
            }
            for (index, vector) in block.into_iter().enumerate() {
                let offset = index * LANES;
                let mut wanted = vector.at_least(floors);
                while wanted != 0 {
                    let place = offset + wanted.trailing_zeros() as usize;
                    wanted &= wanted - 1;
                    // Padding lies behind the last value.
                    if let Some(&value) = values.get(place) {
                        found.push((value, (first + place) as u32));
                    }
                }
            }
        }
    }
}
