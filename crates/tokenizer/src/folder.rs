//! Tokenizers of Hugging Face folders.

use std::{collections::BTreeSet, fs, io, path::Path};

use serde_json::Value;
use types::TokenId;

use crate::{
    Error, SpecialTokens,
    pieces::{Alphabet, Pieces, Reading},
    tokenizer::Parts,
};

/// Largest file that is read into memory. The largest vocabularies in use take 40 MB.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Largest token id. The largest vocabularies in use have 260 000 tokens.
const ID_MAX: TokenId = 1 << 22;

/// Reads the tokenizer of a folder.
pub(crate) fn read(dir: &Path) -> Result<Parts, Error> {
    let path = dir.join("tokenizer.json");
    let bad = |problem: String| Error::File { path: path.clone(), problem };
    let bytes = read_file(&path)?.ok_or_else(|| Error::Read {
        path: path.clone(),
        source: io::Error::from(io::ErrorKind::NotFound),
    })?;
    let mut encoder =
        tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| bad(error.to_string()))?;
    // Settings of training, which would cut prompts off.
    encoder
        .with_padding(None)
        .with_truncation(None)
        .map_err(|source| Error::Tokenizers { action: "setting the truncation", source })?;

    let added = encoder.get_added_tokens_decoder();
    let vocabulary = encoder.get_vocab(true);
    let id_max = vocabulary.values().copied().max().unwrap_or(0);
    if id_max > ID_MAX {
        return Err(bad(format!("token id {id_max} is over the limit of {ID_MAX}")));
    }
    let size = id_max as usize + 1;
    let mut tokens = vec![("", Reading::Literal); size];
    for (text, id) in &vocabulary {
        let reading = if added.contains_key(id) { Reading::Literal } else { Reading::Alphabet };
        tokens[*id as usize] = (text, reading);
    }
    let mut is_special = vec![false; size];
    for (id, token) in &added {
        if let Some(flag) = is_special.get_mut(*id as usize) {
            *flag = token.special;
        }
    }
    let decoder = serde_json::to_value(encoder.get_decoder()).map_err(|e| bad(e.to_string()))?;
    let pieces = Pieces::new(alphabet(&decoder)?, tokens.into_iter());
    let special = special_tokens(dir, |text| encoder.token_to_id(text), size)?;
    Ok(Parts {
        encoder,
        prefix: Vec::new(),
        suffix: Vec::new(),
        pieces,
        is_special,
        special,
        warnings: Vec::new(),
    })
}

/// Which alphabet a decoder undoes.
fn alphabet(decoder: &Value) -> Result<Alphabet, Error> {
    let unknown = || Error::UnknownDecoder { decoder: decoder.to_string() };
    let steps = match decoder.get("decoders").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![decoder],
    };
    let mut found = None;
    let mut strips_leading_space = false;
    for step in steps {
        match step.get("type").and_then(Value::as_str) {
            Some("ByteLevel") => found = Some(Alphabet::ByteLevel),
            Some("ByteFallback") => {
                found.get_or_insert(Alphabet::SentencePiece { strips_leading_space: false });
            }
            Some("Metaspace") => {
                let scheme = step.get("prepend_scheme").and_then(Value::as_str);
                strips_leading_space |= scheme != Some("never");
                found = Some(Alphabet::SentencePiece { strips_leading_space: false });
            }
            Some("Replace") => {
                let pattern = step.pointer("/pattern/String").and_then(Value::as_str);
                if (pattern, step.get("content").and_then(Value::as_str)) != (Some("▁"), Some(" "))
                {
                    return Err(unknown());
                }
                found = Some(Alphabet::SentencePiece { strips_leading_space: false });
            }
            Some("Strip") => {
                let number = |field| step.get(field).and_then(Value::as_u64);
                let is_space = step.get("content").and_then(Value::as_str) == Some(" ");
                if !is_space || number("start") != Some(1) || number("stop") != Some(0) {
                    return Err(unknown());
                }
                strips_leading_space = true;
            }
            Some("Fuse") => {}
            _ => return Err(unknown()),
        }
    }
    match found {
        Some(Alphabet::SentencePiece { .. }) => {
            Ok(Alphabet::SentencePiece { strips_leading_space })
        }
        Some(Alphabet::ByteLevel) if !strips_leading_space => Ok(Alphabet::ByteLevel),
        _ => Err(unknown()),
    }
}

/// Collects the special tokens from the files that name them.
fn special_tokens(
    dir: &Path,
    id_of: impl Fn(&str) -> Option<TokenId>,
    vocab_size: usize,
) -> Result<SpecialTokens, Error> {
    let config = read_json(&dir.join("tokenizer_config.json"))?;
    let text = |name: &str| {
        // Either the text, or an object that has it.
        let token = config.get(name)?;
        token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
    };
    let (bos_text, eos_text) = (text("bos_token"), text("eos_token"));
    let mut eos: Vec<TokenId> = eos_text.as_deref().and_then(&id_of).into_iter().collect();
    let generation = read_json(&dir.join("generation_config.json"))?;
    let model = read_json(&dir.join("config.json"))?;
    // The model's own configuration counts only where nothing says how to generate.
    let ends = generation.get("eos_token_id").or_else(|| model.get("eos_token_id"));
    match ends {
        Some(Value::Array(ids)) => eos.extend(ids.iter().filter_map(token_id)),
        Some(id) => eos.extend(token_id(id)),
        None => {}
    }
    let mut seen = BTreeSet::new();
    eos.retain(|id| (*id as usize) < vocab_size && seen.insert(*id));
    let bos = bos_text.as_deref().and_then(&id_of);
    Ok(SpecialTokens { bos, eos, bos_text, eos_text })
}

fn token_id(value: &Value) -> Option<TokenId> {
    value.as_u64().and_then(|id| TokenId::try_from(id).ok())
}

/// The file's JSON; null if there is no such file.
fn read_json(path: &Path) -> Result<Value, Error> {
    let Some(bytes) = read_file(path)? else { return Ok(Value::Null) };
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::File { path: path.to_owned(), problem: error.to_string() })
}

/// The file's bytes; `None` if there is no such file.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => Err(Error::File {
            path: path.to_owned(),
            problem: format!("{} bytes are over the limit of {FILE_BYTES_MAX}", metadata.len()),
        }),
        Ok(_) => fs::read(path).map(Some).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests;
