//! Qwen2 and Qwen2.5 (Yang et al. 2024): a llama with biases on queries, keys and values.

use super::{
    Architecture,
    llama::{plain_decoder, unusable},
};
use crate::{
    DecoderSpec, Error,
    config::{Config, field},
};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { gguf: Some("qwen2"), hugging_face: "Qwen2ForCausalLM", read };

fn read(config: &Config<'_>) -> Result<DecoderSpec, Error> {
    refuse_windows(config)?;
    Ok(DecoderSpec { architecture: "qwen2", qkv_bias: true, ..plain_decoder(config)? })
}

/// Checkpoints carry a window and a switch that is off; no published one turns it on.
pub(super) fn refuse_windows(config: &Config<'_>) -> Result<(), Error> {
    let switch = field("use_sliding_window", "use_sliding_window");
    if config.switch(switch)? {
        return Err(unusable(config, switch, "true", "windows in some layers are not supported"));
    }
    Ok(())
}
