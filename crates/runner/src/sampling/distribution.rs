//! A distribution over candidates, and the cuts made of it.
//!
//! Weights are computed from the logits whenever they are needed, a chunk at a time: that takes less time than keeping
//! them, and nothing as large as a vocabulary is allocated, copied or sorted for a token. A cut keeps the first
//! candidates of some order until they hold enough. Where it falls is found digit by digit, in passes that add up what
//! lies under each digit, and from then on it is a condition on each candidate. Usually a few likely tokens are known
//! to hold all that a cut will leave; then they are taken out first, and the vocabulary is not looked at again.

use std::borrow::Cow;

use device::cpu::Isa;
use kernels::vocabulary::{COLLECT_BLOCK, Collect, Weigh, collect, weigh};
use types::TokenId;

use super::most_likely::{Candidate, most_likely, ordered};

/// Logits weighed together: a sum of them in floats is exact to 1.3 millionths, and they stay in the nearest cache.
const CHUNK: usize = 1024;
/// The most tokens that are taken out of the vocabulary; this bounds the memory that a draw takes.
const FEW: usize = 4096;
/// Weights above which tokens are taken out, one after the other, as negative powers of 2: the first is low enough for
/// most distributions of models that are any good, and from the last on a whole vocabulary hardly matters.
const FLOORS: [i32; 3] = [8, 12, 16];

/// Candidates, in the order of their tokens.
pub(super) struct Distribution<'a> {
    isa: Isa,
    logits: Cow<'a, [f32]>,
    /// Of each candidate; absent where they are the whole vocabulary.
    tokens: Option<Vec<TokenId>>,
    largest: f32,
    scale: f32,
    cuts: Vec<Cut>,
}

/// Keeps the candidates of an order up to one of them.
struct Cut {
    order: Order,
    /// Its rank and its place.
    rank: u32,
    place: usize,
}

/// By what a cut orders candidates, first to last; equal ones are in the order of their places.
#[derive(Clone, Copy)]
enum Order {
    /// Likely ones first.
    Likelihood,
    /// Those first whose log-weight is near this one.
    Nearness(f32),
    /// Heavy ones first.
    Weight,
}

impl<'a> Distribution<'a> {
    /// Weights of `e^((logit - largest) / temperature)`, where `largest` is the largest of the logits. Some may be
    /// banned (negative infinity).
    pub(super) fn new(isa: Isa, logits: &'a [f32], largest: f32, temperature: f32) -> Self {
        // Finite, so that the largest is 0 away from itself at any temperature.
        let scale = temperature.recip().min(f32::MAX);
        Self { isa, logits: Cow::Borrowed(logits), tokens: None, largest, scale, cuts: Vec::new() }
    }

    /// What all candidates weigh.
    pub(super) fn total(&self) -> f64 {
        let mut total = 0.0;
        self.for_each_chunk(|chunk| total += chunk.sum());
        total
    }

    /// Keeps the `count` most likely candidates.
    pub(super) fn keep_top_k(&mut self, count: usize) {
        if count >= self.logits.len() {
            return;
        }
        if count > FEW || !self.is_whole() {
            return self.cut(Order::Likelihood, |_| 1.0, count as f64);
        }
        let mut found = most_likely(self.isa, &self.logits, count);
        found.sort_unstable_by_key(|&(_, token)| token);
        *self = self.only(&found);
    }

    /// Keeps the candidates whose information content is nearest to the expected one, until they hold the mass
    /// `typical_p` (Meister et al. 2023). Information is the total's logarithm less the log-weight, so that distances
    /// are those of log-weights.
    pub(super) fn keep_typical(&mut self, typical_p: f32) {
        let (mut total, mut weighted) = (0.0, 0.0);
        self.for_each_chunk(|chunk| {
            total += chunk.sum();
            for (_, logit, weight) in chunk.candidates().filter(|candidate| candidate.2 > 0.0) {
                weighted += f64::from(weight) * f64::from(self.log_weight(logit));
            }
        });
        let expected = (weighted / total) as f32;
        self.cut(Order::Nearness(expected), f64::from, f64::from(typical_p) * total);
    }

    /// Keeps the most likely candidates until they hold the mass `top_p`.
    pub(super) fn keep_top_p(&mut self, top_p: f32) {
        let target = f64::from(top_p) * self.total();
        self.narrow(|_, few| few.total() >= target);
        self.cut(Order::Likelihood, f64::from, target);
    }

    /// Keeps the candidates that weigh at least `min_p` times as much as the heaviest.
    pub(super) fn keep_min_p(&mut self, min_p: f32) {
        // In a whole vocabulary the heaviest weighs 1. Rounding of the floor is far from a factor of 2.
        self.narrow(|floor, _| 2.0 * floor <= min_p);
        let mut heaviest = 0.0_f32;
        self.for_each_chunk(|chunk| {
            heaviest = chunk.weights.iter().copied().fold(heaviest, f32::max);
        });
        let rank = ordered(min_p * heaviest);
        self.cuts.push(Cut { order: Order::Weight, rank, place: usize::MAX });
    }

    /// The token at a point from 0 up to 1 of the distribution; none if nothing weighs anything.
    pub(super) fn token_at(&self, point: f64) -> Option<TokenId> {
        let mut sums = Vec::with_capacity(self.logits.len().div_ceil(CHUNK));
        self.for_each_chunk(|chunk| sums.push(chunk.sum()));
        let target = point * sums.iter().sum::<f64>();
        let mut before = 0.0;
        let reached = sums.iter().position(|sum| {
            let is_reached = before + sum > target;
            if !is_reached {
                before += sum;
            }
            is_reached
        });
        // Rounding may leave the target at the very end of all, or of a chunk.
        let index = reached.or_else(|| sums.iter().rposition(|&sum| sum > 0.0))?;
        let mut weights = [0.0; CHUNK];
        let chunk = self.chunk(index, &mut weights);
        let mut drawn = None;
        for (place, _, weight) in chunk.candidates().filter(|candidate| candidate.2 > 0.0) {
            drawn = Some(place);
            before += f64::from(weight);
            if before > target {
                break;
            }
        }
        drawn.map(|place| self.tokens.as_ref().map_or(place as TokenId, |tokens| tokens[place]))
    }

    /// Whether this is the vocabulary as it came.
    fn is_whole(&self) -> bool {
        self.tokens.is_none() && self.cuts.is_empty()
    }

    /// Takes the tokens out that weigh most, if `suffices` says of a floor to the weights, and of the tokens above it,
    /// that they hold all that a cut will leave.
    fn narrow(&mut self, suffices: impl Fn(f32, &Self) -> bool) {
        if !self.is_whole() || self.logits.len() <= FEW {
            return;
        }
        let mut found = Vec::with_capacity(FEW + COLLECT_BLOCK);
        for exponent in FLOORS {
            found.clear();
            let distance = f64::from(exponent) * std::f64::consts::LN_2 / f64::from(self.scale);
            let floor = ((f64::from(self.largest) - distance) as f32).next_down();
            let row = &self.logits[..];
            let args = Collect { row, start: 0, floor, limit: FEW, found: &mut found };
            if collect(self.isa, args) < row.len() {
                return;
            }
            let few = self.only(&found);
            if suffices(0.5_f32.powi(exponent), &few) {
                *self = few;
                return;
            }
        }
    }

    /// The same distribution over some of a whole vocabulary's tokens.
    fn only(&self, found: &[Candidate]) -> Self {
        let (logits, tokens): (Vec<f32>, _) = found.iter().copied().unzip();
        let Self { isa, largest, scale, .. } = *self;
        let logits = Cow::Owned(logits);
        Self { isa, logits, tokens: Some(tokens), largest, scale, cuts: Vec::new() }
    }

    /// Keeps the first candidates of an order until their masses sum to `target`.
    fn cut(&mut self, order: Order, mass: impl Fn(f32) -> f64, target: f64) {
        /// Bits of a rank that are looked at together; three passes see all of them.
        const DIGIT: u32 = 11;
        let (mut known, mut before) = (0_u64, 0.0);
        let mut ranks = [0; CHUNK];
        for shift in [22, 11, 0] {
            let mut masses = [0.0; 1 << DIGIT];
            self.for_each_chunk(|chunk| {
                self.rank(order, chunk.logits, chunk.weights, &mut ranks);
                for (&rank, &weight) in ranks.iter().zip(chunk.weights) {
                    let is_under = u64::from(rank) >> (shift + DIGIT) == known;
                    // Adding nothing is quicker than a branch that cannot be foreseen.
                    let mass = if is_under { mass(weight) } else { 0.0 };
                    masses[(rank >> shift) as usize % masses.len()] += mass;
                }
            });
            let digit = masses.iter().rposition(|mass| {
                let is_reached = before + mass >= target;
                if !is_reached {
                    before += mass;
                }
                is_reached
            });
            let Some(digit) = digit else {
                // All together do not reach the target, or past the first digit, rounding alone is missing.
                let rank = (known << (shift + DIGIT)) as u32;
                self.cuts.push(Cut { order, rank, place: usize::MAX });
                return;
            };
            known = known << DIGIT | digit as u64;
        }
        let (last_rank, mut last) = (known as u32, usize::MAX);
        self.for_each_chunk(|chunk| {
            self.rank(order, chunk.logits, chunk.weights, &mut ranks);
            let candidates = (chunk.first..).zip(ranks.iter().zip(chunk.weights));
            for (place, (_, &weight)) in candidates.filter(|(_, (rank, _))| **rank == last_rank) {
                if before < target {
                    before += mass(weight);
                    last = place;
                }
            }
        });
        self.cuts.push(Cut { order, rank: last_rank, place: last });
    }

    /// Ranks candidates: those that come earlier in the order have higher ranks.
    fn rank(&self, order: Order, logits: &[f32], weights: &[f32], ranks: &mut [u32; CHUNK]) {
        let ranks = ranks.iter_mut();
        match order {
            Order::Likelihood => {
                ranks.zip(logits).for_each(|(rank, &logit)| *rank = ordered(logit));
            }
            Order::Nearness(expected) => ranks.zip(logits).for_each(|(rank, &logit)| {
                *rank = ordered(-(self.log_weight(logit) - expected).abs());
            }),
            Order::Weight => {
                ranks.zip(weights).for_each(|(rank, &weight)| *rank = ordered(weight));
            }
        }
    }

    fn log_weight(&self, logit: f32) -> f32 {
        (logit - self.largest) * self.scale
    }

    fn for_each_chunk(&self, mut visit: impl FnMut(Chunk<'_>)) {
        let mut weights = [0.0; CHUNK];
        for index in 0..self.logits.len().div_ceil(CHUNK) {
            visit(self.chunk(index, &mut weights));
        }
    }

    fn chunk<'c>(&'c self, index: usize, weights: &'c mut [f32; CHUNK]) -> Chunk<'c> {
        let first = index * CHUNK;
        let logits = &self.logits[first..self.logits.len().min(first + CHUNK)];
        let weights = &mut weights[..logits.len()];
        let Self { isa, largest, scale, .. } = *self;
        let sum = weigh(isa, Weigh { logits, largest, scale, weights });
        for cut in &self.cuts {
            let mut ranks = [0; CHUNK];
            self.rank(cut.order, logits, weights, &mut ranks);
            for ((place, rank), weight) in (first..).zip(ranks).zip(&mut *weights) {
                let is_kept = rank > cut.rank || (rank == cut.rank && place <= cut.place);
                *weight = if is_kept { *weight } else { 0.0 };
            }
        }
        let sum = self.cuts.is_empty().then_some(sum);
        Chunk { first, logits, weights, sum }
    }
}

/// Some neighbouring candidates; those cut off weigh nothing.
struct Chunk<'a> {
    first: usize,
    logits: &'a [f32],
    weights: &'a [f32],
    /// What they weigh, where it is known.
    sum: Option<f64>,
}

impl Chunk<'_> {
    fn sum(&self) -> f64 {
        self.sum.unwrap_or_else(|| self.weights.iter().map(|&weight| f64::from(weight)).sum())
    }

    /// Place, logit and weight of each candidate.
    fn candidates(&self) -> impl Iterator<Item = (usize, f32, f32)> {
        let values = self.logits.iter().zip(self.weights);
        (self.first..).zip(values).map(|(place, (&logit, &weight))| (place, logit, weight))
    }
}
