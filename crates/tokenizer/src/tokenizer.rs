//! The tokenizer: one interface over both kinds of model files.

use std::path::Path;

use types::TokenId;

use crate::{Error, Vocabulary, build, folder, pieces::Pieces};

/// The tokens that structure a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<TokenId>,
    /// All that end a generation: end of text, end of turn.
    pub eos: Vec<TokenId>,
    /// The text of `bos`, as chat templates want it.
    pub bos_text: Option<String>,
    /// The text of the main end token, as chat templates want it.
    pub eos_text: Option<String>,
}

/// Turns text into tokens and tokens into text.
#[derive(Debug)]
pub struct Tokenizer {
    encoder: tokenizers::Tokenizer,
    /// Put around the tokens of a text when special tokens are asked for, besides what `encoder` does itself.
    prefix: Vec<TokenId>,
    suffix: Vec<TokenId>,
    pieces: Pieces,
    /// By id.
    is_special: Vec<bool>,
    special: SpecialTokens,
    warnings: Vec<String>,
}

/// What the builders make; see the fields of [`Tokenizer`].
pub(crate) struct Parts {
    pub(crate) encoder: tokenizers::Tokenizer,
    pub(crate) prefix: Vec<TokenId>,
    pub(crate) suffix: Vec<TokenId>,
    pub(crate) pieces: Pieces,
    pub(crate) is_special: Vec<bool>,
    pub(crate) special: SpecialTokens,
    pub(crate) warnings: Vec<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a Hugging Face folder, and the special tokens from `tokenizer_config.json`,
    /// `generation_config.json` and `config.json` where they are.
    pub fn from_folder(dir: &Path) -> Result<Self, Error> {
        folder::read(dir).map(Self::from_parts)
    }

    /// Builds the tokenizer of a GGUF file's vocabulary.
    pub fn from_vocabulary(vocabulary: Vocabulary) -> Result<Self, Error> {
        build::build(vocabulary).map(Self::from_parts)
    }

    fn from_parts(parts: Parts) -> Self {
        let Parts { encoder, prefix, suffix, pieces, is_special, special, warnings } = parts;
        Self { encoder, prefix, suffix, pieces, is_special, special, warnings }
    }

    /// The tokens of `text`. The texts of special tokens are recognised in it; `add_special_tokens` puts those around
    /// it that the model expects around a text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<TokenId>, Error> {
        let encoding = self
            .encoder
            .encode_fast(text, add_special_tokens)
            .map_err(|source| Error::Tokenizers { action: "encoding a text", source })?;
        if !add_special_tokens || (self.prefix.is_empty() && self.suffix.is_empty()) {
            return Ok(encoding.get_ids().to_vec());
        }
        Ok([&self.prefix, encoding.get_ids(), &self.suffix].concat())
    }

    /// The text of `ids`. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[TokenId], skip_special_tokens: bool) -> Result<String, Error> {
        let mut buffer = self.pieces.text_buffer();
        let mut text = String::new();
        for &id in ids {
            if let Some(bytes) = self.visible_bytes(id, skip_special_tokens)? {
                buffer.push(bytes, &mut text);
            }
        }
        buffer.finish(&mut text);
        Ok(text)
    }

    /// The text of one token by itself; parts of code points become U+FFFD. Empty if there is no such token.
    pub fn token_text(&self, id: TokenId) -> String {
        String::from_utf8_lossy(self.piece(id).unwrap_or_default()).into_owned()
    }

    /// The exact bytes of one token. Empty if there is no such token.
    pub fn token_bytes(&self, id: TokenId) -> Vec<u8> {
        self.piece(id).unwrap_or_default().to_vec()
    }

    /// Ids are below this.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The tokens that structure a text.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Whether a token controls the model rather than being text.
    pub fn is_special(&self, id: TokenId) -> bool {
        usize::try_from(id)
            .ok()
            .and_then(|index| self.is_special.get(index))
            .copied()
            .unwrap_or(false)
    }

    /// What an operator should know about how the tokenizer was built; empty if all is well.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// The bytes that a token adds to a text; `None` if it is to be left out.
    pub(crate) fn visible_bytes(
        &self,
        id: TokenId,
        skip_special_tokens: bool,
    ) -> Result<Option<&[u8]>, Error> {
        let bytes =
            self.piece(id).ok_or(Error::UnknownToken { id, vocab_size: self.vocab_size() })?;
        Ok((!(skip_special_tokens && self.is_special(id))).then_some(bytes))
    }

    fn piece(&self, id: TokenId) -> Option<&[u8]> {
        self.pieces.get(usize::try_from(id).ok()?)
    }
}
