//! Log-probabilities of tokens under the model's raw logits.

use types::{TokenId, TokenLogprobs};

use super::draw::by_weight;

/// Logarithm of the sum of exponentials.
pub(crate) fn log_total(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
    f64::from(largest) + total.ln()
}

/// Log-probability of one token.
pub(crate) fn logprob(logits: &[f32], token: TokenId, log_total: f64) -> f32 {
    logits
        .get(token as usize)
        .map_or(f32::NEG_INFINITY, |logit| (f64::from(*logit) - log_total) as f32)
}

/// The `count` most likely tokens, most likely first; equal ones in order of their ids.
pub(crate) fn top(logits: &[f32], log_total: f64, count: usize) -> Vec<(TokenId, f32)> {
    let count = count.min(logits.len());
    if count == 0 {
        return Vec::new();
    }
    let mut tokens: Vec<(f32, TokenId)> = logits.iter().copied().zip(0..).collect();
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count - 1, by_weight);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(by_weight);
    tokens
        .into_iter()
        .map(|(logit, token)| (token, (f64::from(logit) - log_total) as f32))
        .collect()
}

/// Log-probabilities at a position of the prompt, where the token is known.
pub(crate) fn token_logprobs(logits: &[f32], token: TokenId, count: usize) -> TokenLogprobs {
    let log_total = log_total(logits);
    TokenLogprobs {
        token,
        logprob: logprob(logits, token, log_total),
        top: top(logits, log_total, count),
    }
}
