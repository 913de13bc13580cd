//! What chat and legacy completions do alike with a request, from its body to the engine.

use std::sync::Arc;

use axum::{extract::Request, response::Response};
use types::{SamplingParams, TokenId};

use super::{
    parameters::{Checked, ModelSide},
    stream::{Answer, Frame, Shape},
    usage::Usage,
};
use crate::{
    Error, body,
    caller::Caller,
    generate::{Group, Job, TextRules, mix_seed},
    record::Record,
    state::{FrontState, ServedModel},
};

/// A request that is ready for the engine.
pub(super) struct Prepared<S> {
    pub(super) model: Arc<ServedModel>,
    pub(super) checked: Checked,
    pub(super) shape: S,
    pub(super) jobs: Vec<Job>,
}

/// Answers a request: reads it, has `prepare` make jobs of it, runs them, writes the answer.
pub(super) async fn answer<S: Shape>(
    state: FrontState,
    record: Arc<Record>,
    request: Request,
    id_prefix: &str,
    prepare: fn(&FrontState, &[u8]) -> Result<Prepared<S>, Error>,
) -> Result<Response, Error> {
    let permit = state.admit()?;
    let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
    let body = body::read(request, state.settings()).await?;
    let chore_state = state.clone();
    let prepared = state.chore(body.len(), move || prepare(&chore_state, &body)).await?;
    let Prepared { model, checked, shape, jobs } = prepared;
    let explain = caller.explain || checked.explain;
    record.set_model(model.name());
    let usage = Usage::of_prompts(jobs.iter().map(|job| job.prompt.len()).sum());
    let service = caller.service(checked.wishes);
    let group = Group::start(&model, jobs, &service, Arc::clone(&record))?;
    let frame = Frame {
        id: format!("{id_prefix}{}", record.id),
        created: state.unix_seconds(),
        model: model.name().to_owned(),
    };
    Answer { frame, shape, group, usage, explain, permit, record }
        .respond(&state, checked.stream)
        .await
}

/// Log-probabilities asked for, as the route understands its fields.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// Of the answer's tokens, with this many alternatives.
    pub(super) logprobs: Option<u32>,
    /// Of the prompt's tokens, with this many alternatives.
    pub(super) prompt_logprobs: Option<u32>,
    /// No answer at all, only the prompt.
    pub(super) prompt_only: bool,
}

/// Makes the jobs of one request: all that does not depend on the prompt is worked out once.
pub(super) struct JobMaker<'a> {
    context_max: u32,
    checked: &'a Checked,
    sampling: Vec<SamplingParams>,
    rules: Arc<TextRules>,
    /// The field that holds the prompt, for errors.
    prompt_field: &'static str,
}

impl<'a> JobMaker<'a> {
    pub(super) fn new(
        state: &FrontState,
        model: &ServedModel,
        checked: &'a Checked,
        wanted: Wanted,
        prompt_field: &'static str,
    ) -> Result<Self, Error> {
        let side = ModelSide {
            defaults: &model.defaults,
            end_tokens: &model.tokenizer.special().eos,
            vocab_size: model.engine.info().vocab_size,
        };
        let first = SamplingParams {
            logprobs: wanted.logprobs,
            prompt_logprobs: wanted.prompt_logprobs,
            ..checked.sampling(&side, state.source().seed())?
        };
        let rules = Arc::new(TextRules {
            stop_strings: checked.stop_strings.clone(),
            stop_token_ids: first.stop_token_ids.clone(),
            include_stop: checked.include_stop,
            skip_special_tokens: checked.skip_special_tokens,
            tokens_min: first.tokens_min,
            prompt_only: wanted.prompt_only,
        });
        let seeds = (0..checked.n).map(|index| mix_seed(first.seed, index));
        let sampling = seeds.map(|seed| SamplingParams { seed, ..first.clone() }).collect();
        Ok(Self { context_max: model.context_max(), checked, sampling, rules, prompt_field })
    }

    /// A job for this prompt. Where the request does not say how many tokens it wants, it gets `tokens_default` or what
    /// fits.
    pub(super) fn job(&self, prompt: Vec<TokenId>, tokens_default: u32) -> Result<Job, Error> {
        if prompt.is_empty() {
            return Err(Error::field(self.prompt_field, "has no tokens; at least one is needed"));
        }
        let context_max = self.context_max;
        let room = (context_max as usize).saturating_sub(prompt.len());
        let room = u32::try_from(room).expect("a part of a u32");
        let asked = self.checked.tokens_max.map(|asked| asked.max(1));
        let tokens_max = asked.unwrap_or(tokens_default.min(room));
        if room == 0 || tokens_max > room {
            return Err(Error::ContextLength {
                field: self.prompt_field,
                prompt_tokens: prompt.len(),
                tokens_max: self.checked.tokens_max,
                context_max,
            });
        }
        if self.rules.tokens_min > tokens_max {
            let message =
                format!("{} is more than the {tokens_max} at most", self.rules.tokens_min);
            return Err(Error::field("min_tokens", message));
        }
        Ok(Job {
            prompt,
            tokens_max,
            sampling: self.sampling.clone(),
            rules: Arc::clone(&self.rules),
        })
    }
}

/// That a route wants at least one token.
pub(super) fn at_least_one_token(checked: &Checked) -> Result<(), Error> {
    match checked.tokens_max {
        Some(0) => {
            Err(Error::field(checked.tokens_max_field, "0 is out of range; it must be at least 1"))
        }
        _ => Ok(()),
    }
}
