//! A vocabulary as plain data, as GGUF files carry it.

use types::TokenId;

/// What a token is for. The numbers are GGUF's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    #[default]
    Normal,
    /// Stands for what no other token covers.
    Unknown,
    /// Controls the model, such as the end of a turn; no part of the text.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Not used.
    Unused,
    /// One byte, written `<0x41>`.
    Byte,
}

impl TokenKind {
    /// The kind with this number in a GGUF file.
    pub fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            // Zero is "undefined"; converters that did not know better wrote it for plain tokens.
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// A vocabulary as plain data.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece-style BPE with byte fallback).
    pub model: String,
    /// How text is cut before merging, by the name GGUF uses; only for `gpt2`.
    pub pre: Option<String>,
    /// The tokens' texts, by id.
    pub tokens: Vec<String>,
    /// The tokens' scores, by id; only for `llama`.
    pub scores: Vec<f32>,
    /// The tokens' kinds, by id; empty means that all are normal.
    pub kinds: Vec<TokenKind>,
    /// Merges, most important first: two tokens with a space between; only for `gpt2`.
    pub merges: Vec<String>,
    /// Beginning of a text.
    pub bos: Option<TokenId>,
    /// End of a text.
    pub eos: Option<TokenId>,
    /// End of a turn.
    pub eot: Option<TokenId>,
    /// Stands for what no other token covers.
    pub unk: Option<TokenId>,
    /// Fills batches.
    pub pad: Option<TokenId>,
    /// Put `bos` first when special tokens are asked for; `None` takes the default of the model and pre-tokenizer.
    pub add_bos: Option<bool>,
    /// Put `eos` last when special tokens are asked for.
    pub add_eos: Option<bool>,
    /// Put a space before the text; only for `llama`, where it is the default.
    pub add_space_prefix: Option<bool>,
}

impl Vocabulary {
    /// The kind of the token `index`.
    pub(crate) fn kind(&self, index: usize) -> TokenKind {
        self.kinds.get(index).copied().unwrap_or_default()
    }
}
