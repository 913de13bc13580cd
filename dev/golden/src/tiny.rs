//! Tiny random models, made in memory, whose numbers transformers has computed (`reference/make.py`).

mod blocks;
mod gguf;
mod hugging_face;
mod values;

pub use gguf::{gguf_of, quantized_gguf};
pub use hugging_face::{folder, hugging_face};

use serde::Deserialize;
use serde_json::Value;
use types::TokenId;

pub use crate::hugging_face::FloatFormat;

/// A tiny model and what transformers makes of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Tiny {
    /// Its name, which is the file's.
    #[serde(skip)]
    pub name: &'static str,
    /// Its `config.json`.
    pub config: Value,
    /// A prompt.
    pub prompt: Vec<TokenId>,
    /// Log-probability of each prompt token but the first.
    pub prompt_logprobs: Vec<f32>,
    /// Log-probabilities of every token after the prompt.
    pub last_logprobs: Vec<f32>,
    /// The most likely tokens that follow.
    pub greedy: Vec<TokenId>,
    /// Their log-probabilities.
    pub greedy_logprobs: Vec<f32>,
}

/// Names and contents of the files.
const FILES: [(&str, &str); 8] = [
    ("llama", include_str!("../tiny/llama.json")),
    ("llama_linear", include_str!("../tiny/llama_linear.json")),
    ("llama_llama3", include_str!("../tiny/llama_llama3.json")),
    ("llama_yarn", include_str!("../tiny/llama_yarn.json")),
    ("mistral", include_str!("../tiny/mistral.json")),
    ("qwen2", include_str!("../tiny/qwen2.json")),
    ("qwen2_windows", include_str!("../tiny/qwen2_windows.json")),
    ("qwen3", include_str!("../tiny/qwen3.json")),
];

/// All tiny models.
///
/// # Panics
/// If a file is not what [`Tiny`] describes.
pub fn all() -> Vec<Tiny> {
    let read = |(name, text)| {
        let tiny: Tiny = serde_json::from_str(text).expect("the file has the fields described");
        Tiny { name, ..tiny }
    };
    FILES.into_iter().map(read).collect()
}

/// The tiny model of this name.
///
/// # Panics
/// If there is none.
pub fn named(name: &str) -> Tiny {
    all().into_iter().find(|tiny| tiny.name == name).expect("a tiny model has this name")
}

/// The numbers of a configuration that decide shapes.
#[derive(Clone, Copy, Debug)]
struct Dimensions {
    width: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    feed_forward: usize,
    vocab_size: usize,
}

impl Dimensions {
    fn of(config: &Value) -> Self {
        let count = |field: &str| config[field].as_u64().map(|value| value as usize);
        let required = |field: &str| count(field).expect("tiny models name their dimensions");
        let (width, heads) = (required("hidden_size"), required("num_attention_heads"));
        Self {
            width,
            layers: required("num_hidden_layers"),
            heads,
            kv_heads: required("num_key_value_heads"),
            head_dim: count("head_dim").unwrap_or(width / heads),
            feed_forward: required("intermediate_size"),
            vocab_size: required("vocab_size"),
        }
    }
}
