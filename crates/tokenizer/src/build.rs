//! From a GGUF vocabulary to a tokenizer.

mod byte_level;
mod pre_tokenizer;
mod sentence_piece;

use tokenizers::AddedToken;
use types::TokenId;

use crate::{
    Error, SpecialTokens, TokenKind, Vocabulary,
    pieces::{Alphabet, Pieces, Reading},
    tokenizer::Parts,
};

/// Texts of control tokens that end a generation in every model that has them. Files name one end token, but models
/// tuned for chats end with another.
const END_TEXTS: [&str; 8] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
];

/// What is particular to one kind of vocabulary.
struct Encoder {
    tokenizer: tokenizers::Tokenizer,
    alphabet: Alphabet,
    /// Whether texts begin with `bos` when the file does not say.
    adds_bos: bool,
    warnings: Vec<String>,
}

/// Builds a tokenizer.
pub(crate) fn build(vocabulary: Vocabulary) -> Result<Parts, Error> {
    check(&vocabulary)?;
    let Encoder { tokenizer: mut encoder, alphabet, adds_bos, warnings } = match &*vocabulary.model
    {
        "gpt2" => byte_level::build(&vocabulary)?,
        "llama" => sentence_piece::build(&vocabulary)?,
        model => return Err(Error::UnknownModel { model: model.to_owned() }),
    };
    add_tokens(&mut encoder, &vocabulary)?;
    let prefix = if vocabulary.add_bos.unwrap_or(adds_bos) { vocabulary.bos } else { None };
    let suffix = if vocabulary.add_eos.unwrap_or(false) { vocabulary.eos } else { None };
    let reading = |kind| match kind {
        TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown => Reading::Literal,
        TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => Reading::Alphabet,
    };
    let texts = vocabulary.tokens.iter().enumerate();
    let pieces = texts.map(|(index, text)| (text.as_str(), reading(vocabulary.kind(index))));
    let kinds = (0..vocabulary.tokens.len()).map(|index| vocabulary.kind(index));
    Ok(Parts {
        encoder,
        prefix: prefix.into_iter().collect(),
        suffix: suffix.into_iter().collect(),
        pieces: Pieces::new(alphabet, pieces),
        is_special: kinds.map(|k| matches!(k, TokenKind::Control | TokenKind::Unknown)).collect(),
        special: special_tokens(&vocabulary),
        warnings,
    })
}

/// The encoder's view of the vocabulary. Where a text occurs twice, the first id counts.
fn ids_by_text(vocabulary: &Vocabulary) -> ahash::AHashMap<String, TokenId> {
    let texts = vocabulary.tokens.iter().enumerate().rev();
    texts.map(|(index, text)| (text.clone(), index as TokenId)).collect()
}

/// Refuses a vocabulary that contradicts itself.
fn check(vocabulary: &Vocabulary) -> Result<(), Error> {
    let size = vocabulary.tokens.len();
    let bad = |problem: String| Err(Error::Vocabulary { problem });
    if size == 0 {
        return bad("it has no tokens".to_owned());
    }
    if u32::try_from(size).is_err() {
        return bad(format!("it has {size} tokens, too many for 32-bit ids"));
    }
    for (name, len) in
        [("scores", vocabulary.scores.len()), ("token types", vocabulary.kinds.len())]
    {
        if len != 0 && len != size {
            return bad(format!("it has {size} tokens but {len} {name}"));
        }
    }
    let ids = [
        ("beginning-of-text", vocabulary.bos),
        ("end-of-text", vocabulary.eos),
        ("end-of-turn", vocabulary.eot),
        ("unknown", vocabulary.unk),
        ("padding", vocabulary.pad),
    ];
    for (name, id) in ids {
        if let Some(id) = id.filter(|id| *id as usize >= size) {
            return bad(format!("its {name} token is {id}, but it has {size} tokens"));
        }
    }
    Ok(())
}

/// Tells the encoder which tokens are found in a text before anything else.
fn add_tokens(encoder: &mut tokenizers::Tokenizer, vocabulary: &Vocabulary) -> Result<(), Error> {
    let added = vocabulary.tokens.iter().enumerate().filter_map(|(index, text)| {
        let special = match vocabulary.kind(index) {
            TokenKind::Control | TokenKind::Unknown => true,
            TokenKind::UserDefined => false,
            TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => return None,
        };
        // The encoder has no use for the empty text, which would be everywhere.
        (!text.is_empty()).then(|| AddedToken::from(text.as_str(), special).normalized(false))
    });
    encoder
        .add_tokens(added)
        .map_err(|source| Error::Tokenizers { action: "adding special tokens", source })?;
    Ok(())
}

fn special_tokens(vocabulary: &Vocabulary) -> SpecialTokens {
    let text = |id: Option<TokenId>| id.and_then(|id| vocabulary.tokens.get(id as usize)).cloned();
    let mut eos: Vec<TokenId> = vocabulary.eos.into_iter().chain(vocabulary.eot).collect();
    let controls = vocabulary.tokens.iter().enumerate().filter(|(index, text)| {
        vocabulary.kind(*index) == TokenKind::Control && END_TEXTS.contains(&text.as_str())
    });
    eos.extend(controls.map(|(index, _)| index as TokenId));
    // In order of importance, each once.
    let mut seen = std::collections::BTreeSet::new();
    eos.retain(|id| seen.insert(*id));
    SpecialTokens {
        bos: vocabulary.bos,
        eos,
        bos_text: text(vocabulary.bos),
        eos_text: text(vocabulary.eos),
    }
}

#[cfg(test)]
pub(crate) mod tests;
