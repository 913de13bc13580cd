//! Decoding as tokens arrive.

use std::sync::Arc;

use types::TokenId;

use crate::{Error, Tokenizer, pieces::TextBuffer};

/// Turns tokens into text one by one. All the text put together is what [`Tokenizer::decode`] gives for all the tokens.
#[derive(Clone, Debug)]
pub struct IncrementalDecoder {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    buffer: TextBuffer,
}

impl IncrementalDecoder {
    /// Decodes a text from its beginning.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special_tokens: bool) -> Self {
        let buffer = tokenizer.pieces().text_buffer();
        Self { tokenizer, skip_special_tokens, buffer }
    }

    /// Decodes the continuation of a text: a leading space belongs to it even where a text would not begin with one.
    pub fn continuing(tokenizer: Arc<Tokenizer>, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, buffer: TextBuffer::default() }
    }

    /// Takes the next token and returns the text that became certain, maybe none: what may be the start of a code
    /// point waits for its rest.
    pub fn push(&mut self, id: TokenId) -> Result<String, Error> {
        let mut text = String::new();
        if let Some(bytes) = self.tokenizer.visible_bytes(id, self.skip_special_tokens)? {
            self.buffer.push(bytes, &mut text);
        }
        Ok(text)
    }

    /// The end: bytes that never became a code point turn into U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.buffer.finish(&mut text);
        text
    }
}

#[cfg(test)]
mod tests;
