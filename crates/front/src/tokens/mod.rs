//! `POST /tokenize` and `POST /detokenize`: the tokenizer without the model.
//!
//! Two protocols have a `/tokenize`; the body tells which one is meant. vLLM's has `prompt` or `messages` and answers
//! with ids, TGI's has `inputs` and answers with one object a token.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use serde::{Deserialize, Serialize};
use tokenizer::{IncrementalDecoder, Tokenizer};
use types::TokenId;

use crate::{
    Error, body, json,
    openai::prompt::ChatPrompt,
    record::Record,
    state::{FrontState, ServedModel},
};

#[derive(Debug, Deserialize)]
struct TokenizeFields {
    model: Option<String>,
    prompt: Option<String>,
    inputs: Option<String>,
    messages: Option<serde::de::IgnoredAny>,
    add_special_tokens: Option<bool>,
    return_token_strs: Option<bool>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Tokenized {
    /// vLLM's form.
    Ids { count: usize, max_model_len: u32, tokens: Vec<TokenId>, token_strs: Option<Vec<String>> },
    /// TGI's form.
    Spans(Vec<Span>),
}

/// A token and the characters of the text that it covers.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Span {
    id: TokenId,
    text: String,
    start: usize,
    stop: usize,
}

#[derive(Debug, Deserialize)]
struct DetokenizeFields {
    model: Option<String>,
    tokens: Option<Vec<TokenId>>,
}

#[derive(Serialize)]
pub(crate) struct Detokenized {
    prompt: String,
}

/// `POST /tokenize`.
pub(crate) async fn tokenize(
    State(state): State<FrontState>,
    Extension(record): Extension<Arc<Record>>,
    request: Request,
) -> Result<Json<Tokenized>, Error> {
    let _permit = state.admit()?;
    let body = body::read(request, state.settings()).await?;
    let chore_state = state.clone();
    state
        .chore(body.len(), move || {
            let fields = json::parse::<TokenizeFields>(&body)?;
            let model = chore_state.model(fields.model.as_deref())?;
            record.set_model(model.name());
            tokenized(model, fields, &body, chore_state.source().now()).map(Json)
        })
        .await
}

fn tokenized(
    model: &ServedModel,
    fields: TokenizeFields,
    body: &[u8],
    now: SystemTime,
) -> Result<Tokenized, Error> {
    let add_special_tokens = fields.add_special_tokens.unwrap_or(true);
    let encode = |text: &str| {
        let tokens = model.tokenizer.encode(text, add_special_tokens);
        tokens.map_err(|error| Error::Fault(error.into()))
    };
    let tokens = match (fields.prompt, fields.messages, fields.inputs) {
        (Some(text), None, None) => encode(&text)?,
        (None, Some(_), None) => json::parse::<ChatPrompt>(body)?.check()?.tokens(model, now)?,
        (None, None, Some(text)) => {
            return Ok(Tokenized::Spans(spans(&model.tokenizer, &encode(&text)?)?));
        }
        _ => {
            let message = "exactly one of `prompt`, `messages` and `inputs` is needed";
            return Err(Error::field("prompt", message));
        }
    };
    let strings = || tokens.iter().map(|token| model.tokenizer.token_text(*token)).collect();
    Ok(Tokenized::Ids {
        count: tokens.len(),
        max_model_len: model.engine.info().context_max,
        token_strs: fields.return_token_strs.unwrap_or(false).then(strings),
        tokens,
    })
}

/// Tokens with their places in the text, found by decoding: a token that is part of a character covers nothing until
/// the one that completes it.
fn spans(tokenizer: &Arc<Tokenizer>, tokens: &[TokenId]) -> Result<Vec<Span>, Error> {
    let mut decoder = IncrementalDecoder::new(Arc::clone(tokenizer), true);
    let mut start = 0;
    let spans = tokens.iter().map(|&id| {
        let text = decoder.push(id).map_err(|error| Error::Fault(error.into()))?;
        let stop = start + text.chars().count();
        let span = Span { id, text: tokenizer.token_text(id), start, stop };
        start = stop;
        Ok(span)
    });
    spans.collect()
}

/// `POST /detokenize`.
pub(crate) async fn detokenize(
    State(state): State<FrontState>,
    Extension(record): Extension<Arc<Record>>,
    request: Request,
) -> Result<Json<Detokenized>, Error> {
    let _permit = state.admit()?;
    let body = body::read(request, state.settings()).await?;
    let chore_state = state.clone();
    state
        .chore(body.len(), move || {
            let (model, tokens) = detokenize_fields(&body)?;
            let model = chore_state.model(model.as_deref())?;
            record.set_model(model.name());
            let text = model.tokenizer.decode(&tokens, false);
            let prompt = text.map_err(|error| Error::field("tokens", error.to_string()))?;
            Ok(Json(Detokenized { prompt }))
        })
        .await
}

/// The model's name and the tokens.
fn detokenize_fields(body: &[u8]) -> Result<(Option<String>, Vec<TokenId>), Error> {
    let DetokenizeFields { model, tokens } = json::parse(body)?;
    let tokens = tokens.ok_or_else(|| Error::field("tokens", "is missing"))?;
    Ok((model, tokens))
}

/// Checks a body as `/tokenize` would, without a model.
pub(crate) fn check_tokenize(body: &[u8]) -> Result<(), Error> {
    let fields = json::parse::<TokenizeFields>(body)?;
    if fields.messages.is_some() {
        json::parse::<ChatPrompt>(body)?.check()?;
    }
    Ok(())
}

/// The same for `/detokenize`.
pub(crate) fn check_detokenize(body: &[u8]) -> Result<(), Error> {
    detokenize_fields(body).map(drop)
}
