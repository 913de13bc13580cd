//! The exact bytes of every token, and how bytes become text.

use std::ops::Range;

/// How a vocabulary writes bytes as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// One printable character a byte, as GPT-2 began it.
    ByteLevel,
    /// Plain text with `▁` for a space, and `<0x41>` for bytes that no token covers.
    SentencePiece {
        /// A text was given a space in front, to be taken off again.
        strips_leading_space: bool,
    },
}

/// The bytes of every token of a vocabulary, by id.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// All tokens' bytes, one after the other.
    bytes: Vec<u8>,
    /// Where each token ends.
    ends: Vec<usize>,
    strips_leading_space: bool,
}

/// How one token's text is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// In the vocabulary's alphabet.
    Alphabet,
    /// As it stands: special and other added tokens.
    Literal,
}

impl Pieces {
    /// Reads every token's text.
    pub(crate) fn new<'a>(
        alphabet: Alphabet,
        tokens: impl Iterator<Item = (&'a str, Reading)>,
    ) -> Self {
        let mut pieces = Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            strips_leading_space: alphabet
                == Alphabet::SentencePiece { strips_leading_space: true },
        };
        for (text, reading) in tokens {
            match (reading, alphabet) {
                (Reading::Literal, _) => pieces.bytes.extend_from_slice(text.as_bytes()),
                (Reading::Alphabet, Alphabet::ByteLevel) => byte_level(text, &mut pieces.bytes),
                (Reading::Alphabet, Alphabet::SentencePiece { .. }) => {
                    sentence_piece(text, &mut pieces.bytes);
                }
            }
            pieces.ends.push(pieces.bytes.len());
        }
        pieces
    }

    /// How many tokens there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token; `None` if there is no such token.
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.bytes[Range { start, end }])
    }

    /// A buffer for a text that begins here.
    pub(crate) fn text_buffer(&self) -> TextBuffer {
        TextBuffer { pending: Vec::new(), strip_space: self.strips_leading_space }
    }
}

/// Bytes on their way to being text.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextBuffer {
    /// The start of a code point; three bytes at most.
    pending: Vec<u8>,
    /// Take off a space, if it is the next byte.
    strip_space: bool,
}

impl TextBuffer {
    /// Appends to `text` all that is certain once `bytes` follow. What is not UTF-8 becomes U+FFFD, as in
    /// [`String::from_utf8_lossy`].
    pub(crate) fn push(&mut self, mut bytes: &[u8], text: &mut String) {
        if self.strip_space && !bytes.is_empty() {
            self.strip_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        if self.pending.is_empty() {
            self.pending.extend_from_slice(decode_certain(bytes, text));
        } else {
            let mut joined = std::mem::take(&mut self.pending);
            joined.extend_from_slice(bytes);
            self.pending.extend_from_slice(decode_certain(&joined, text));
        }
    }

    /// Appends what is left.
    pub(crate) fn finish(&mut self, text: &mut String) {
        text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.pending)));
    }
}

/// Appends the text of `bytes` and returns the end that may be the start of a code point.
fn decode_certain<'a>(bytes: &'a [u8], text: &mut String) -> &'a [u8] {
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                return &[];
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                let Some(bad) = error.error_len() else { return after };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &after[bad..];
            }
        }
    }
}

/// Undoes the byte-level alphabet. A token with a character outside the alphabet stands for its own text.
fn byte_level(text: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for character in text.chars() {
        if let Some(byte) = byte_of(character) {
            bytes.push(byte);
        } else {
            bytes.truncate(start);
            bytes.extend_from_slice(text.as_bytes());
            return;
        }
    }
}

/// The byte that a character of the byte-level alphabet stands for. Printable Latin-1 stands for itself; the other
/// bytes, in order, are the characters from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The character of the byte-level alphabet that stands for a byte.
#[cfg(test)]
pub(crate) fn character_of(byte: u8) -> char {
    ('\u{21}'..='\u{143}').find(|c| byte_of(*c) == Some(byte)).expect("every byte has a character")
}

/// Undoes the SentencePiece spelling: `▁` is a space, and `<0x41>` is a byte.
fn sentence_piece(text: &str, bytes: &mut Vec<u8>) {
    match byte_token(text) {
        Some(byte) => bytes.push(byte),
        None => bytes.extend_from_slice(text.replace('▁', " ").as_bytes()),
    }
}

/// The byte of a token such as `<0x41>`.
pub(crate) fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_level_alphabet_covers_each_byte_once() {
        let characters: std::collections::BTreeSet<char> = (0..=255).map(character_of).collect();
        assert_eq!(characters.len(), 256);
        assert_eq!(character_of(b' '), 'Ġ');
        assert_eq!(character_of(b'\n'), 'Ċ');
        assert_eq!(character_of(0xad), 'Ń');
        assert_eq!(
            characters,
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect()
        );
    }

    #[test]
    fn byte_tokens() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        for text in ["<0x+A>", "<0x0>", "<0x00A>", "0x0A", "<0xGG>", "<0x0A> "] {
            assert_eq!(byte_token(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters_once_that_is_certain() {
        let mut buffer = TextBuffer::default();
        let mut push = |bytes: &[u8]| {
            let mut text = String::new();
            buffer.push(bytes, &mut text);
            text
        };
        assert_eq!(push(b"a\xe2\x82"), "a");
        assert_eq!(push(b"\xac!"), "€!");
        assert_eq!(push(b"\xff\xf0\x9f"), "\u{fffd}");
        assert_eq!(push(b"b"), "\u{fffd}b");
        assert_eq!(push(b"\xf0"), "");
        let mut rest = String::new();
        buffer.finish(&mut rest);
        assert_eq!(rest, "\u{fffd}");
    }
}
