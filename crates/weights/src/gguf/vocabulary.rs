//! The keys that carry a vocabulary.

use super::Metadata;
use crate::Error;

/// The vocabulary of a file, as its keys state it.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is the key of the same name")]
pub struct VocabularyKeys<'a> {
    pub model: &'a str,
    pub pre: Option<&'a str>,
    pub tokens: &'a [String],
    pub scores: &'a [f32],
    pub token_types: Vec<i64>,
    pub merges: &'a [String],
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    /// The chat template, if the file has one.
    pub chat_template: Option<&'a str>,
}

impl Metadata {
    /// The vocabulary; an error if the file has none, or keys of the wrong types.
    pub fn vocabulary(&self) -> Result<VocabularyKeys<'_>, Error> {
        Ok(VocabularyKeys {
            model: self.require("tokenizer.ggml.model")?,
            pre: self.find("tokenizer.ggml.pre")?,
            tokens: self.require("tokenizer.ggml.tokens")?,
            scores: self.find("tokenizer.ggml.scores")?.unwrap_or_default(),
            token_types: self.find("tokenizer.ggml.token_type")?.unwrap_or_default(),
            merges: self.find("tokenizer.ggml.merges")?.unwrap_or_default(),
            bos: self.find("tokenizer.ggml.bos_token_id")?,
            eos: self.find("tokenizer.ggml.eos_token_id")?,
            eot: self.find("tokenizer.ggml.eot_token_id")?,
            unk: self.find("tokenizer.ggml.unknown_token_id")?,
            pad: self.find("tokenizer.ggml.padding_token_id")?,
            add_bos: self.find("tokenizer.ggml.add_bos_token")?,
            add_eos: self.find("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: self.find("tokenizer.ggml.add_space_prefix")?,
            chat_template: self.find("tokenizer.chat_template")?,
        })
    }
}
