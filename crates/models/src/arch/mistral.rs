//! Mistral (Jiang et al. 2023): a llama whose attention may see only a window. Its GGUF files call themselves llama.

use super::{Architecture, llama::plain_decoder};
use crate::{
    DecoderSpec, Error,
    config::{Config, field},
};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { gguf: None, hugging_face: "MistralForCausalLM", read };

fn read(config: &Config<'_>) -> Result<DecoderSpec, Error> {
    let plain = plain_decoder(config)?;
    let window = config
        .count(field("sliding_window", "attention.sliding_window"))?
        .filter(|&window| window > 0);
    Ok(DecoderSpec { architecture: "mistral", windows: vec![window; plain.layers], ..plain })
}
