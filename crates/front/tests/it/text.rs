//! A tokenizer whose tokens are bytes, and a template that is the last message's text. So a test can write down tokens
//! and prompts by hand.

use std::sync::Arc;

use chat::ChatTemplate;
use tokenizer::{TokenKind, Tokenizer, Vocabulary};
use types::TokenId;

/// Ends a text; the ids below it are bytes.
pub(crate) const END: TokenId = 256;
pub(crate) const VOCAB_SIZE: u32 = 257;

/// The character that stands for a byte in byte-level vocabularies: printable ones for themselves, the others from
/// U+0100 on.
fn byte_character(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !printable(*byte)).count() as u32;
    char::from_u32(0x100 + before).unwrap()
}

pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    let mut tokens: Vec<String> = Vec::new();
    tokens.extend((0..=255).map(|byte| byte_character(byte).to_string()));
    tokens.push("<end>".into());
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    kinds[END as usize] = TokenKind::Control;
    let vocabulary = Vocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens,
        kinds,
        eos: Some(END),
        add_bos: Some(false),
        ..Vocabulary::default()
    };
    Arc::new(Tokenizer::from_vocabulary(vocabulary).unwrap())
}

pub(crate) fn template() -> Arc<ChatTemplate> {
    let source = "{% if messages[0].role == 'refused' %}{{ raise_exception('no such role') }}{% endif %}\
                  {{ messages[-1].content }}";
    Arc::new(ChatTemplate::new(source, "", "<end>").unwrap())
}
