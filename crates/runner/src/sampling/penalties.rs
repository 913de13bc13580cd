//! What changes logits before a token is drawn: bias, penalties, and the ban on ending too early.

use crate::slot::Slot;

/// Whether [`apply`] would change anything.
pub(crate) fn apply_to_any(slot: &Slot) -> bool {
    !slot.sampling.logit_bias.is_empty() || slot.occurrences.is_some() || stop_is_banned(slot)
}

fn stop_is_banned(slot: &Slot) -> bool {
    slot.generated() < slot.sampling.tokens_min as usize
}

/// Changes the logits as the request's parameters say, in the order that `SamplingParams` states.
pub(crate) fn apply(logits: &mut [f32], slot: &Slot) {
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
}
