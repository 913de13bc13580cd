//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizer::Tokenizer;
use types::TokenId;

use super::{
    logprobs::{self, ChatLogprobs},
    parameters::{Checked, Parameters, TOP_LOGPROBS_MAX},
    prompt::{ChatPrompt, CheckedPrompt},
    request::{self, JobMaker, Prepared, Wanted},
    stream::{Shape, StopReason},
    values::whole,
};
use crate::{
    Error,
    generate::{End, Piece},
    json,
    record::Record,
    state::FrontState,
};

/// Fields of this route that neither [`Parameters`] nor [`ChatPrompt`] has.
#[derive(Debug, Deserialize)]
struct LogprobFields {
    logprobs: Option<bool>,
    top_logprobs: Option<i64>,
}

pub(crate) async fn create(
    State(state): State<FrontState>,
    Extension(record): Extension<Arc<Record>>,
    request: Request,
) -> Result<Response, Error> {
    request::answer(state, record, request, "chatcmpl-", prepare).await
}

/// A request whose every value is in order, as far as that can be said without the model.
pub(crate) struct Sound {
    checked: Checked,
    prompt: CheckedPrompt,
    wanted: Wanted,
}

/// Reads and checks a body.
pub(crate) fn check(choices_max: u32, body: &[u8]) -> Result<Sound, Error> {
    let checked = json::parse::<Parameters>(body)?.check(choices_max)?;
    request::at_least_one_token(&checked)?;
    let fields = json::parse::<LogprobFields>(body)?;
    let top = whole("top_logprobs", fields.top_logprobs, 0, i64::from(TOP_LOGPROBS_MAX))?;
    let logprobs = fields.logprobs.unwrap_or(false);
    if !logprobs && top.is_some_and(|top| top > 0) {
        return Err(Error::field("top_logprobs", "needs `logprobs`: true"));
    }
    let wanted = Wanted {
        logprobs: logprobs.then_some(top.unwrap_or(0)),
        prompt_logprobs: checked.prompt_logprobs,
        prompt_only: false,
    };
    Ok(Sound { checked, prompt: json::parse::<ChatPrompt>(body)?.check()?, wanted })
}

fn prepare(state: &FrontState, body: &[u8]) -> Result<Prepared<ChatShape>, Error> {
    let Sound { checked, prompt, wanted } = check(state.settings().choices_max, body)?;
    let model = Arc::clone(state.model(checked.model.as_deref())?);
    let maker = JobMaker::new(state, &model, &checked, wanted, "messages")?;
    let job = maker.job(prompt.tokens(&model, state.source().now())?, u32::MAX)?;
    let shape = ChatShape {
        tokenizer: Arc::clone(&model.tokenizer),
        choices: checked.n as usize,
        asked_stops: checked.stop_token_ids().to_vec(),
        prompt_token_ids: checked.return_token_ids.then(|| job.prompt.clone()),
        return_token_ids: checked.return_token_ids,
        prompt_logprobs: None,
    };
    Ok(Prepared { model, checked, shape, jobs: vec![job] })
}

struct ChatShape {
    tokenizer: Arc<Tokenizer>,
    choices: usize,
    asked_stops: Vec<TokenId>,
    prompt_token_ids: Option<Vec<TokenId>>,
    return_token_ids: bool,
    prompt_logprobs: Option<Vec<Value>>,
}

#[derive(Serialize)]
struct ChatChoice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(flatten)]
    extensions: Extensions,
}

#[derive(Serialize)]
struct AssistantMessage {
    role: &'static str,
    content: String,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChatDelta {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(flatten)]
    extensions: Extensions,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Fields that OpenAI does not have and vLLM does.
#[derive(Default, Serialize)]
struct Extensions {
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<TokenId>>,
}

#[derive(Serialize)]
struct ChatExtra {
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<TokenId>>,
}

impl ChatShape {
    fn extensions(&self, piece: &Piece, end: Option<&End>) -> Extensions {
        let ids = || piece.tokens.iter().map(|drawn| drawn.token).collect();
        Extensions {
            stop_reason: StopReason::of(end, &self.asked_stops),
            token_ids: self.return_token_ids.then(ids),
        }
    }
}

impl Shape for ChatShape {
    const WHOLE: &'static str = "chat.completion";
    const CHUNK: &'static str = "chat.completion.chunk";
    type Choice = ChatChoice;
    type Delta = ChatDelta;
    type Extra = ChatExtra;

    fn choices(&self) -> usize {
        self.choices
    }

    fn opening(&mut self, index: usize) -> Option<ChatDelta> {
        Some(ChatDelta {
            index,
            delta: Delta { role: Some("assistant"), content: Some(String::new()) },
            logprobs: None,
            finish_reason: None,
            extensions: Extensions::default(),
        })
    }

    /// Text and the reason for the end go out in chunks of their own: some clients look at only one of them.
    fn deltas(&mut self, index: usize, mut piece: Piece) -> Vec<ChatDelta> {
        let mut deltas = Vec::new();
        let end = piece.end.take();
        if !piece.text.is_empty() {
            deltas.push(ChatDelta {
                index,
                logprobs: logprobs::chat(&self.tokenizer, &piece.tokens),
                finish_reason: None,
                extensions: self.extensions(&piece, None),
                delta: Delta { role: None, content: Some(piece.text) },
            });
            piece = Piece::default();
        }
        if let Some(end) = end {
            deltas.push(ChatDelta {
                index,
                delta: Delta::default(),
                logprobs: logprobs::chat(&self.tokenizer, &piece.tokens),
                finish_reason: Some(end.finish_reason()),
                extensions: self.extensions(&piece, Some(&end)),
            });
        }
        deltas
    }

    fn choice(&mut self, index: usize, mut whole: Piece) -> ChatChoice {
        if let Some(logprobs) = whole.prompt_logprobs.take() {
            // Every answer has the same prompt.
            self.prompt_logprobs = Some(logprobs::prompt(&self.tokenizer, &logprobs));
        }
        ChatChoice {
            index,
            logprobs: logprobs::chat(&self.tokenizer, &whole.tokens),
            finish_reason: whole.end.as_ref().map(End::finish_reason),
            extensions: self.extensions(&whole, whole.end.as_ref()),
            message: AssistantMessage { role: "assistant", content: whole.text, refusal: None },
        }
    }

    fn extra(&mut self) -> ChatExtra {
        ChatExtra {
            prompt_logprobs: self.prompt_logprobs.take(),
            prompt_token_ids: self.prompt_token_ids.take(),
        }
    }
}
