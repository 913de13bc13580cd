//! Qwen2 and Qwen2.5 (Yang et al. 2024): a llama with biases on queries, keys and values.

use super::{Architecture, llama::plain_decoder, windows::mixed_windows};
use crate::{DecoderSpec, Error, config::Config};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { gguf: Some("qwen2"), hugging_face: "Qwen2ForCausalLM", read };

fn read(config: &Config<'_>) -> Result<DecoderSpec, Error> {
    let plain = plain_decoder(config)?;
    let windows = mixed_windows(config, plain.windows.len())?;
    Ok(DecoderSpec { architecture: "qwen2", qkv_bias: true, windows, ..plain })
}
