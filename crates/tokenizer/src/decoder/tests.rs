//! Tests of decoding as tokens arrive.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::build::tests::{byte_level, sentence_piece};

static TOKENIZERS: LazyLock<[Arc<Tokenizer>; 2]> = LazyLock::new(|| {
    [byte_level(), sentence_piece()].map(|v| Arc::new(Tokenizer::from_vocabulary(v).unwrap()))
});

#[test]
fn a_code_point_waits_for_its_last_byte() {
    for tokenizer in TOKENIZERS.iter() {
        let ids = tokenizer.encode("a😀b", false).unwrap();
        let mut decoder = IncrementalDecoder::new(Arc::clone(tokenizer), false);
        let texts: Vec<String> =
            ids.iter().map(|id| decoder.push(*id).unwrap()).filter(|t| !t.is_empty()).collect();
        assert_eq!(texts, ["a", "😀", "b"]);
        assert_eq!(decoder.finish(), "");
    }
}

#[test]
fn a_continuation_keeps_its_leading_space() {
    let tokenizer = &TOKENIZERS[1];
    let the = tokenizer.encode("the", false).unwrap();
    let mut beginning = IncrementalDecoder::new(Arc::clone(tokenizer), false);
    let mut continuation = IncrementalDecoder::continuing(Arc::clone(tokenizer), false);
    assert_eq!(beginning.push(the[0]).unwrap(), "the");
    assert_eq!(beginning.push(the[0]).unwrap(), " the");
    assert_eq!(continuation.push(the[0]).unwrap(), " the");
}

#[test]
fn unfinished_bytes_become_a_replacement_character() {
    let tokenizer = &TOKENIZERS[0];
    let ids = tokenizer.encode("é", false).unwrap();
    let mut decoder = IncrementalDecoder::new(Arc::clone(tokenizer), true);
    assert_eq!(decoder.push(ids[0]).unwrap(), "");
    // A special token that is left out does not end the code point.
    assert_eq!(decoder.push(0).unwrap(), "");
    assert_eq!(decoder.clone().push(ids[1]).unwrap(), "é");
    assert_eq!(decoder.finish(), "\u{fffd}");
}

proptest! {
    #[test]
    fn the_parts_are_the_whole(
        which in 0..2_usize,
        ids in proptest::collection::vec(0..265_u32, 0..60),
        skip in any::<bool>(),
    ) {
        let tokenizer = &TOKENIZERS[which];
        let mut decoder = IncrementalDecoder::new(Arc::clone(tokenizer), skip);
        let mut text = String::new();
        for id in &ids {
            text.push_str(&decoder.push(*id).unwrap());
        }
        text.push_str(&decoder.finish());
        prop_assert_eq!(&text, &tokenizer.decode(&ids, skip).unwrap());
        // And the whole is what the bytes say.
        let visible = ids.iter().filter(|id| !(skip && tokenizer.is_special(**id)));
        let bytes: Vec<u8> = visible.flat_map(|id| tokenizer.token_bytes(*id)).collect();
        let lossy = String::from_utf8_lossy(&bytes);
        let expect = if which == 1 { lossy.strip_prefix(' ').unwrap_or(&lossy) } else { &lossy };
        prop_assert_eq!(text, expect);
    }
}
