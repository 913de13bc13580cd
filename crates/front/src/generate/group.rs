//! The answers to one HTTP request, all under way at once.

use std::{sync::Arc, time::Instant};

use engine::NewRequest;
use futures::{
    StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use types::{Fault, SamplingParams, Service, TokenId};

use super::choice::{Choice, Piece, TextRules};
use crate::{record::Record, state::ServedModel};

/// One prompt with as many answers as there are sampling parameters.
pub(crate) struct Job {
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) tokens_max: u32,
    pub(crate) sampling: Vec<SamplingParams>,
    pub(crate) rules: Arc<TextRules>,
}

/// Answers under way. Dropping the group ends them all in the engine.
pub(crate) struct Group {
    choices: SelectAll<BoxStream<'static, Result<(usize, Piece), Fault>>>,
    record: Arc<Record>,
    /// Looked at before the answer began, and to be handed out first.
    first: Option<Result<(usize, Piece), Fault>>,
}

impl Group {
    /// Submits every answer of every job, or none. Answers are numbered through, job by job.
    pub(crate) fn start(
        model: &ServedModel,
        jobs: Vec<Job>,
        service: &Service,
        record: Arc<Record>,
    ) -> Result<Self, Fault> {
        let mut choices = SelectAll::new();
        let label: Arc<str> = record.id.as_str().into();
        let mut index = 0;
        for job in jobs {
            record.add_prompt_tokens(job.prompt.len());
            for (place, sampling) in job.sampling.into_iter().enumerate() {
                let generation = model.engine.submit(NewRequest {
                    prompt: job.prompt.clone(),
                    sampling,
                    tokens_max: job.tokens_max,
                    service: service.clone(),
                    label: Arc::clone(&label),
                })?;
                let tokenizer = Arc::clone(&model.tokenizer);
                let mut choice = Choice::new(generation, tokenizer, Arc::clone(&job.rules));
                choice.take_report().into_iter().for_each(|report| record.expect_report(report));
                // A prompt counts once, however many answers it gets, and so does what was cached of it.
                choices.push(pieces(index, choice, place == 0));
                index += 1;
            }
        }
        Ok(Self { choices, record, first: None })
    }

    /// The next piece of any answer, with the answer's number; `None` when all are complete. After an error the other
    /// answers are of no use any more: drop the group. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, Piece), Fault>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let next = self.choices.next().await;
        if let Some(Ok((_, piece))) = &next {
            self.record.add_cached_tokens(piece.cached_tokens);
            self.record.add_output_tokens(piece.tokens.len(), Instant::now());
        }
        next
    }

    /// Waits until there is a first piece, or a fault that comes before it. Safe to cancel.
    pub(crate) async fn ready(&mut self) -> Result<(), Fault> {
        if self.first.is_none() {
            self.first = self.next().await;
        }
        match self.first.take() {
            Some(Err(fault)) => Err(fault),
            first => {
                self.first = first;
                Ok(())
            }
        }
    }
}

fn pieces(
    index: usize,
    choice: Choice,
    counts_prompt: bool,
) -> BoxStream<'static, Result<(usize, Piece), Fault>> {
    stream::unfold(Some(choice), move |choice| async move {
        let mut choice = choice?;
        match choice.next().await {
            Ok(mut piece) => {
                piece.cached_tokens *= u32::from(counts_prompt);
                if piece.end.is_none() {
                    return Some((Ok((index, piece)), Some(choice)));
                }
                choice.complete();
                Some((Ok((index, piece)), None))
            }
            Err(fault) => Some((Err(fault), None)),
        }
    })
    .boxed()
}
