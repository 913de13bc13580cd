//! Prefill and decode of the runner alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use device::cpu::Cpu;
use kernels::attention::KvFormat;
use models::Model;
use serde_json::{Value, json};
use types::SamplingParams;

use super::{
    load::runner,
    streams::{Streams, prompt},
    work::ModelWork,
};
use crate::{
    report::{Table, percent, seconds},
    roofline::Roofline,
    timing::Timing,
};

const PROMPTS: [usize; 3] = [128, 512, 2048];
const STREAMS: [usize; 5] = [1, 4, 8, 16, 32];
/// Tokens before those that are timed when decoding.
const SHORT_PROMPT: usize = 16;
const DECODE_STEPS_MAX: usize = 128;
const PREFILL_ROUNDS_MAX: usize = 5;
/// Time for a line, once there are figures.
const BUDGET: Duration = Duration::from_secs(3);
/// What would take longer than this is left out: nobody waits for a large model on a small machine.
pub(crate) const LEFT_OUT_S: f64 = 60.0;

/// A model on this machine.
pub(crate) struct Bench {
    pub(crate) cpu: Arc<Cpu>,
    pub(crate) model: Arc<Model>,
    pub(crate) roofline: Roofline,
    pub(crate) work: ModelWork,
}

impl Bench {
    /// One prompt, from nothing to its first token. Returns the figures, and the tokens per second of the last line.
    pub(crate) fn prefill(&self) -> Result<(Value, f64)> {
        println!("prefill, one request");
        let table = self.table("tokens");
        let vocab_size = self.model.spec.vocab_size;
        let (mut lines, mut tokens_s) = (Vec::new(), f64::INFINITY);
        for tokens in PROMPTS.into_iter().filter(|&tokens| tokens < self.model.spec.context_max) {
            let expected_s = tokens as f64 / tokens_s;
            if expected_s > LEFT_OUT_S {
                println!("{tokens:<8}  left out: it would take about {}", seconds(expected_s));
                continue;
            }
            let mut runner = runner(&self.cpu, &self.model, (1, tokens + 1), KvFormat::Bf16)?;
            let timing = repeat(PREFILL_ROUNDS_MAX, || {
                let prompts = vec![prompt(vocab_size, 0, tokens)];
                let mut streams = Streams::new(&mut runner, prompts, &SamplingParams::greedy());
                let begun = Instant::now();
                streams.finish_prompts()?;
                let elapsed_s = begun.elapsed().as_secs_f64();
                streams.end()?;
                Ok(elapsed_s)
            })?;
            lines.push(self.line(&table, tokens, tokens, timing, |int8_s| {
                self.work.prefill_tokens_s(&self.roofline, int8_s)
            }));
            tokens_s = tokens as f64 / timing.best_s;
        }
        println!();
        Ok((lines.into(), tokens_s))
    }

    /// Tokens of some requests, one each a step. Returns the figures, and the tokens per second of the last line.
    pub(crate) fn decode(&self) -> Result<(Value, f64)> {
        println!("decode, greedy, after {SHORT_PROMPT} tokens");
        let table = self.table("streams");
        let (mut lines, mut tokens_s) = (Vec::new(), f64::INFINITY);
        let most = STREAMS.into_iter().max().unwrap_or(1);
        let context = SHORT_PROMPT + DECODE_STEPS_MAX + 1;
        let mut runner = runner(&self.cpu, &self.model, (most, context), KvFormat::Bf16)?;
        for count in STREAMS {
            let prompts = self.short_prompts(count);
            let mut streams = Streams::new(&mut runner, prompts, &SamplingParams::greedy());
            streams.finish_prompts()?;
            let timing = repeat(DECODE_STEPS_MAX, || Ok(streams.step()?.seconds))?;
            streams.end()?;
            lines.push(self.line(&table, count, count, timing, |int8_s| {
                self.work.decode_tokens_s(&self.roofline, int8_s, count)
            }));
            tokens_s = count as f64 / timing.best_s;
        }
        println!();
        Ok((lines.into(), tokens_s))
    }

    /// Prompts for requests that decode.
    pub(crate) fn short_prompts(&self, count: usize) -> Vec<Vec<u32>> {
        let vocab_size = self.model.spec.vocab_size;
        (0..count).map(|stream| prompt(vocab_size, stream, SHORT_PROMPT)).collect()
    }

    fn table(&self, subject: &str) -> Table {
        let mut columns =
            vec![(subject, 8), ("best", 9), ("median", 9), ("tokens/s", 9), ("median", 9)];
        let roofs: Vec<String> =
            self.roofline.int8_peaks().iter().map(|(name, _)| format!("roof {name}")).collect();
        for roof in &roofs {
            columns.extend([(roof.as_str(), 16), ("reached", 7)]);
        }
        Table::start(&columns)
    }

    /// Prints a line: the times, tokens per second at the best and the median time, and what the roofline would allow
    /// with each of the peaks.
    fn line(
        &self,
        table: &Table,
        subject: usize,
        tokens: usize,
        timing: Timing,
        roof: impl Fn(f64) -> f64,
    ) -> Value {
        let (best, median) = (tokens as f64 / timing.best_s, tokens as f64 / timing.median_s);
        let mut cells = vec![
            subject.to_string(),
            seconds(timing.best_s),
            seconds(timing.median_s),
            format!("{best:.1}"),
            format!("{median:.1}"),
        ];
        let mut roofs = Vec::new();
        for (name, int8_s) in self.roofline.int8_peaks() {
            let roof = roof(int8_s);
            cells.extend([format!("{roof:.1}"), percent(best, roof)]);
            roofs.push(json!({ "peak": name, "tokens_s": roof, "reached": best / roof }));
        }
        table.row(&cells);
        json!({
            "subject": subject,
            "best_s": timing.best_s,
            "median_s": timing.median_s,
            "tokens_s": best,
            "median_tokens_s": median,
            "roofs": roofs,
        })
    }
}

/// Times something up to `rounds_max` times, until the budget is spent. The first time is a warm-up if there is a
/// second.
fn repeat(rounds_max: usize, mut round: impl FnMut() -> Result<f64>) -> Result<Timing> {
    let begun = Instant::now();
    let first_s = round()?;
    let mut times = Vec::new();
    while times.len() + 1 < rounds_max && begun.elapsed() < BUDGET {
        times.push(round()?);
    }
    if times.is_empty() {
        times.push(first_s);
    }
    Ok(Timing::of(&mut times))
}
