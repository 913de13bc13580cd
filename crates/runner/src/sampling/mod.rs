//! From logits to a token: a pure function of the logits, the parameters, the request's tokens and the position.

mod distribution;
mod draw;
mod logprobs;
mod most_likely;
mod penalties;
mod random;

use device::cpu::Isa;
use kernels::vocabulary::{Survey, survey};
use types::{Fault, TokenId, TokenLogprobs};

use crate::slot::Slot;

/// Draws the next token of a request. `logits` is changed by bias and penalties.
///
/// Logits that are not numbers fail the request, and it alone.
pub(crate) fn sample(
    isa: Isa,
    logits: &mut [f32],
    slot: &Slot,
) -> Result<(TokenId, Option<TokenLogprobs>), Fault> {
    let mut survey = check(isa, logits)?;
    let sampling = &slot.sampling;
    // Log-probabilities are of the model, before anything is changed; the token is not known yet.
    let raw = sampling.logprobs.map(|count| {
        let log_total = logprobs::log_total(isa, logits, survey.largest);
        let top = logprobs::top(isa, logits, log_total, count as usize);
        (log_total, top, penalties::changed(logits, slot))
    });
    if penalties::apply(logits, slot) {
        survey = kernels::vocabulary::survey(isa, logits);
    }
    let token = draw::draw(isa, logits, survey, sampling, slot.tokens.len() as u64);
    let logprobs = raw.map(|(log_total, top, changed)| {
        let before = changed.into_iter().find(|&(changed, _)| changed == token);
        let logit = before.map_or(logits[token as usize], |(_, logit)| logit);
        TokenLogprobs { token, logprob: logprobs::logprob(logit, log_total), top }
    });
    Ok((token, logprobs))
}

/// Log-probabilities at a position of the prompt, where the token is known.
pub(crate) fn token_logprobs(
    isa: Isa,
    logits: &[f32],
    token: TokenId,
    count: usize,
) -> Result<TokenLogprobs, Fault> {
    let survey = check(isa, logits)?;
    let log_total = logprobs::log_total(isa, logits, survey.largest);
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let logprob = logprobs::logprob(logit, log_total);
    Ok(TokenLogprobs { token, logprob, top: logprobs::top(isa, logits, log_total, count) })
}

/// Refuses logits that are not all finite.
fn check(isa: Isa, logits: &[f32]) -> Result<Survey, Fault> {
    let survey = survey(isa, logits);
    if survey.is_finite && !logits.is_empty() { Ok(survey) } else { Err(not_finite()) }
}

/// The fault of a request whose logits are not all finite.
pub(crate) fn not_finite() -> Fault {
    Fault::internal("the model produced logits that are not finite numbers")
}

#[cfg(test)]
mod tests;
