//! `POST /v1/completions`: text or tokens in, text out, without a chat template.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizer::{IncrementalDecoder, Tokenizer};
use types::{TokenId, TokenLogprobs};

use super::{
    logprobs::{self, CompletionLogprobs},
    parameters::{Checked, Parameters, TOP_LOGPROBS_MAX},
    request::{self, JobMaker, Prepared, Wanted},
    stream::{Shape, StopReason},
    values::{at_most, whole},
};
use crate::{
    Error,
    generate::{End, Piece},
    json,
    record::Record,
    state::{FrontState, ServedModel},
};

/// What OpenAI generates where the request does not say.
const TOKENS_DEFAULT: u32 = 16;

/// The fields of this route alone; the others are in [`Parameters`].
#[derive(Debug, Deserialize)]
struct CompletionFields {
    prompt: Option<Prompts>,
    suffix: Option<String>,
    echo: Option<bool>,
    logprobs: Option<i64>,
    add_special_tokens: Option<bool>,
}

/// One prompt or several, as text or as tokens.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string, a list of strings, a list of token ids or a list of such lists"
)]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<TokenId>),
    TokenLists(Vec<Vec<TokenId>>),
}

#[derive(Debug)]
enum Prompt {
    Text(String),
    Tokens(Vec<TokenId>),
}

impl Prompts {
    fn list(self) -> Vec<Prompt> {
        match self {
            Self::Text(text) => vec![Prompt::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Self::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
            Self::TokenLists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
        }
    }
}

pub(crate) async fn create(
    State(state): State<FrontState>,
    Extension(record): Extension<Arc<Record>>,
    request: Request,
) -> Result<Response, Error> {
    request::answer(state, record, request, "cmpl-", prepare).await
}

/// A request whose every value is in order, as far as that can be said without the model.
pub(crate) struct Sound {
    checked: Checked,
    prompts: Vec<Prompt>,
    add_special_tokens: bool,
    echo: bool,
    wanted: Wanted,
}

/// Reads and checks a body.
pub(crate) fn check(choices_max: u32, body: &[u8]) -> Result<Sound, Error> {
    let checked = json::parse::<Parameters>(body)?.check(choices_max)?;
    let fields = json::parse::<CompletionFields>(body)?;
    if fields.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        let message = "filling in before a given end is not supported; leave it out";
        return Err(Error::NotSupported { field: "suffix", message: message.into() });
    }
    let Some(prompts) = fields.prompt.map(Prompts::list) else {
        return Err(Error::field("prompt", "is missing"));
    };
    if prompts.is_empty() {
        return Err(Error::field("prompt", "is an empty list"));
    }
    at_most("prompt", prompts.len(), (choices_max / checked.n) as usize)?;
    let logprobs = whole("logprobs", fields.logprobs, 0, i64::from(TOP_LOGPROBS_MAX))?;
    let echo = fields.echo.unwrap_or(false);
    // With `echo`, no tokens at all is a way to have a text's own probabilities.
    let prompt_only = echo && checked.tokens_max == Some(0);
    if !prompt_only {
        request::at_least_one_token(&checked)?;
    }
    let echo_logprobs = logprobs.filter(|_| echo);
    let wanted = Wanted {
        logprobs,
        prompt_logprobs: checked.prompt_logprobs.max(echo_logprobs),
        prompt_only,
    };
    let add_special_tokens = fields.add_special_tokens.unwrap_or(true);
    Ok(Sound { checked, prompts, add_special_tokens, echo, wanted })
}

fn prepare(state: &FrontState, body: &[u8]) -> Result<Prepared<CompletionShape>, Error> {
    let sound = check(state.settings().choices_max, body)?;
    let Sound { checked, prompts, add_special_tokens, echo, wanted } = sound;
    let model = Arc::clone(state.model(checked.model.as_deref())?);
    let maker = JobMaker::new(state, &model, &checked, wanted, "prompt")?;
    let mut jobs = Vec::with_capacity(prompts.len());
    let mut echoes = Vec::new();
    for prompt in prompts {
        let (tokens, text) = encode(&model, prompt, add_special_tokens, echo)?;
        echoes.extend(text);
        jobs.push(maker.job(tokens, TOKENS_DEFAULT)?);
    }
    let prompts = jobs.iter().map(|job| job.prompt.clone()).collect();
    let shape = CompletionShape {
        tokenizer: Arc::clone(&model.tokenizer),
        answers_per_prompt: checked.n as usize,
        prompts,
        echoed: vec![!echo; jobs.len() * checked.n as usize],
        echoes,
        echo_logprobs: echo && wanted.logprobs.is_some(),
        prompt_logprobs: checked.prompt_logprobs.is_some(),
        asked_stops: checked.stop_token_ids().to_vec(),
        return_token_ids: checked.return_token_ids,
    };
    Ok(Prepared { model, checked, shape, jobs })
}

/// A prompt's tokens and, if it is to be echoed, its text.
fn encode(
    model: &ServedModel,
    prompt: Prompt,
    add_special_tokens: bool,
    echo: bool,
) -> Result<(Vec<TokenId>, Option<String>), Error> {
    let tokenizer = &model.tokenizer;
    let fault = |error: tokenizer::Error| Error::Fault(error.into());
    match prompt {
        Prompt::Text(text) => {
            let tokens = tokenizer.encode(&text, add_special_tokens).map_err(fault)?;
            Ok((tokens, echo.then_some(text)))
        }
        Prompt::Tokens(tokens) => {
            let vocab_size = model.engine.info().vocab_size;
            if let Some(token) = tokens.iter().find(|token| **token >= vocab_size) {
                let message =
                    format!("token {token} does not exist; the vocabulary has {vocab_size} tokens");
                return Err(Error::field("prompt", message));
            }
            let text = echo.then(|| tokenizer.decode(&tokens, true)).transpose().map_err(fault)?;
            Ok((tokens, text))
        }
    }
}

struct CompletionShape {
    tokenizer: Arc<Tokenizer>,
    answers_per_prompt: usize,
    prompts: Vec<Vec<TokenId>>,
    /// One text a prompt, if prompts are to be echoed.
    echoes: Vec<String>,
    /// One mark an answer: whether its prompt went out before it.
    echoed: Vec<bool>,
    echo_logprobs: bool,
    prompt_logprobs: bool,
    asked_stops: Vec<TokenId>,
    return_token_ids: bool,
}

/// The same in a whole answer and in a chunk.
#[derive(Serialize)]
struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<TokenId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<TokenId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Vec<Value>>,
}

#[derive(Serialize)]
struct NoExtra {}

impl CompletionShape {
    /// The log-probabilities of a prompt that is echoed. Positions of tokens in the text are found by decoding.
    fn echo_logprobs(&self, prompt: &[TokenId], known: &[TokenLogprobs]) -> CompletionLogprobs {
        let mut all = CompletionLogprobs::default();
        let mut decoder = IncrementalDecoder::new(Arc::clone(&self.tokenizer), true);
        let mut offset = 0;
        for (position, token) in prompt.iter().enumerate() {
            match position.checked_sub(1).and_then(|position| known.get(position)) {
                Some(logprobs) => all.push(&self.tokenizer, logprobs, offset),
                None => all.push_first(&self.tokenizer, *token),
            }
            offset += decoder.push(*token).map_or(0, |text| text.chars().count());
        }
        all
    }

    fn write(&mut self, index: usize, piece: Piece) -> CompletionChoice {
        let prompt_index = index / self.answers_per_prompt;
        let prompt = &self.prompts[prompt_index];
        let echo = self.echoes.get(prompt_index);
        let base = echo.map_or(0, |text| text.chars().count());
        let first = echo.filter(|_| !self.echoed[index]);
        let known = piece.prompt_logprobs.as_deref();
        let mut all = match (first, known) {
            (Some(_), Some(known)) if self.echo_logprobs => self.echo_logprobs(prompt, known),
            _ => CompletionLogprobs::default(),
        };
        for drawn in &piece.tokens {
            if let Some(logprobs) = &drawn.logprobs {
                all.push(&self.tokenizer, logprobs, base + drawn.offset);
            }
        }
        let tokens = piece.tokens.iter().map(|drawn| drawn.token);
        let choice = CompletionChoice {
            index,
            text: first.cloned().unwrap_or_default() + &piece.text,
            logprobs: (!all.is_empty()).then_some(all),
            finish_reason: piece.end.as_ref().map(End::finish_reason),
            stop_reason: StopReason::of(piece.end.as_ref(), &self.asked_stops),
            token_ids: self.return_token_ids.then(|| tokens.collect()),
            prompt_token_ids: None,
            prompt_logprobs: known
                .filter(|_| self.prompt_logprobs)
                .map(|known| logprobs::prompt(&self.tokenizer, known)),
        };
        self.echoed[index] = true;
        choice
    }
}

impl Shape for CompletionShape {
    const WHOLE: &'static str = "text_completion";
    const CHUNK: &'static str = "text_completion";
    type Choice = CompletionChoice;
    type Delta = CompletionChoice;
    type Extra = NoExtra;

    fn choices(&self) -> usize {
        self.echoed.len()
    }

    fn opening(&mut self, _index: usize) -> Option<CompletionChoice> {
        None
    }

    fn deltas(&mut self, index: usize, piece: Piece) -> Vec<CompletionChoice> {
        vec![self.write(index, piece)]
    }

    fn choice(&mut self, index: usize, whole: Piece) -> CompletionChoice {
        let prompt = &self.prompts[index / self.answers_per_prompt];
        let prompt_token_ids = self.return_token_ids.then(|| prompt.clone());
        CompletionChoice { prompt_token_ids, ..self.write(index, whole) }
    }

    fn extra(&mut self) -> NoExtra {
        NoExtra {}
    }
}
