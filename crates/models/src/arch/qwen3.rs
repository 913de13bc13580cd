//! Qwen3 (Yang et al. 2025): a llama whose query and key heads are normalised before they are turned.

use super::{Architecture, llama::plain_decoder, windows::mixed_windows};
use crate::{
    DecoderSpec, Error,
    config::{Config, field},
};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { gguf: Some("qwen3"), hugging_face: "Qwen3ForCausalLM", read };

fn read(config: &Config<'_>) -> Result<DecoderSpec, Error> {
    let plain = plain_decoder(config)?;
    let windows = mixed_windows(config, plain.windows.len())?;
    let attention_bias = config.switch(field("attention_bias", "attention.bias"))?;
    Ok(DecoderSpec {
        architecture: "qwen3",
        qk_norm: true,
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        windows,
        ..plain
    })
}
