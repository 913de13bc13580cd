//! Answers on the wire: whole, or as server-sent events.
//!
//! Chat and legacy completions differ in the shape of a choice and in nothing else, so the frame around the choices,
//! the order of events and the treatment of errors are here, once.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    http::{HeaderName, HeaderValue},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{parameters::Streaming, usage::Usage};
use crate::{
    Error,
    generate::{End, Group, Matched, Piece},
    record::Record,
    state::FrontState,
};

/// Keeps nginx from collecting a stream before it passes it on.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How one protocol writes its choices.
pub(super) trait Shape: Send + 'static {
    /// The `object` of a whole answer.
    const WHOLE: &'static str;
    /// The `object` of a chunk.
    const CHUNK: &'static str;
    /// A choice of a whole answer.
    type Choice: Serialize;
    /// A choice of a chunk.
    type Delta: Serialize;
    /// What a whole answer has beside its choices.
    type Extra: Serialize;

    /// How many answers there are.
    fn choices(&self) -> usize;
    /// What is sent of an answer before its first token.
    fn opening(&mut self, index: usize) -> Option<Self::Delta>;
    /// What is sent of a piece.
    fn deltas(&mut self, index: usize, piece: Piece) -> Vec<Self::Delta>;
    /// A whole answer.
    fn choice(&mut self, index: usize, whole: Piece) -> Self::Choice;
    /// Called after all choices.
    fn extra(&mut self) -> Self::Extra;
}

/// What every chunk of an answer repeats.
pub(super) struct Frame {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

#[derive(Serialize)]
struct Whole<'a, S: Shape> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<S::Choice>,
    usage: Usage,
    #[serde(flatten)]
    extra: S::Extra,
}

#[derive(Serialize)]
struct Chunk<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [C],
    /// Null where it comes in a later chunk; absent where nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<&'a Usage>>,
}

/// An answer about to be written.
pub(super) struct Answer<S> {
    pub(super) frame: Frame,
    pub(super) shape: S,
    pub(super) group: Group,
    pub(super) usage: Usage,
    /// Usage tells where the time went.
    pub(super) explain: bool,
    /// Given back when the answer is complete, or when its client is gone.
    #[expect(dead_code, reason = "held, never looked at")]
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) record: Arc<Record>,
}

impl<S: Shape> Answer<S> {
    /// Writes the answer in the form asked for.
    pub(super) async fn respond(
        self,
        state: &FrontState,
        streaming: Option<Streaming>,
    ) -> Result<Response, Error> {
        match streaming {
            None => self.whole().await,
            Some(streaming) => self.stream(state, streaming).await,
        }
    }

    async fn whole(mut self) -> Result<Response, Error> {
        let mut answers: Vec<Piece> = Vec::new();
        answers.resize_with(self.shape.choices(), Piece::default);
        while let Some(next) = self.group.next().await {
            let (index, piece) = next?;
            self.count(&piece);
            answers[index].append(piece);
        }
        self.explain().await;
        let Self { frame, mut shape, usage, .. } = self;
        let choices = answers.into_iter().enumerate();
        let choices = choices.map(|(index, whole)| shape.choice(index, whole)).collect();
        let extra = shape.extra();
        let Frame { id, created, model } = &frame;
        let (object, created) = (S::WHOLE, *created);
        let whole = Whole::<S> { id, object, created, model, choices, usage, extra };
        Ok(Json(whole).into_response())
    }

    /// Waits until the engine is done with the answers, and asks where their time went.
    async fn explain(&mut self) {
        if self.explain {
            self.usage.explain(&self.record.reports().await);
        }
    }

    fn count(&mut self, piece: &Piece) {
        self.usage.add_completion(piece.tokens.len());
        self.usage.add_cached(piece.cached_tokens);
    }

    async fn stream(mut self, state: &FrontState, streaming: Streaming) -> Result<Response, Error> {
        let interval = state.settings().keep_alive_interval;
        // A fault before the first token still gets its status code, unless the wait is so long that the connection
        // needs a sign of life first.
        if let Ok(ready) = timeout(interval, self.group.ready()).await {
            ready?;
        }
        let events = self.events(streaming).map(Ok::<_, Infallible>);
        let keep_alive = KeepAlive::new().interval(interval);
        let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
        response.headers_mut().insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        Ok(response)
    }

    fn events(self, mut streaming: Streaming) -> impl Stream<Item = Event> + use<S> {
        // It comes with the usage.
        streaming.include_usage |= self.explain;
        let mut writer = Writer { answer: self, streaming };
        let opening = writer.opening();
        let rest = stream::unfold(Some(writer), |writer| async {
            let mut writer = writer?;
            match writer.answer.group.next().await {
                Some(Ok((index, piece))) => Some((writer.piece(index, piece), Some(writer))),
                Some(Err(fault)) => Some((vec![writer.error(fault.into())], None)),
                None => {
                    writer.answer.explain().await;
                    Some((writer.closing(), None))
                }
            }
        });
        stream::iter(opening).chain(rest.map(stream::iter).flatten())
    }
}

struct Writer<S> {
    answer: Answer<S>,
    streaming: Streaming,
}

impl<S: Shape> Writer<S> {
    fn opening(&mut self) -> Vec<Event> {
        let shape = &mut self.answer.shape;
        let deltas: Vec<_> =
            (0..shape.choices()).filter_map(|index| shape.opening(index)).collect();
        deltas.into_iter().map(|delta| self.chunk(&[delta], false)).collect()
    }

    fn piece(&mut self, index: usize, piece: Piece) -> Vec<Event> {
        self.answer.count(&piece);
        let deltas = self.answer.shape.deltas(index, piece);
        deltas.into_iter().map(|delta| self.chunk(&[delta], false)).collect()
    }

    fn closing(&self) -> Vec<Event> {
        let usage = self.streaming.include_usage.then(|| self.chunk(&[], true));
        usage.into_iter().chain([Event::default().data("[DONE]")]).collect()
    }

    /// The last event of a stream that failed: no `[DONE]` after it, because it is not done.
    fn error(&self, error: Error) -> Event {
        tracing::warn!(request = %self.answer.record.id, %error, "a stream failed");
        self.answer.record.set_error(&error.to_string());
        event(&error.body())
    }

    fn chunk(&self, choices: &[S::Delta], last: bool) -> Event {
        let Frame { id, created, model } = &self.answer.frame;
        let Streaming { include_usage, continuous_usage } = self.streaming;
        let told = last || continuous_usage;
        let usage = include_usage.then(|| told.then_some(&self.answer.usage));
        event(&Chunk { id, object: S::CHUNK, created: *created, model, choices, usage })
    }
}

fn event(data: &impl Serialize) -> Event {
    Event::default().json_data(data).expect("wire types have string keys, so they are JSON")
}

impl End {
    /// The `finish_reason` of OpenAI's protocol.
    pub(super) fn finish_reason(&self) -> &'static str {
        match self {
            Self::Stop(_) => "stop",
            Self::Length => "length",
        }
    }
}

/// vLLM's `stop_reason`: which of the request's own stops it was; none for the model's own end.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum StopReason {
    Text(String),
    Token(u32),
}

impl StopReason {
    pub(super) fn of(end: Option<&End>, asked: &[u32]) -> Option<Self> {
        match end {
            Some(End::Stop(Matched::Text(text))) => Some(Self::Text(text.clone())),
            Some(End::Stop(Matched::Token(token))) if asked.contains(token) => {
                Some(Self::Token(*token))
            }
            _ => None,
        }
    }
}
