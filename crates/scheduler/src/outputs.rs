//! How long answers are, as far as those that ended tell.

use serde::{Deserialize, Serialize};

/// Buckets for each doubling of the length.
const BUCKETS_PER_DOUBLING: usize = 4;
const BUCKETS: usize = 24 * BUCKETS_PER_DOUBLING;
/// What is assumed before anything has ended, with the weight of one answer.
pub(crate) const LENGTH_ASSUMED: u32 = 256;
/// What the weight of an answer is multiplied with when the next one ends: the last few hundred count.
const WEIGHT_KEPT: f64 = 0.996;

/// A histogram of the lengths of answers, the recent ones counting most.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OutputLengths {
    weights: Vec<f64>,
    sums: Vec<f64>,
    /// By bucket, the mean length of the answers in it and in those after.
    means: Vec<f64>,
}

impl OutputLengths {
    pub(crate) fn new() -> Self {
        let buckets = || vec![0.0; BUCKETS];
        let mut lengths = Self { weights: buckets(), sums: buckets(), means: buckets() };
        lengths.observe(LENGTH_ASSUMED);
        lengths
    }

    /// An answer of this many tokens ended.
    pub(crate) fn observe(&mut self, tokens: u32) {
        for value in self.weights.iter_mut().chain(&mut self.sums) {
            *value *= WEIGHT_KEPT;
        }
        let bucket = bucket(tokens);
        self.weights[bucket] += 1.0;
        self.sums[bucket] += f64::from(tokens);
        let (mut weight, mut sum) = (0.0, 0.0);
        for bucket in (0..BUCKETS).rev() {
            weight += self.weights[bucket];
            sum += self.sums[bucket];
            self.means[bucket] = if weight > 0.0 { sum / weight } else { 0.0 };
        }
    }

    /// How many more tokens an answer is expected to have that has `generated` and may have `tokens_max`: at least one,
    /// unless it has them all.
    pub(crate) fn expected_rest(&self, generated: u32, tokens_max: u32) -> u32 {
        let left = tokens_max - generated;
        let longer = if generated == 0 { 0 } else { (bucket(generated) + 1).min(BUCKETS - 1) };
        let whole = self.means[longer];
        // Longer than any known: as much again as a quarter of what there is.
        let rest =
            if whole > f64::from(generated) { whole as u32 - generated } else { generated / 4 };
        rest.max(1).min(left)
    }
}

fn bucket(tokens: u32) -> usize {
    let bucket = f64::from(tokens.max(1)).log2() * BUCKETS_PER_DOUBLING as f64;
    (bucket as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_expected_to_be_as_long_as_others_were() {
        let mut lengths = OutputLengths::new();
        assert_eq!(lengths.expected_rest(0, 1000), LENGTH_ASSUMED);
        assert_eq!(lengths.expected_rest(0, 100), 100, "no more than allowed");
        for _ in 0..1000 {
            lengths.observe(20);
        }
        assert!((19..=25).contains(&lengths.expected_rest(0, 1000)));
        assert!((1..25).contains(&lengths.expected_rest(10, 1000)));
        assert_eq!(lengths.expected_rest(1000, 1000), 0);
    }

    #[test]
    fn one_that_is_longer_than_most_is_expected_to_be_like_the_long_ones() {
        let mut lengths = OutputLengths::new();
        for _ in 0..500 {
            lengths.observe(10);
            lengths.observe(500);
        }
        assert!((200..300).contains(&lengths.expected_rest(0, 10_000)));
        assert!((380..420).contains(&lengths.expected_rest(100, 10_000)));
        assert_eq!(lengths.expected_rest(4000, 10_000), 1000, "longer than any");
    }
}
