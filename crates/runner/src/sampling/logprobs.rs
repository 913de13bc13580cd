//! Log-probabilities of tokens under the model's raw logits.

use device::cpu::Isa;
use types::TokenId;

use super::{
    distribution::Distribution,
    most_likely::{by_likelihood, most_likely},
};

/// Logarithm of the sum of exponentials, `largest` being the largest logit. Sums of floats and rounding of weights
/// together leave it within 2 millionths.
pub(super) fn log_total(isa: Isa, logits: &[f32], largest: f32) -> f64 {
    f64::from(largest) + Distribution::new(isa, logits, largest, 1.0).total().ln()
}

/// Log-probability of a token with this logit.
pub(super) fn logprob(logit: f32, log_total: f64) -> f32 {
    (f64::from(logit) - log_total) as f32
}

/// The `count` most likely tokens, most likely first; equal ones in order of their ids.
pub(super) fn top(isa: Isa, logits: &[f32], log_total: f64, count: usize) -> Vec<(TokenId, f32)> {
    let mut tokens = most_likely(isa, logits, count);
    tokens.sort_unstable_by_key(by_likelihood);
    tokens.into_iter().map(|(logit, token)| (token, logprob(logit, log_total))).collect()
}
