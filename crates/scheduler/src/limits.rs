//! What a request must keep to so that it can be served at all, decided before it enters.

use serde::{Deserialize, Serialize};
use types::{CacheGroup, ExecutorInfo, Fault, SamplingParams, TokenId};

/// The limits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most tokens, prompt and output together, that the model can take.
    pub context_max: u32,
    /// Most tokens, prompt and output together, that the KV cache can hold of one request alone.
    pub kv_tokens_max: u64,
    /// Token ids are below.
    pub vocab_size: u32,
}

/// Why a request can never be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing to start from.
    #[error("the prompt is empty")]
    PromptEmpty,
    /// There is nothing to do.
    #[error("tokens_max is 0: at least one token is generated")]
    NothingToGenerate,
    /// The prompt does not fit the model.
    #[error(
        "the prompt has {prompt_tokens} tokens and at least one is generated, but the context is {context_max} tokens"
    )]
    ContextTooSmall {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the context.
        context_max: u32,
    },
    /// The prompt does not fit the KV cache.
    #[error(
        "the prompt has {prompt_tokens} tokens and at least one is generated, but the KV cache holds {kv_tokens_max} tokens"
    )]
    KvTooSmall {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens that the cache holds.
        kv_tokens_max: u64,
    },
    /// A token does not exist.
    #[error("{field} has token {token}, but the vocabulary ends at {vocab_size}")]
    UnknownToken {
        /// Where it is.
        field: &'static str,
        /// The token.
        token: TokenId,
        /// Number of tokens in the vocabulary.
        vocab_size: u32,
    },
}

impl Limits {
    /// The limits that an executor sets.
    pub fn of(info: &ExecutorInfo) -> Self {
        let groups = info.cache_groups.iter();
        Self {
            context_max: info.context_max,
            kv_tokens_max: groups.map(CacheGroup::positions_of_one).min().unwrap_or(u64::MAX),
            vocab_size: info.vocab_size,
        }
    }

    /// How many tokens the request may generate: `tokens_max`, or as many as fit after the prompt if that is less.
    pub fn check(
        &self,
        prompt: &[TokenId],
        sampling: &SamplingParams,
        tokens_max: u32,
    ) -> Result<u32, Refusal> {
        let &Self { context_max, kv_tokens_max, vocab_size } = self;
        let prompt_tokens = prompt.len();
        if prompt_tokens == 0 {
            return Err(Refusal::PromptEmpty);
        }
        if tokens_max == 0 {
            return Err(Refusal::NothingToGenerate);
        }
        if prompt_tokens as u64 >= u64::from(context_max) {
            return Err(Refusal::ContextTooSmall { prompt_tokens, context_max });
        }
        if prompt_tokens as u64 >= kv_tokens_max {
            return Err(Refusal::KvTooSmall { prompt_tokens, kv_tokens_max });
        }
        let bias = sampling.logit_bias.iter().map(|(token, _)| token);
        let unknown = unknown_token("prompt", prompt.iter(), vocab_size)
            .or_else(|| unknown_token("stop_token_ids", sampling.stop_token_ids.iter(), vocab_size))
            .or_else(|| unknown_token("logit_bias", bias, vocab_size));
        if let Some(refusal) = unknown {
            return Err(refusal);
        }
        let room = u64::from(context_max).min(kv_tokens_max) - prompt_tokens as u64;
        Ok(u64::from(tokens_max).min(room) as u32)
    }
}

fn unknown_token<'a>(
    field: &'static str,
    mut tokens: impl Iterator<Item = &'a TokenId>,
    vocab_size: u32,
) -> Option<Refusal> {
    let token = *tokens.find(|token| **token >= vocab_size)?;
    Some(Refusal::UnknownToken { field, token, vocab_size })
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let field = match refusal {
            Refusal::PromptEmpty | Refusal::ContextTooSmall { .. } | Refusal::KvTooSmall { .. } => {
                "prompt"
            }
            Refusal::NothingToGenerate => "tokens_max",
            Refusal::UnknownToken { field, .. } => field,
        };
        Self::invalid(field, refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use types::CacheContent;

    use super::*;

    const LIMITS: Limits = Limits { context_max: 100, kv_tokens_max: 64, vocab_size: 10 };

    fn check(prompt: &[TokenId], tokens_max: u32) -> Result<u32, Refusal> {
        LIMITS.check(prompt, &SamplingParams::default(), tokens_max)
    }

    #[test]
    fn what_fits_is_clipped_and_what_cannot_is_refused_with_both_numbers() {
        assert_eq!(check(&[1; 10], 20), Ok(20));
        assert_eq!(check(&[1; 60], 20), Ok(4));
        assert_eq!(check(&[1; 63], 20), Ok(1));
        let refusal = check(&[1; 64], 1).unwrap_err();
        assert_eq!(refusal, Refusal::KvTooSmall { prompt_tokens: 64, kv_tokens_max: 64 });
        let refusal = check(&[1; 100], 1).unwrap_err();
        assert_eq!(refusal, Refusal::ContextTooSmall { prompt_tokens: 100, context_max: 100 });
        let message = Fault::from(refusal).message;
        assert_eq!(message.matches("100 tokens").count(), 2, "{message}");
    }

    #[test]
    fn the_smallest_cache_group_bounds_a_request() {
        let group = CacheGroup::new;
        let info = ExecutorInfo {
            cache_groups: vec![group(100, 16), group(3, 64)],
            step_tokens_max: 1,
            slots_max: 1,
            context_max: 1000,
            vocab_size: 10,
            steps_in_flight_max: 1,
            draft_tokens_max: 0,
        };
        assert_eq!(Limits::of(&info).kv_tokens_max, 192);
        let windowed =
            |window| CacheGroup { content: CacheContent::Window(window), ..group(3, 64) };
        let with = |group| ExecutorInfo { cache_groups: vec![group], ..info.clone() };
        let positions = |window| Limits::of(&with(windowed(window))).kv_tokens_max;
        assert_eq!([128, 129].map(positions), [u64::MAX, 192], "all that a window shows, or all");
        let state = CacheGroup { content: CacheContent::State(64), ..group(1, 64) };
        assert_eq!(Limits::of(&with(state)).kv_tokens_max, u64::MAX, "one state is enough");
        let without = ExecutorInfo { cache_groups: Vec::new(), ..info };
        assert_eq!(Limits::of(&without).kv_tokens_max, u64::MAX);
    }

    #[test]
    fn nonsense_is_refused_with_the_field() {
        assert_eq!(check(&[], 1), Err(Refusal::PromptEmpty));
        assert_eq!(check(&[1], 0), Err(Refusal::NothingToGenerate));
        assert_eq!(Fault::from(check(&[1, 10], 1).unwrap_err()).field.as_deref(), Some("prompt"));
        let sampling = SamplingParams { stop_token_ids: vec![11], ..SamplingParams::default() };
        let refusal = LIMITS.check(&[1], &sampling, 1).unwrap_err();
        assert_eq!(Fault::from(refusal).field.as_deref(), Some("stop_token_ids"));
        let sampling = SamplingParams { logit_bias: vec![(12, 1.0)], ..SamplingParams::default() };
        let refusal = LIMITS.check(&[1], &sampling, 1).unwrap_err();
        assert_eq!(Fault::from(refusal).field.as_deref(), Some("logit_bias"));
    }
}
