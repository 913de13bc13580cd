//! Drawing a token: the most likely one, or one at random among those that the cuts leave.

use device::cpu::Isa;
use kernels::vocabulary::Survey;
use types::{SamplingParams, TokenId};

use super::{distribution::Distribution, random::uniform};

/// Draws a token for `position` from logits that were surveyed: some may be banned (negative infinity), none is NaN.
pub(super) fn draw(
    isa: Isa,
    logits: &[f32],
    survey: Survey,
    sampling: &SamplingParams,
    position: u64,
) -> TokenId {
    let most_likely = survey.index as TokenId;
    if sampling.temperature == 0.0 {
        return most_likely;
    }
    let mut left = Distribution::new(isa, logits, survey.largest, sampling.temperature);
    if sampling.top_k > 0 {
        left.keep_top_k(sampling.top_k as usize);
    }
    if sampling.typical_p < 1.0 {
        left.keep_typical(sampling.typical_p);
    }
    if sampling.top_p < 1.0 {
        left.keep_top_p(sampling.top_p);
    }
    if sampling.min_p > 0.0 {
        left.keep_min_p(sampling.min_p);
    }
    // No candidate is left only where all weights are 0: the model's logits were finite, a bias or penalty was not.
    left.token_at(uniform(sampling.seed, position)).unwrap_or(most_likely)
}
