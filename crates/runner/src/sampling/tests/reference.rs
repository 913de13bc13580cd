//! Draws and log-probabilities against a slow, obvious reference: everything in double precision, everything sorted.
//!
//! Sums and weights of floats are a few millionths off, which decides a draw where a cut or the random number falls on
//! the very border of a token. So the reference is also asked with each border moved a little, and one answer must fit.

use std::cmp::Ordering;

use device::cpu::Rung;
use proptest::{prelude::*, test_runner::RngSeed};

use super::*;

/// How far borders are moved: relative for masses, absolute for logarithms.
const NUDGE: f64 = 1e-5;

/// Borders moved by this much: the drawn point, typical's expectation and mass, the mass of top-p, the floor of min-p.
type Nudges = [f64; 5];

#[derive(Clone)]
struct Candidate {
    token: TokenId,
    logit: f32,
    weight: f64,
}

/// The most likely first, equal ones by their tokens; the zeros of both signs are equal.
fn by_likelihood(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap().then(a.token.cmp(&b.token))
}

fn mass(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// Keeps the first candidates until they hold a mass.
fn keep(candidates: &mut Vec<Candidate>, target: f64) {
    let mut sum = 0.0;
    let last = candidates.iter().position(|candidate| {
        sum += candidate.weight;
        sum >= target
    });
    candidates.truncate(last.map_or(candidates.len(), |last| last + 1));
}

/// `sorted`: the most likely first, equal ones by their tokens.
fn reference(
    sorted: &[Candidate],
    sampling: &SamplingParams,
    position: u64,
    nudges: Nudges,
) -> TokenId {
    let [point, expectation, typical, top_p, min_p] = nudges;
    let mut left = sorted.to_vec();
    if sampling.top_k > 0 {
        left.truncate(sampling.top_k as usize);
    }
    left.retain(|candidate| candidate.weight > 0.0);
    if sampling.typical_p < 1.0 {
        let total = mass(&left);
        let information = |candidate: &Candidate| -(candidate.weight / total).ln();
        let weighted = |candidate: &Candidate| candidate.weight / total * information(candidate);
        let expected = left.iter().map(weighted).sum::<f64>() + expectation;
        // Tokens whose weights differ in the last bits alone are as far.
        let distance =
            |candidate: &Candidate| ((information(candidate) - expected).abs() * 1e9) as u64;
        left.sort_by_cached_key(|candidate| (distance(candidate), candidate.token));
        keep(&mut left, f64::from(sampling.typical_p) * total * (1.0 + typical));
        left.sort_by(by_likelihood);
    }
    if sampling.top_p < 1.0 {
        let target = f64::from(sampling.top_p) * mass(&left) * (1.0 + top_p);
        keep(&mut left, target);
    }
    let floor = left.first().map_or(0.0, |heaviest| heaviest.weight) * f64::from(sampling.min_p);
    left.retain(|candidate| candidate.weight >= floor * (1.0 + min_p));
    left.sort_by_key(|candidate| candidate.token);
    let target = (random::uniform(sampling.seed, position) + point) * mass(&left);
    let mut sum = 0.0;
    let drawn = left.iter().find(|candidate| {
        sum += candidate.weight;
        sum > target
    });
    drawn.or(left.last()).map_or(sorted[0].token, |candidate| candidate.token)
}

/// Every candidate, the most likely first, equal ones by their tokens.
fn sorted(logits: &[f32], temperature: f32) -> Vec<Candidate> {
    let mut sorted: Vec<Candidate> = logits
        .iter()
        .zip(0..)
        .map(|(&logit, token)| Candidate { token, logit, weight: 0.0 })
        .collect();
    sorted.sort_by(by_likelihood);
    let largest = f64::from(sorted[0].logit);
    for candidate in &mut sorted {
        let distance = f64::from(candidate.logit) - largest;
        candidate.weight = (distance / f64::from(temperature)).exp();
    }
    sorted
}

/// The draws that borders moved a little would lead to.
fn nearby(
    sorted: &[Candidate],
    sampling: &SamplingParams,
    position: u64,
) -> impl Iterator<Item = TokenId> {
    let has_typical = sampling.typical_p < 1.0;
    let moves = [true, has_typical, has_typical, sampling.top_p < 1.0, sampling.min_p > 0.0];
    (0..3_usize.pow(5)).filter_map(move |combination| {
        let steps: [usize; 5] =
            std::array::from_fn(|index| combination / 3_usize.pow(index as u32) % 3);
        let is_meant = steps.iter().zip(moves).all(|(&step, moves)| step == 0 || moves);
        let nudges = steps.map(|step| [0.0, NUDGE, -NUDGE][step]);
        is_meant.then(|| reference(sorted, sampling, position, nudges))
    })
}

/// What logits are made from.
#[derive(Clone, Copy, Debug)]
struct Shape {
    len: usize,
    seed: u64,
    /// Deviation of a bell curve.
    spread: f64,
    /// Values are whole multiples of this: at a coarse one many are equal.
    grid: f64,
    /// Tokens that stand out above all.
    peaks: u64,
    /// One in so many tokens is banned; none at 0.
    bans: u64,
}

impl Shape {
    fn logits(self) -> Vec<f32> {
        let mut logits: Vec<f32> = (0..self.len as u64)
            .map(|token| {
                let sum: f64 =
                    (0..6).map(|term| random::uniform(self.seed + token, term)).sum::<f64>() - 3.0;
                ((sum * 1.4 * self.spread / self.grid).round() * self.grid) as f32
            })
            .collect();
        for peak in 0..self.peaks {
            let place = random::uniform(self.seed, 100 + peak) * self.len as f64;
            let height = self.spread * (4.0 + 2.0 * random::uniform(self.seed, 200 + peak));
            logits[place as usize] = ((height / self.grid).round() * self.grid) as f32;
        }
        for (token, logit) in logits.iter_mut().enumerate() {
            let share = if self.bans == 0 { 0.0 } else { 1.0 / self.bans as f64 };
            if random::uniform(self.seed + 1, 300 + token as u64) < share {
                *logit = f32::NEG_INFINITY;
            }
        }
        logits
    }
}

/// Lengths below, around and above the chunk in which weights are computed and the number of tokens that are taken out.
fn shapes() -> impl Strategy<Value = Shape> {
    let len = prop_oneof![1_usize..40, 1000_usize..1100, 2000_usize..2100, 4000_usize..9000];
    let spread = prop::sample::select(vec![0.0, 0.02, 1.0, 2.5, 30.0, 1e4]);
    let grid = prop::sample::select(vec![1.0 / 64.0, 0.25, 2.0]);
    let bans = prop::sample::select(vec![0, 0, 1, 2, 10]);
    (len, 0..u64::MAX / 2, spread, grid, 0..50_u64, bans).prop_map(
        |(len, seed, spread, grid, peaks, bans)| Shape { len, seed, spread, grid, peaks, bans },
    )
}

fn parameters() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop::sample::select(vec![0.0, 1e-40, 0.01, 0.3, 0.8, 1.0, 2.0, 100.0]);
    let top_k = prop::sample::select(vec![0, 0, 0, 1, 2, 40, 1024, 4096, 4097, 6000, u32::MAX]);
    let top_p = prop::sample::select(vec![1.0, 1.0, f32::MIN_POSITIVE, 0.1, 0.5, 0.95, 0.999]);
    let min_p = prop::sample::select(vec![0.0, 0.0, 1e-6, 1e-4, 0.05, 0.5, 1.0]);
    let typical_p = prop::sample::select(vec![1.0, 1.0, 1.0, 0.01, 0.2, 0.95]);
    (temperature, top_k, top_p, min_p, typical_p, any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, typical_p, seed)| SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            typical_p,
            seed,
            ..SamplingParams::default()
        },
    )
}

fn rungs() -> impl Iterator<Item = Isa> {
    let detected = Isa::detect();
    let has = move |rung: &Rung| *rung <= detected.rung();
    Rung::ALL.iter().copied().filter(has).map(move |rung| detected.capped(rung))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn draws_are_those_of_the_reference(
        shape in shapes(),
        sampling in parameters(),
        positions in prop::collection::vec(0_u64..1 << 40, 3),
    ) {
        let logits = shape.logits();
        let sorted = sorted(&logits, sampling.temperature);
        for position in positions {
            let wanted = if sampling.temperature == 0.0 {
                sorted[0].token
            } else {
                reference(&sorted, &sampling, position, [0.0; 5])
            };
            for isa in rungs() {
                let survey = kernels::vocabulary::survey(isa, &logits);
                let got = draw::draw(isa, &logits, survey, &sampling, position);
                prop_assert!(
                    got == wanted || nearby(&sorted, &sampling, position).any(|token| token == got),
                    "{isa:?}: {got}, not {wanted}"
                );
            }
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_reference(
        shape in shapes(),
        count in 0_usize..300,
    ) {
        let logits = Shape { bans: 0, ..shape }.logits();
        let mut sorted: Vec<(f32, TokenId)> = logits.iter().copied().zip(0..).collect();
        sorted.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap().then(a.1.cmp(&b.1)));
        let largest = f64::from(sorted[0].0);
        let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        let logprob = |logit: f32| f64::from(logit) - largest - total.ln();
        for isa in rungs() {
            let got = token_logprobs(isa, &logits, 0, count).unwrap();
            let pairs = got.top.iter().zip(&sorted);
            let pairs = pairs.map(|(&(token, got), &(logit, wanted))| (token, wanted, got, logit));
            let all = pairs.chain([(0, 0, got.logprob, logits[0])]);
            for (token, wanted, got, logit) in all {
                prop_assert_eq!(token, wanted);
                let error = (f64::from(got) - logprob(logit)).abs();
                prop_assert!(error <= 3e-6 + 1e-7 * logprob(logit).abs(), "{:?}: {}", isa, error);
            }
            prop_assert_eq!(got.top.len(), count.min(logits.len()));
        }
    }
}

#[test]
fn borders_are_seldom_so_near_that_two_answers_fit() {
    let shape = Shape { len: 5000, seed: 3, spread: 2.5, grid: 0.25, peaks: 40, bans: 10 };
    let logits = shape.logits();
    let sampling = SamplingParams { top_p: 0.9, min_p: 0.01, ..SamplingParams::default() };
    let sorted = sorted(&logits, sampling.temperature);
    let differs = |at: &u64| {
        let mut tokens = nearby(&sorted, &sampling, *at);
        let first = tokens.next();
        tokens.any(|token| Some(token) != first)
    };
    let count = (0..100).filter(differs).count();
    assert!(count <= 3, "{count} of 100");
}
