//! From logits to a token: a pure function of the logits, the parameters, the request's tokens and the position.

mod draw;
mod logprobs;
mod penalties;
mod random;

pub(crate) use logprobs::token_logprobs;

use types::{Fault, TokenId, TokenLogprobs};

use crate::slot::Slot;

/// Draws the next token of a request. `logits` is changed by bias and penalties.
///
/// Logits that are not numbers fail the request, and it alone.
pub(crate) fn sample(
    logits: &mut [f32],
    slot: &Slot,
) -> Result<(TokenId, Option<TokenLogprobs>), Fault> {
    check(logits)?;
    let sampling = &slot.sampling;
    // Log-probabilities are of the model, before anything is changed; the token is not known yet.
    let raw = sampling.logprobs.map(|count| (logprobs::log_total(logits), count));
    let top = raw.map(|(log_total, count)| logprobs::top(logits, log_total, count as usize));
    let before: Option<Vec<f32>> =
        (raw.is_some() && penalties::apply_to_any(slot)).then(|| logits.to_vec());
    penalties::apply(logits, slot);
    let token = draw::draw(logits, sampling, slot.tokens.len() as u64);
    let logprobs = raw.zip(top).map(|((log_total, _), top)| {
        let raw = before.as_deref().unwrap_or(logits);
        TokenLogprobs { token, logprob: logprobs::logprob(raw, token, log_total), top }
    });
    Ok((token, logprobs))
}

/// Refuses logits among which there is no finite largest one.
pub(crate) fn check(logits: &[f32]) -> Result<(), Fault> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Every sum with an infinity or a NaN in it is one.
    let sum: f32 = logits.iter().map(|logit| logit * 0.0).sum();
    if sum == 0.0 && largest.is_finite() {
        Ok(())
    } else {
        Err(Fault::internal("the model produced logits that are not finite numbers"))
    }
}

#[cfg(test)]
mod tests;
