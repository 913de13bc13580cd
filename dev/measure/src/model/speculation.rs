//! `cargo xtask bench speculation`: what guessing next tokens saves, or costs, in the real engine. For one request and
//! for eight at once, with text that an answer repeats and with text that it does not.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use clap::ArgMatches;
use device::cpu::Cpu;
use engine::{NewRequest, SchedulerSettings};
use models::{Compute, Model};
use types::{SamplingParams, Service, TokenId};
use weights::Weights;

use super::{engine::start_with, load::load};
use crate::{
    arguments,
    requests::{self, fresh_salt},
};

/// An answer to "once more" repeats it.
const LIST: &str = "Name: Ada Lovelace, born 1815, worked on the Analytical Engine.\n\
                    Name: Alan Turing, born 1912, worked on the Bombe and the ACE.\n\
                    Name: Grace Hopper, born 1906, worked on the Harvard Mark I.\n\
                    Name: Edsger Dijkstra, born 1930, worked on the Electrologica X8.\n";
/// An answer goes its own way.
const STORY: &str = "The old lighthouse keeper had not spoken to anyone for eleven days when the boat came. He put \
                     down his cup, went to the window, and what he saw there made him";
const OUTPUT_TOKENS: u32 = 160;
const DRAFT_TOKENS_MAX: u32 = 8;

/// The command.
pub(crate) fn run(matches: &ArgMatches) -> Result<()> {
    let path = arguments::model_path(matches)?;
    let cpu = arguments::cpu(matches)?;
    let model = load(&path, &cpu, Compute::Native)?.model;
    let tokenizer = golden::tokenizer(&Weights::open(&path)?);
    println!("{}, on {} threads", path.display(), cpu.pool.threads());
    for (what, text) in [("repeats its prompt", LIST.repeat(2)), ("goes its own way", STORY.into())]
    {
        let prompt = tokenizer.encode(&text, true)?;
        for temperature in [0.0, 0.7] {
            for streams in [1, 8] {
                let plain = Case { prompt: &prompt, streams, temperature, draft_tokens_max: 0 };
                let guessing = Case { draft_tokens_max: DRAFT_TOKENS_MAX, ..plain };
                let [plain, guessed] = [plain.run(&cpu, &model)?, guessing.run(&cpu, &model)?];
                ensure!(plain.answers == guessed.answers, "guessing changed an answer");
                println!(
                    "{streams} at once at temperature {temperature}, text that {what}: {:.1} tokens/s, guessing {:.1}: \
                     {:.2} times; {} of {} guesses right, {:.2} tokens a step and request",
                    plain.tokens_s,
                    guessed.tokens_s,
                    guessed.tokens_s / plain.tokens_s,
                    guessed.accepted,
                    guessed.drafted,
                    guessed.tokens_a_step,
                );
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Case<'a> {
    prompt: &'a [TokenId],
    streams: usize,
    temperature: f32,
    draft_tokens_max: u32,
}

struct Outcome {
    answers: Vec<Vec<TokenId>>,
    /// After the first token of each.
    tokens_s: f64,
    drafted: u64,
    accepted: u64,
    tokens_a_step: f64,
}

impl Case<'_> {
    fn run(&self, cpu: &Arc<Cpu>, model: &Arc<Model>) -> Result<Outcome> {
        let &Self { prompt, streams, temperature, draft_tokens_max } = self;
        let context = prompt.len() + OUTPUT_TOKENS as usize;
        let scheduler = SchedulerSettings { draft_tokens_max, ..SchedulerSettings::default() };
        let (engine, handle) = start_with(cpu, model, (streams, context), (scheduler, 0))?;
        let once = || {
            let salt = fresh_salt();
            let request = |stream: usize| NewRequest {
                prompt: prompt.to_vec(),
                sampling: SamplingParams {
                    temperature,
                    seed: stream as u64,
                    ..SamplingParams::default()
                },
                tokens_max: OUTPUT_TOKENS,
                service: Service { cache_salt: salt.clone(), ..Service::default() },
                label: "".into(),
            };
            requests::run(&handle, (0..streams).map(|s| (Duration::ZERO, request(s))).collect())
        };
        // The first time is to warm up, and to measure how long steps take.
        once()?;
        let before = handle.stats();
        let answers = once()?;
        let after = handle.stats();
        engine.shutdown();
        let span_s = |answer: &requests::Answer| {
            answer.at_s.last().copied().unwrap_or(0.0) - answer.at_s.first().copied().unwrap_or(0.0)
        };
        let tokens = f64::from(OUTPUT_TOKENS - 1);
        let accepted = after.accepted_tokens - before.accepted_tokens;
        let drawn = streams as f64 * tokens;
        Ok(Outcome {
            tokens_s: answers.iter().map(|answer| tokens / span_s(answer)).sum(),
            drafted: after.drafted_tokens - before.drafted_tokens,
            accepted,
            tokens_a_step: drawn / (drawn - accepted as f64),
            answers: answers.into_iter().map(|answer| answer.tokens).collect(),
        })
    }
}
