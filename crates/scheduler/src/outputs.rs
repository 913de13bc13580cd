//! How long answers are, as far as those that ended tell, and those that are under way.

use serde::{Deserialize, Serialize};

/// Buckets for each doubling of the length.
const BUCKETS_PER_DOUBLING: usize = 4;
const BUCKETS: usize = 24 * BUCKETS_PER_DOUBLING;
/// What is assumed before anything has ended, with the weight of one answer.
pub(crate) const LENGTH_ASSUMED: u32 = 256;
/// What the weight of an answer is multiplied with when the next one ends: the last few hundred count.
const WEIGHT_KEPT: f64 = 0.996;
/// Of an answer that is longer than any known, as much again as this part of it is expected.
const LONGER: f64 = 0.25;
/// A part of all answers that is as good as none.
const NONE: f64 = 1e-9;

/// A histogram of the lengths of answers, the recent ones counting most.
///
/// Of the answers that get as far as a bucket, a part ends in it, and the parts together say how many get how far
/// (Kaplan and Meier, 1958). The lengths of those that ended alone would say less: while more and more run, the short
/// ones among them end first. And one that was cut off at the length it may have says only that it got so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OutputLengths {
    /// By bucket, the answers that ended in it, and the sums of their lengths.
    ended: Vec<f64>,
    sums: Vec<f64>,
    /// By bucket, the answers that went on after it.
    passed: Vec<f64>,
    /// By bucket, the mean length expected of answers that end in it or later.
    means: Vec<f64>,
}

impl OutputLengths {
    pub(crate) fn new() -> Self {
        let buckets = || vec![0.0; BUCKETS];
        let (ended, sums, passed, means) = (buckets(), buckets(), buckets(), buckets());
        let mut lengths = Self { ended, sums, passed, means };
        lengths.observe_end(LENGTH_ASSUMED, false);
        lengths
    }

    /// An answer has come to this many tokens, one more than before.
    pub(crate) fn observe_token(&mut self, tokens: u32) {
        let before = bucket(tokens - 1);
        if tokens > 1 && before != bucket(tokens) {
            self.passed[before] += 1.0;
        }
    }

    /// An answer of this many tokens ended, or was cut off there.
    pub(crate) fn observe_end(&mut self, tokens: u32, is_cut: bool) {
        for value in self.ended.iter_mut().chain(&mut self.sums).chain(&mut self.passed) {
            *value *= WEIGHT_KEPT;
        }
        if !is_cut {
            let bucket = bucket(tokens);
            self.ended[bucket] += 1.0;
            self.sums[bucket] += f64::from(tokens);
        }
        let Survival { reaching, longest } = self.survival();
        let (mut weight, mut sum) = (reaching[BUCKETS], reaching[BUCKETS] * longest);
        self.means[BUCKETS - 1] = if weight > NONE { longest } else { 0.0 };
        for bucket in (0..BUCKETS).rev().filter(|bucket| self.ended[*bucket] > 0.0) {
            let part = reaching[bucket] - reaching[bucket + 1];
            weight += part;
            sum += part * self.sums[bucket] / self.ended[bucket];
            self.means[bucket] = if weight > NONE { sum / weight } else { 0.0 };
        }
        for bucket in (0..BUCKETS - 1).rev().filter(|bucket| self.ended[*bucket] == 0.0) {
            self.means[bucket] = self.means[bucket + 1];
        }
    }

    /// How many more tokens an answer is expected to have that has `generated` and may have `tokens_max`: at least one,
    /// unless it has them all.
    pub(crate) fn expected_rest(&self, generated: u32, tokens_max: u32) -> u32 {
        let left = tokens_max - generated;
        let longer = if generated == 0 { 0 } else { (bucket(generated) + 1).min(BUCKETS - 1) };
        let whole = self.means[longer];
        let rest = if whole > f64::from(generated) {
            whole as u32 - generated
        } else {
            longer_than_any(generated)
        };
        rest.max(1).min(left)
    }

    /// Which part of answers get how far.
    pub(crate) fn survival(&self) -> Survival {
        let mut reaching = Vec::with_capacity(BUCKETS + 1);
        let mut part = 1.0;
        for (ended, passed) in self.ended.iter().zip(&self.passed) {
            reaching.push(part);
            if *ended > 0.0 {
                part *= passed / (ended + passed);
            }
        }
        reaching.push(part);
        let is_seen = |bucket: &usize| self.ended[*bucket] + self.passed[*bucket] > NONE;
        let last = (0..BUCKETS).rev().find(is_seen).unwrap_or(0);
        let longest = ((last + 1) as f64 / BUCKETS_PER_DOUBLING as f64).exp2() * (1.0 + LONGER);
        Survival { reaching, longest }
    }
}

/// Longer than any known.
fn longer_than_any(generated: u32) -> u32 {
    ((f64::from(generated) * LONGER) as u32).max(1)
}

fn bucket(tokens: u32) -> usize {
    let bucket = f64::from(tokens.max(1)).log2() * BUCKETS_PER_DOUBLING as f64;
    (bucket as usize).min(BUCKETS - 1)
}

/// Which part of answers get how far.
#[derive(Clone, Debug)]
pub(crate) struct Survival {
    /// By bucket, the part that reaches it; one more for the end of the last.
    reaching: Vec<f64>,
    /// How long those are taken to be of whom no end is known.
    longest: f64,
}

impl Survival {
    /// How many more tokens the given part of all answers has, and no more, that have `generated` and may have
    /// `tokens_max`: at least one.
    pub(crate) fn rest(&self, generated: u32, tokens_max: u32, part: f64) -> u32 {
        let place = f64::from(generated.max(1)).log2() * BUCKETS_PER_DOUBLING as f64;
        let first = (place as usize).min(BUCKETS - 1);
        let within = |bucket: usize| self.reaching[bucket] - self.reaching[bucket + 1];
        let reaching = self.reaching[first] - within(first) * (place - first as f64).min(1.0);
        let sought = reaching * part;
        let ends = |bucket: &usize| self.reaching[bucket + 1] <= sought;
        let rest = match (first..BUCKETS).find(ends) {
            Some(bucket) if reaching > NONE && within(bucket) > 0.0 => {
                let of_bucket = (self.reaching[bucket] - sought) / within(bucket);
                let length = (bucket as f64 + of_bucket) / BUCKETS_PER_DOUBLING as f64;
                (length.exp2() - f64::from(generated)) as u32
            }
            _ => longer_than_any(generated).max((self.longest as u32).saturating_sub(generated)),
        };
        rest.min(tokens_max.saturating_sub(generated)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(lengths: &mut OutputLengths, tokens: u32) {
        (1..=tokens).for_each(|token| lengths.observe_token(token));
        lengths.observe_end(tokens, false);
    }

    #[test]
    fn answers_are_expected_to_be_as_long_as_others_were() {
        let mut lengths = OutputLengths::new();
        assert_eq!(lengths.expected_rest(0, 1000), LENGTH_ASSUMED);
        assert_eq!(lengths.expected_rest(0, 100), 100, "no more than allowed");
        for _ in 0..1000 {
            observe(&mut lengths, 20);
        }
        assert!((19..=25).contains(&lengths.expected_rest(0, 1000)));
        assert!((1..25).contains(&lengths.expected_rest(10, 1000)));
        assert_eq!(lengths.expected_rest(1000, 1000), 0);
    }

    #[test]
    fn one_that_is_longer_than_most_is_expected_to_be_like_the_long_ones() {
        let mut lengths = OutputLengths::new();
        for _ in 0..500 {
            observe(&mut lengths, 10);
            observe(&mut lengths, 500);
        }
        assert!((200..300).contains(&lengths.expected_rest(0, 10_000)));
        assert!((380..420).contains(&lengths.expected_rest(100, 10_000)));
        assert_eq!(lengths.expected_rest(4000, 10_000), 1000, "longer than any");
    }

    /// Answers of 1 to 400 tokens, of all lengths alike.
    fn length_of(number: u32) -> u32 {
        number * 157 % 400 + 1
    }

    #[test]
    fn while_more_and_more_run_the_short_ones_end_first_and_are_not_taken_for_all() {
        let mut lengths = OutputLengths::new();
        // Two more begin with every token.
        for now in 0..300 {
            for number in 0..2 * now {
                let tokens = now - number / 2;
                if tokens <= length_of(number) {
                    lengths.observe_token(tokens);
                }
                if tokens == length_of(number) {
                    lengths.observe_end(tokens, false);
                }
            }
        }
        let expected = lengths.expected_rest(0, 10_000);
        assert!((160..=240).contains(&expected), "{expected}, of those that ended 100 and less");
    }

    #[test]
    fn parts_of_answers_are_as_long_as_answers_were() {
        let mut lengths = OutputLengths::new();
        (0..2000).for_each(|number| observe(&mut lengths, length_of(number)));
        let survival = lengths.survival();
        for (generated, part, rest) in [(0, 0.5, 200), (0, 0.9, 40), (0, 0.1, 360), (200, 0.5, 100)]
        {
            let found = survival.rest(generated, 10_000, part);
            assert!(found.abs_diff(rest) <= 25, "{generated}, {part}: {found} and not {rest}");
        }
        assert_eq!(survival.rest(100, 130, 0.1), 30, "no more than allowed");
        assert_eq!(survival.rest(1000, 10_000, 0.5), 250, "longer than any");
        assert_eq!(survival.rest(10, 10, 0.5), 1);
    }

    #[test]
    fn who_was_cut_off_only_got_so_far() {
        let mut lengths = OutputLengths::new();
        for _ in 0..3000 {
            (1..=100).for_each(|token| lengths.observe_token(token));
            lengths.observe_end(100, true);
        }
        assert_eq!(lengths.expected_rest(0, 60), 60);
        assert_eq!(lengths.survival().rest(0, 60, 0.1), 60);
        let expected = lengths.expected_rest(0, 1000);
        assert!((100..300).contains(&expected), "no end is known: {expected}");
    }
}
