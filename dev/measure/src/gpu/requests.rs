//! Requests given to an engine all at once.

use std::time::Duration;

use anyhow::Result;
use engine::{EngineHandle, NewRequest};
use types::{SamplingParams, Service};

use crate::{
    model::streams::prompt,
    requests::{fresh_salt, run},
};

/// Requests of one shape.
#[derive(Clone, Copy)]
pub(crate) struct Wave {
    pub(crate) count: usize,
    pub(crate) prompt_tokens: usize,
    pub(crate) output_tokens: usize,
    pub(crate) vocab_size: usize,
}

/// When tokens came.
pub(crate) struct Seen {
    /// Until all were there.
    pub(crate) whole_s: f64,
    /// Until the first token of each request.
    pub(crate) first_s: Vec<f64>,
    /// Between tokens, the median over all pairs that came when all prompts were through.
    pub(crate) between_s: f64,
}

/// Sends all requests at once.
pub(crate) fn run_wave(handle: &EngineHandle, wave: Wave) -> Result<Seen> {
    // What is timed is computing, and not finding.
    let service = Service { cache_salt: fresh_salt(), ..Service::default() };
    let request = |stream: usize| NewRequest {
        prompt: prompt(wave.vocab_size, stream + wave.prompt_tokens, wave.prompt_tokens),
        sampling: SamplingParams::greedy(),
        tokens_max: wave.output_tokens as u32,
        service: service.clone(),
        label: "".into(),
    };
    let requests = (0..wave.count).map(|stream| (Duration::ZERO, request(stream))).collect();
    let answers = run(handle, requests)?;
    let arrivals: Vec<&[f64]> = answers.iter().map(|answer| &answer.at_s[..]).collect();
    let first_s: Vec<f64> =
        arrivals.iter().filter_map(|arrivals| arrivals.first().copied()).collect();
    let whole_s = arrivals.iter().copied().flatten().copied().fold(0.0, f64::max);
    let all_begun_s = first_s.iter().copied().fold(0.0, f64::max);
    let mut between: Vec<f64> = arrivals
        .iter()
        .flat_map(|arrivals| arrivals.windows(2))
        .filter(|pair| pair[0] >= all_begun_s)
        .map(|pair| pair[1] - pair[0])
        .collect();
    between.sort_by(f64::total_cmp);
    let between_s = between.get(between.len() / 2).copied().unwrap_or(f64::NAN);
    Ok(Seen { whole_s, first_s, between_s })
}
