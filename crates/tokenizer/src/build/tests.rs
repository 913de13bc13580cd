//! Tests with small vocabularies of both kinds.

use proptest::prelude::*;

use crate::{Error, TokenKind, Tokenizer, Vocabulary, pieces::character_of};

/// Byte-level: all bytes, a few merges, special and user-defined tokens.
pub(crate) fn byte_level() -> Vocabulary {
    let mut vocabulary = Vocabulary {
        model: "gpt2".to_owned(),
        pre: Some("smollm".to_owned()),
        tokens: vec!["<|start|>".to_owned(), "<|im_end|>".to_owned(), "<tool call>".to_owned()],
        kinds: vec![TokenKind::Control, TokenKind::Control, TokenKind::UserDefined],
        merges: ["Ġ t", "h e", "Ġt he", "l l", "he ll", "hell o"].map(str::to_owned).into(),
        bos: Some(0),
        eos: Some(1),
        ..Vocabulary::default()
    };
    vocabulary.tokens.extend((0..=255).map(|byte| character_of(byte).to_string()));
    vocabulary.tokens.extend(["Ġt", "he", "Ġthe", "ll", "hell", "hello"].map(str::to_owned));
    vocabulary.kinds.resize(vocabulary.tokens.len(), TokenKind::Normal);
    vocabulary
}

/// SentencePiece-style: the unknown token, controls, all bytes as tokens, some pieces with scores.
pub(crate) fn sentence_piece() -> Vocabulary {
    let mut tokens: Vec<(String, f32, TokenKind)> = vec![
        ("<unk>".to_owned(), 0.0, TokenKind::Unknown),
        ("<s>".to_owned(), 0.0, TokenKind::Control),
        ("</s>".to_owned(), 0.0, TokenKind::Control),
    ];
    tokens.extend((0..=255).map(|byte: u8| (format!("<0x{byte:02X}>"), 0.0, TokenKind::Byte)));
    let pieces = ["▁t", "he", "▁the", "▁a", "▁▁", "▁", "t", "h", "e", "a", "b", "c", "日"];
    let pieces = pieces.iter().enumerate();
    tokens
        .extend(pieces.map(|(rank, text)| ((*text).to_owned(), -(rank as f32), TokenKind::Normal)));
    Vocabulary {
        model: "llama".to_owned(),
        tokens: tokens.iter().map(|(text, ..)| text.clone()).collect(),
        scores: tokens.iter().map(|(_, score, _)| *score).collect(),
        kinds: tokens.iter().map(|(.., kind)| *kind).collect(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..Vocabulary::default()
    }
}

fn texts(tokenizer: &Tokenizer, text: &str, add_special: bool) -> Vec<String> {
    let ids = tokenizer.encode(text, add_special).unwrap();
    ids.into_iter().map(|id| tokenizer.token_text(id)).collect()
}

#[test]
fn byte_level_text_becomes_tokens() {
    let tokenizer = Tokenizer::from_vocabulary(byte_level()).unwrap();
    assert_eq!(texts(&tokenizer, "hello the12", false), ["hello", " the", "1", "2"]);
    assert_eq!(
        texts(&tokenizer, "é<|im_end|>a", true),
        ["\u{fffd}", "\u{fffd}", "<|im_end|>", "a"]
    );
    assert_eq!(texts(&tokenizer, "x<tool call>", false), ["x", "<tool call>"]);
    let ids = tokenizer.encode("é<|im_end|>a", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "é<|im_end|>a");
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "éa");
    assert_eq!(tokenizer.special().eos, [1]);
    assert_eq!(tokenizer.special().bos_text.as_deref(), Some("<|start|>"));
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(2) && !tokenizer.is_special(99_999));
    assert_eq!(tokenizer.token_bytes(3 + 0xc3), [0xc3]);
    assert_eq!(tokenizer.vocab_size(), 3 + 256 + 6);
}

#[test]
fn sentence_piece_text_becomes_tokens() {
    let tokenizer = Tokenizer::from_vocabulary(sentence_piece()).unwrap();
    assert_eq!(texts(&tokenizer, "the  a", true), ["<s>", " the", " ", " a"]);
    let ids = tokenizer.encode("the é", false).unwrap();
    assert_eq!(tokenizer.token_bytes(ids[ids.len() - 1]), [0xa9]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the é");
    // Every stretch of text between special tokens begins with a space of its own.
    assert_eq!(texts(&tokenizer, "a</s>b", false), [" a", "</s>", " ", "b"]);

    let bare = Vocabulary {
        add_space_prefix: Some(false),
        add_bos: Some(false),
        add_eos: Some(true),
        ..sentence_piece()
    };
    let bare = Tokenizer::from_vocabulary(bare).unwrap();
    assert_eq!(texts(&bare, "the", true), ["t", "he", "</s>"]);
    assert_eq!(bare.decode(&bare.encode(" a", false).unwrap(), false).unwrap(), " a");
}

#[test]
fn the_beginning_is_added_as_the_file_or_its_kind_says() {
    let first = |vocabulary: Vocabulary| {
        let tokenizer = Tokenizer::from_vocabulary(vocabulary).unwrap();
        tokenizer.encode("hello", true).unwrap()[0] == 0
    };
    assert!(!first(byte_level()));
    assert!(first(Vocabulary { add_bos: Some(true), ..byte_level() }));
    assert!(first(Vocabulary { pre: Some("llama-bpe".to_owned()), ..byte_level() }));
    assert!(!first(Vocabulary {
        pre: Some("llama-bpe".to_owned()),
        add_bos: Some(false),
        ..byte_level()
    }));
}

#[test]
fn all_ends_of_a_generation_are_known() {
    let mut vocabulary = byte_level();
    vocabulary.eos = Some(0);
    vocabulary.eot = Some(2);
    let tokenizer = Tokenizer::from_vocabulary(vocabulary).unwrap();
    assert_eq!(tokenizer.special().eos, [0, 2, 1]);
}

#[test]
fn contradictions_are_refused() {
    let check = |vocabulary: Vocabulary, expect: &str| {
        let error = Tokenizer::from_vocabulary(vocabulary).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(Vocabulary { model: "t5".to_owned(), ..byte_level() }, "\"t5\" is not supported");
    check(Vocabulary { pre: Some("x".to_owned()), ..byte_level() }, "\"x\" is not supported");
    check(Vocabulary { tokens: vec![], kinds: vec![], ..byte_level() }, "no tokens");
    check(Vocabulary { kinds: vec![TokenKind::Normal], ..byte_level() }, "1 token types");
    check(Vocabulary { eos: Some(9999), ..byte_level() }, "end-of-text token is 9999");
    check(Vocabulary { merges: vec!["ab".to_owned()], ..byte_level() }, "has no space");
    check(Vocabulary { merges: vec!["a zz".to_owned()], ..byte_level() }, "\"zz\" is not a token");
    check(
        Vocabulary { merges: vec!["a b".to_owned()], ..byte_level() },
        "what it makes is not a token",
    );
    check(Vocabulary { scores: vec![], ..sentence_piece() }, "a score for each token");
}

#[test]
fn a_file_without_a_pre_tokenizer_gets_a_warning() {
    let tokenizer = Tokenizer::from_vocabulary(Vocabulary { pre: None, ..byte_level() }).unwrap();
    assert_eq!(tokenizer.warnings().len(), 1);
    assert!(Tokenizer::from_vocabulary(byte_level()).unwrap().warnings().is_empty());
}

#[test]
fn unknown_ids_are_errors_not_panics() {
    let tokenizer = Tokenizer::from_vocabulary(byte_level()).unwrap();
    assert!(matches!(
        tokenizer.decode(&[4, u32::MAX], false),
        Err(Error::UnknownToken { id: u32::MAX, vocab_size: 265 })
    ));
    assert_eq!(tokenizer.token_text(u32::MAX), "");
}

#[test]
fn long_runs_of_one_character_are_fast_and_lossless() {
    for vocabulary in [byte_level(), sentence_piece()] {
        let tokenizer = Tokenizer::from_vocabulary(vocabulary).unwrap();
        for character in [" ", "a", "\n", "é"] {
            let text = character.repeat(50_000);
            let ids = tokenizer.encode(&text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
    }
}

proptest! {
    #[test]
    fn round_trips(text in "(\\PC|[ \n\tthe日])*") {
        for vocabulary in [byte_level(), sentence_piece()] {
            let tokenizer = Tokenizer::from_vocabulary(vocabulary).unwrap();
            let ids = tokenizer.encode(&text, false).unwrap();
            // `▁` is how this alphabet writes a space, so that it cannot come back.
            let expect = if tokenizer.is_special(1) && tokenizer.token_text(1) == "<s>" { text.replace('▁', " ") } else { text.clone() };
            prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), expect);
        }
    }
}
