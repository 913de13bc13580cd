//! Byte-level BPE, as GPT-2 began it: bytes are characters, and merges come from a list.

use tokenizers::{
    decoders::DecoderWrapper, models::bpe::BPE, pre_tokenizers::byte_level::ByteLevel,
};

use super::{Encoder, pre_tokenizer};
use crate::{Error, Vocabulary, pieces::Alphabet};

/// Builds the encoder.
pub(super) fn build(vocabulary: &Vocabulary) -> Result<Encoder, Error> {
    let mut warnings = Vec::new();
    let name = vocabulary.pre.as_deref().unwrap_or_else(|| {
        warnings.push(
            "the file does not name its pre-tokenizer; using \"default\", which may cut text differently than in \
             training"
                .to_owned(),
        );
        "default"
    });
    let scheme = pre_tokenizer::by_name(name)?;
    let vocab = super::ids_by_text(vocabulary);
    let merges = vocabulary.merges.iter().enumerate().map(|(rank, merge)| {
        let bad = |problem| Error::Vocabulary { problem };
        let (left, right) = merge
            .split_once(' ')
            .ok_or_else(|| bad(format!("merge {rank}, \"{merge}\", has no space")))?;
        for part in [left, right] {
            if !vocab.contains_key(part) {
                return Err(bad(format!("merge {rank}, \"{merge}\": \"{part}\" is not a token")));
            }
        }
        if !vocab.contains_key(&format!("{left}{right}")) {
            return Err(bad(format!("merge {rank}, \"{merge}\": what it makes is not a token")));
        }
        Ok((left.to_owned(), right.to_owned()))
    });
    let merges = merges.collect::<Result<Vec<_>, _>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(scheme.ignores_merges)
        .build()
        .map_err(|source| Error::Tokenizers { action: "building the vocabulary", source })?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer
        .with_normalizer(scheme.normalizer)
        .map_err(|source| Error::Tokenizers { action: "setting the normalizer", source })?
        .with_pre_tokenizer(Some(scheme.pre_tokenizer))
        .with_decoder(Some(DecoderWrapper::from(ByteLevel::default())));
    Ok(Encoder { tokenizer, alphabet: Alphabet::ByteLevel, adds_bos: scheme.adds_bos, warnings })
}
