//! Requests given to an engine, and when their tokens came.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use engine::{EngineHandle, NewRequest};
use types::{RequestEvent, TokenId};

/// What came of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// Its tokens.
    pub(crate) tokens: Vec<TokenId>,
    /// When each came, since the first request was sent.
    pub(crate) at_s: Vec<f64>,
    /// When it was sent, likewise.
    pub(crate) sent_s: f64,
}

impl Answer {
    /// From sending to the first token.
    pub(crate) fn first_s(&self) -> f64 {
        self.at_s.first().map_or(f64::NAN, |at_s| at_s - self.sent_s)
    }
}

/// Sends each request at its time and reads each in a thread of its own.
pub(crate) fn run(
    handle: &EngineHandle,
    requests: Vec<(Duration, NewRequest)>,
) -> Result<Vec<Answer>> {
    let begun = Instant::now();
    thread::scope(|scope| {
        let mut readers = Vec::new();
        for (due, request) in requests {
            thread::sleep(due.saturating_sub(begun.elapsed()));
            let sent_s = begun.elapsed().as_secs_f64();
            let mut generation = handle.submit(request)?;
            readers.push(scope.spawn(move || {
                let mut answer = Answer { sent_s, ..Answer::default() };
                while let Some(event) = generation.next_blocking() {
                    match event {
                        RequestEvent::Token { token, .. } => {
                            answer.tokens.push(token);
                            answer.at_s.push(begun.elapsed().as_secs_f64());
                        }
                        RequestEvent::Failed(fault) => bail!("a request failed: {fault}"),
                        RequestEvent::Prefilled { .. }
                        | RequestEvent::Finished { .. }
                        | RequestEvent::PromptLogprobs(_) => {}
                    }
                }
                Ok(answer)
            }));
        }
        let joined = readers
            .into_iter()
            .map(|reader| reader.join().ok().context("a thread that read a request panicked")?);
        joined.collect()
    })
}

/// A salt that no request had before: what is sent with it finds nothing in the prefix cache of others.
pub(crate) fn fresh_salt() -> Arc<str> {
    static SALTS: AtomicUsize = AtomicUsize::new(0);
    SALTS.fetch_add(1, Ordering::Relaxed).to_string().into()
}
