//! Text to tokens and back: vocabularies of Hugging Face folders and of GGUF files, decoding as tokens arrive, and stop
//! strings.
//!
//! Encoding is the `tokenizers` crate's; this crate brings GGUF vocabularies into its form. Decoding is done here, by
//! bytes: every token stands for exact bytes, and text is what those bytes say. So decoding piece by piece gives the
//! same text as decoding at once, never half a code point, at a constant cost per token.

mod build;
mod decoder;
mod error;
mod folder;
mod pieces;
mod stop;
mod tokenizer;
mod vocabulary;

pub use decoder::IncrementalDecoder;
pub use error::Error;
pub use stop::{StopMatcher, StopProgress};
pub use tokenizer::{SpecialTokens, Tokenizer};
pub use vocabulary::{TokenKind, Vocabulary};
