//! What changes logits before a token is drawn: bias, penalties, and the ban on ending too early.

use types::TokenId;

use crate::slot::Slot;

fn stop_is_banned(slot: &Slot) -> bool {
    slot.generated() < slot.sampling.tokens_min as usize
}

/// The tokens whose logits [`apply`] would change, with their logits; some may be named twice.
pub(super) fn changed(logits: &[f32], slot: &Slot) -> Vec<(TokenId, f32)> {
    let sampling = &slot.sampling;
    let biased = sampling.logit_bias.iter().map(|&(token, _)| token);
    let seen = slot.occurrences.iter().flat_map(|occurrences| occurrences.keys().copied());
    let banned = sampling.stop_token_ids.iter().copied().filter(|_| stop_is_banned(slot));
    biased
        .chain(seen)
        .chain(banned)
        .filter_map(|token| Some((token, *logits.get(token as usize)?)))
        .collect()
}

/// Changes the logits as the request's parameters say, in the order that `SamplingParams` states. Returns whether there
/// was anything to change.
pub(super) fn apply(logits: &mut [f32], slot: &Slot) -> bool {
    let sampling = &slot.sampling;
    for &(token, bias) in &sampling.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
    for (&token, seen) in slot.occurrences.iter().flatten() {
        let Some(logit) = logits.get_mut(token as usize) else { continue };
        let penalty = sampling.repetition_penalty;
        *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        if seen.output > 0 {
            *logit -= sampling.frequency_penalty * seen.output as f32 + sampling.presence_penalty;
        }
    }
    if stop_is_banned(slot) {
        for &token in &sampling.stop_token_ids {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    !sampling.logit_bias.is_empty() || slot.occurrences.is_some() || stop_is_banned(slot)
}
