//! The architectures: one file each, one line in [`ARCHITECTURES`].

mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod windows;

use weights::Weights;

use crate::{DecoderSpec, Error, config::Config};

/// An architecture: what checkpoints call it, and how its configuration is read.
pub(crate) struct Architecture {
    /// `general.architecture` of GGUF files.
    gguf: Option<&'static str>,
    /// `architectures` of Hugging Face checkpoints.
    hugging_face: &'static str,
    read: fn(&Config<'_>) -> Result<DecoderSpec, Error>,
}

const ARCHITECTURES: [Architecture; 4] =
    [llama::ARCHITECTURE, mistral::ARCHITECTURE, qwen2::ARCHITECTURE, qwen3::ARCHITECTURE];

/// Names of the supported architectures, as Hugging Face checkpoints write them.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.hugging_face)
}

/// Reads what kind of model a checkpoint holds.
pub fn describe(weights: &Weights) -> Result<DecoderSpec, Error> {
    let config = Config::new(weights)?;
    let name = config.architecture();
    let architecture = ARCHITECTURES
        .iter()
        .find(|architecture| {
            if config.is_gguf() {
                architecture.gguf == Some(name)
            } else {
                architecture.hugging_face == name
            }
        })
        .ok_or_else(|| Error::UnknownArchitecture {
            name: name.to_owned(),
            supported: architectures().collect::<Vec<_>>().join(", "),
        })?;
    (architecture.read)(&config)?.validate()
}
