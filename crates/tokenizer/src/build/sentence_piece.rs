//! SentencePiece-style BPE, as Llama 1 and 2 and Mistral have it: plain text with `▁` for spaces, merges by score, and
//! bytes for what no token covers.

use std::{cmp::Reverse, collections::HashMap};

use tokenizers::{
    NormalizerWrapper,
    models::bpe::BPE,
    normalizers::{Prepend, Replace, Sequence},
};

use super::Encoder;
use crate::{
    Error, TokenKind, Vocabulary,
    pieces::{Alphabet, byte_token},
};

/// Longest token that takes part in merges. The number of ways to cut a token grows with its length.
const MERGE_BYTES_MAX: usize = 256;

/// Builds the encoder.
pub(super) fn build(vocabulary: &Vocabulary) -> Result<Encoder, Error> {
    if vocabulary.scores.len() != vocabulary.tokens.len() {
        return Err(Error::Vocabulary {
            problem: "a llama vocabulary needs a score for each token".to_owned(),
        });
    }
    let failed = |action| move |source| Error::Tokenizers { action, source };
    let vocab = super::ids_by_text(vocabulary);
    let bytes: std::collections::BTreeSet<u8> =
        vocabulary.tokens.iter().filter_map(|text| byte_token(text)).collect();
    let mut model = BPE::builder()
        .vocab_and_merges(vocab, merges(vocabulary))
        .byte_fallback(bytes.len() == 256)
        .fuse_unk(true);
    if let Some(unk) = vocabulary.unk {
        // `check` has made sure that the token exists.
        model = model.unk_token(vocabulary.tokens[unk as usize].clone());
    }
    let model = model.build().map_err(failed("building the vocabulary"))?;
    let add_space = vocabulary.add_space_prefix.unwrap_or(true);
    let spaces = Replace::new(" ", "▁").map_err(failed("building the normalizer"))?;
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if add_space {
        steps.push(Prepend::new("▁".to_owned()).into());
    }
    steps.push(spaces.into());
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(NormalizerWrapper::from(Sequence::new(steps))))
        .map_err(failed("setting the normalizer"))?;
    let mut warnings = Vec::new();
    if bytes.len() != 256 {
        warnings.push(format!(
            "the vocabulary has tokens for {} of the 256 bytes, so that some characters become the unknown token",
            bytes.len()
        ));
    }
    let alphabet = Alphabet::SentencePiece { strips_leading_space: add_space };
    Ok(Encoder { tokenizer, alphabet, adds_bos: true, warnings })
}

/// SentencePiece merges whatever makes the token with the best score. As a list of pairs, best first: every way to make
/// a token from two others.
fn merges(vocabulary: &Vocabulary) -> Vec<(String, String)> {
    let mergeable = |index: usize| {
        let kind = vocabulary.kind(index);
        matches!(kind, TokenKind::Normal | TokenKind::UserDefined)
            && vocabulary.tokens[index].len() <= MERGE_BYTES_MAX
    };
    let ids: HashMap<&str, usize> = (0..vocabulary.tokens.len())
        .rev()
        .filter(|index| mergeable(*index))
        .map(|index| (vocabulary.tokens[index].as_str(), index))
        .collect();
    let mut merges = Vec::new();
    for (index, text) in vocabulary.tokens.iter().enumerate().filter(|(index, _)| mergeable(*index))
    {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut pairs: Vec<_> = cuts
            .filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right)))
            .collect();
        pairs.sort_unstable_by_key(|(left_id, right_id, ..)| (*left_id, *right_id));
        let score = vocabulary.scores[index];
        merges.extend(pairs.into_iter().map(|(_, _, left, right)| (score, left, right)));
    }
    // Stable, so that equal pairs stay in the order of the tokens they make.
    merges.sort_by(|a, b| {
        let lengths = |m: &(f32, &str, &str)| Reverse((m.1.chars().count(), m.2.chars().count()));
        b.0.total_cmp(&a.0).then_with(|| lengths(a).cmp(&lengths(b)))
    });
    merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
}
