//! The reference file.

use serde::Deserialize;
use types::TokenId;

/// Everything in the file that models are compared with.
#[derive(Deserialize)]
pub struct Reference {
    /// Greedy generations.
    pub generate: Vec<Generation>,
}

/// One prompt and what follows.
#[derive(Deserialize)]
pub struct Generation {
    /// The prompt as text.
    pub text: String,
    /// The prompt as tokens.
    pub prompt_ids: Vec<TokenId>,
    /// Negative log-likelihood of each prompt token but the first.
    pub prompt_nll: Vec<f32>,
    /// The ten most likely tokens after the prompt, with their log-probabilities.
    pub last_top10: Vec<(TokenId, f32)>,
    /// The most likely token at each step.
    pub greedy_ids: Vec<TokenId>,
    /// By how much its logit exceeds the next.
    pub greedy_margin: Vec<f32>,
}

/// Reads the file.
///
/// # Panics
/// If it is not what this module describes.
pub fn read() -> Reference {
    let text = include_str!("../smollm2-135m-instruct-q4_1.json");
    serde_json::from_str(text).expect("the reference has the fields described")
}
