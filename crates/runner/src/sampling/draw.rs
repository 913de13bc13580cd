//! Drawing a token: the most likely one, or one at random among those that the cuts leave.

use std::cmp::Ordering;

use types::{SamplingParams, TokenId};

use super::random::uniform;

/// A token with its weight (or logit).
type Candidate = (f32, TokenId);

/// Heavier first; equal ones in order of their ids.
pub(crate) fn by_weight(a: &Candidate, b: &Candidate) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Draws a token for `position` from finite logits, of which some may be banned (negative infinity).
pub(crate) fn draw(logits: &[f32], sampling: &SamplingParams, position: u64) -> TokenId {
    let best = most_likely(logits);
    if sampling.temperature == 0.0 {
        return best.1;
    }
    let mut candidates: Vec<Candidate> = logits
        .iter()
        .zip(0..)
        .map(|(logit, token)| (((logit - best.0) / sampling.temperature).exp(), token))
        .filter(|&(weight, _)| weight > 0.0)
        .collect();
    keep_top_k(&mut candidates, sampling.top_k as usize);
    keep_typical(&mut candidates, sampling.typical_p);
    keep_top_p(&mut candidates, sampling.top_p);
    keep_min_p(&mut candidates, sampling.min_p);
    let target = uniform(sampling.seed, position) * total(&candidates);
    let mut sum = 0.0;
    let drawn = candidates.iter().find(|&&(weight, _)| {
        sum += f64::from(weight);
        sum > target
    });
    // Rounding may leave the target at the very end; no candidate is left only where all weights are 0.
    drawn.or(candidates.last()).map_or(best.1, |&(_, token)| token)
}

fn most_likely(logits: &[f32]) -> Candidate {
    logits
        .iter()
        .copied()
        .zip(0..)
        .fold((f32::NEG_INFINITY, 0), |best, next| if next.0 > best.0 { next } else { best })
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|&(weight, _)| f64::from(weight)).sum()
}

fn keep_top_k(candidates: &mut Vec<Candidate>, count: usize) {
    if count > 0 && count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, by_weight);
        candidates.truncate(count);
    }
}

/// Keeps the heaviest candidates until they hold the mass `top_p`. Sorts ever larger heads of the list, since few
/// candidates usually hold most of the mass.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if top_p >= 1.0 || candidates.is_empty() {
        return;
    }
    let target = f64::from(top_p) * total(candidates);
    let (mut sum, mut sorted) = (0.0, 0);
    let mut head = 64;
    loop {
        let rest = &mut candidates[sorted..];
        let head_len = head.min(rest.len());
        if head_len < rest.len() {
            rest.select_nth_unstable_by(head_len - 1, by_weight);
        }
        rest[..head_len].sort_unstable_by(by_weight);
        let last = rest[..head_len].iter().position(|&(weight, _)| {
            sum += f64::from(weight);
            sum >= target
        });
        if let Some(index) = last {
            candidates.truncate(sorted + index + 1);
            return;
        }
        sorted += head_len;
        if sorted == candidates.len() {
            return;
        }
        head *= 4;
    }
}

fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    if min_p > 0.0 {
        let heaviest = candidates.iter().map(|&(weight, _)| weight).fold(0.0, f32::max);
        candidates.retain(|&(weight, _)| weight >= min_p * heaviest);
    }
}

/// Keeps the candidates whose information content is nearest to the expected one, until they hold the mass `typical_p`
/// (Meister et al. 2023).
fn keep_typical(candidates: &mut Vec<Candidate>, typical_p: f32) {
    if typical_p >= 1.0 || candidates.is_empty() {
        return;
    }
    let total = total(candidates);
    let information = |weight: f32| -(f64::from(weight) / total).ln();
    let expected: f64 =
        candidates.iter().map(|&(weight, _)| f64::from(weight) / total * information(weight)).sum();
    let distance = |candidate: &Candidate| (information(candidate.0) - expected).abs();
    candidates.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.1.cmp(&b.1)));
    let target = f64::from(typical_p) * total;
    let mut sum = 0.0;
    let kept = candidates.iter().position(|&(weight, _)| {
        sum += f64::from(weight);
        sum >= target
    });
    candidates.truncate(kept.map_or(candidates.len(), |index| index + 1));
}
