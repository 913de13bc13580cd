//! Requests given to an engine all at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use engine::{EngineHandle, NewRequest};
use types::{RequestEvent, SamplingParams, Service};

use crate::model::streams::prompt;

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

/// Sends all requests and reads each in a thread of its own.
pub(crate) fn run_wave(handle: &EngineHandle, wave: Wave) -> Result<Seen> {
    // Nothing is found in the prefix cache: what is timed is computing.
    static WAVES: AtomicUsize = AtomicUsize::new(0);
    let salt: Arc<str> = WAVES.fetch_add(1, Ordering::Relaxed).to_string().into();
    let begun = Instant::now();
    let arrivals: Result<Vec<Vec<f64>>> = thread::scope(|scope| {
        let mut readers = Vec::new();
        for stream in 0..wave.count {
            let mut generation = handle.submit(NewRequest {
                prompt: prompt(wave.vocab_size, stream + wave.prompt_tokens, wave.prompt_tokens),
                sampling: SamplingParams::greedy(),
                tokens_max: wave.output_tokens as u32,
                service: Service { cache_salt: salt.clone(), ..Service::default() },
            })?;
            readers.push(scope.spawn(move || {
                let mut arrivals = Vec::new();
                while let Some(event) = generation.next_blocking() {
                    match event {
                        RequestEvent::Token { .. } => arrivals.push(begun.elapsed().as_secs_f64()),
                        RequestEvent::Failed(fault) => bail!("a request failed: {fault}"),
                        RequestEvent::Prefilled { .. }
                        | RequestEvent::Finished { .. }
                        | RequestEvent::PromptLogprobs(_) => {}
                    }
                }
                Ok(arrivals)
            }));
        }
        let joined = readers
            .into_iter()
            .map(|reader| reader.join().ok().context("a thread that read a request panicked")?);
        joined.collect()
    });
    let arrivals = arrivals?;
    let first_s: Vec<f64> =
        arrivals.iter().filter_map(|arrivals| arrivals.first().copied()).collect();
    let whole_s = arrivals.iter().flatten().copied().fold(0.0, f64::max);
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
