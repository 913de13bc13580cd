//! A generation request as the engine sees it, and what comes back.

use std::{sync::Arc, time::Duration};

use crate::{Fault, RequestId, SamplingParams, TokenId, TokenLogprobs};

/// One sequence to generate. Plain data, so that it can be queued, preempted, moved and resumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Given out by the engine.
    pub id: RequestId,
    /// Tokens to start from; at least one.
    pub prompt: Vec<TokenId>,
    /// How tokens are drawn and which end the request.
    pub sampling: SamplingParams,
    /// Generate at most this many tokens; at least one.
    pub tokens_max: u32,
    /// How it is served among others.
    pub service: Service,
}

/// How a request is served among others, as against what is generated for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Lower is served first.
    pub priority: i32,
    /// How long after its arrival the first token is due, if that is said.
    pub due: Option<Duration>,
    /// On whose behalf it comes; empty is nobody in particular.
    pub tenant: Arc<str>,
    /// Only requests with the same salt may use what is cached of each other.
    pub cache_salt: Arc<str>,
}

/// Why a request ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was drawn: this one. It is the last token of the output.
    StopToken(TokenId),
    /// `tokens_max` tokens are out.
    Length,
}

/// What one request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of those, the first ones that were cached when the request started.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub generated_tokens: u32,
    /// How often the request was preempted and computed again.
    pub preemptions: u32,
    /// From arrival to the first time it was scheduled.
    pub queued_ms: u64,
}

/// One event in the life of a request, in order; the last is `Finished` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestEvent {
    /// The prompt is through; once, before everything else.
    Prefilled {
        /// Tokens of the prompt, from its beginning, that were cached when the request started.
        cached_tokens: u32,
    },
    /// Log-probabilities of prompt tokens 1 and on, whole, once, before the first token.
    PromptLogprobs(Vec<TokenLogprobs>),
    /// The next token.
    Token {
        /// The token drawn.
        token: TokenId,
        /// Its log-probabilities, if asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The request is complete.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// What it used.
        usage: Usage,
    },
    /// The request ended early.
    Failed(Fault),
}
