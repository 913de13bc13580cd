//! How a request's tokens are drawn from logits.

use serde::{Deserialize, Serialize};

use crate::TokenId;

/// Sampling parameters of one request, already checked and resolved: a token is a pure function of the logits, these
/// parameters, the request's tokens so far and the position.
///
/// Order of application: logit bias, repetition, frequency and presence penalties, the ban on stop tokens before
/// `tokens_min`, temperature, then top-k, typical, top-p and min-p.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// Divides the logits; 0 means greedy.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the most likely tokens whose probabilities sum to `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Keep the tokens closest to the expected information content until they hold this mass; 1 keeps all.
    pub typical_p: f32,
    /// Divides positive logits and multiplies negative ones of tokens seen in prompt or output; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token of the output.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token of the output, once per occurrence.
    pub frequency_penalty: f32,
    /// Added to the logits of the tokens named.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Key of the counter-based generator.
    pub seed: u64,
    /// End the request when one of these is drawn (end-of-sequence tokens included, unless they are to be ignored).
    pub stop_token_ids: Vec<TokenId>,
    /// Do not draw a stop token before this many tokens are out.
    pub tokens_min: u32,
    /// Report the log-probability of each token drawn and of this many most likely alternatives.
    pub logprobs: Option<u32>,
    /// Report the same for each token of the prompt but the first.
    pub prompt_logprobs: Option<u32>,
}

impl Default for SamplingParams {
    /// Plain sampling at temperature 1.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            stop_token_ids: Vec::new(),
            tokens_min: 0,
            logprobs: None,
            prompt_logprobs: None,
        }
    }
}

impl SamplingParams {
    /// The most likely token at each position.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }
}

/// Natural-log probabilities at one position, taken from the model's raw logits (before bias, penalties and cuts).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// The token at this position.
    pub token: TokenId,
    /// Its log-probability.
    pub logprob: f32,
    /// The most likely tokens here with their log-probabilities, most likely first.
    pub top: Vec<(TokenId, f32)>,
}
