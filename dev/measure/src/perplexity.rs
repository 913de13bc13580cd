//! `cargo xtask bench perplexity`: how well a model predicts a text on each rung, beside the same in 32-bit floats.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Result, ensure};
use clap::ArgMatches;
use device::cpu::{Cpu, Rung};
use kernels::attention::KvFormat;
use models::{Compute, Model};
use types::{SamplingParams, TokenId};
use weights::Weights;

use crate::{
    arguments,
    model::{
        load::{load, runner},
        streams::Streams,
    },
    report::{Table, seconds},
};

/// Plain English, written for this, so that no model has learnt it by heart.
const TEXT: &str = include_str!("text.txt");
/// As many rows of logits are computed together as there are slots.
const SLOTS: usize = 8;
const KV_FORMATS: [(&str, KvFormat); 3] =
    [("f32", KvFormat::F32), ("bf16", KvFormat::Bf16), ("int8", KvFormat::Int8)];

/// A text before a model.
struct Examination {
    path: PathBuf,
    tokens: Vec<TokenId>,
    threads: usize,
    table: Table,
    /// The perplexity in 32-bit floats, once it is known.
    reference: Option<f64>,
}

/// The command.
pub(crate) fn run(matches: &ArgMatches) -> Result<()> {
    let path = arguments::model_path(matches)?;
    let cpu = arguments::cpu(matches)?;
    let tokens = tokens(&path)?;
    println!("{}: {} tokens", path.display(), tokens.len());
    let columns =
        [("compute", 8), ("KV", 5), ("rung", 7), ("perplexity", 10), ("of f32", 8), ("took", 9)];
    let threads = cpu.pool.threads();
    let table = Table::start(&columns);
    let mut examination = Examination { path, tokens, threads, table, reference: None };
    if let Err(error) = examination.examine(Compute::F32, cpu.isa.rung(), &KV_FORMATS) {
        println!("no reference: {error:#}");
    }
    let is_named = matches.contains_id("rung");
    let rungs = Rung::ALL.iter().copied().filter(|rung| *rung <= cpu.isa.rung());
    for rung in rungs.rev().filter(|rung| !is_named || *rung == cpu.isa.rung()) {
        examination.examine(Compute::Native, rung, &KV_FORMATS)?;
    }
    Ok(())
}

/// The text as the model's tokens.
fn tokens(path: &Path) -> Result<Vec<TokenId>> {
    let weights = Weights::open(path)?;
    let tokens = golden::tokenizer(&weights).encode(TEXT, true)?;
    let context = models::describe(&weights)?.context_max;
    ensure!(
        tokens.len() < context,
        "the text has {} tokens, but the context is {context}",
        tokens.len()
    );
    Ok(tokens)
}

impl Examination {
    /// Prints a line for each format of keys and values. The first line of all is the reference if it is in floats.
    fn examine(
        &mut self,
        compute: Compute,
        rung: Rung,
        kv_formats: &[(&str, KvFormat)],
    ) -> Result<()> {
        let cpu = Arc::new(Cpu::new(rung, self.threads));
        let model = load(&self.path, &cpu, compute)?.model;
        for &(kv_name, kv_format) in kv_formats {
            let begun = Instant::now();
            let perplexity = self.perplexity(&cpu, &model, kv_format)?;
            if compute == Compute::F32 && kv_format == KvFormat::F32 {
                self.reference = Some(perplexity);
            }
            let name = if compute == Compute::F32 { "f32" } else { "native" };
            let ratio = self.reference.map(|reference| format!("{:.5}", perplexity / reference));
            self.table.row(&[
                name.to_owned(),
                kv_name.to_owned(),
                rung.to_string(),
                format!("{perplexity:.4}"),
                ratio.unwrap_or_default(),
                seconds(begun.elapsed().as_secs_f64()),
            ]);
        }
        Ok(())
    }

    /// e to the mean negative log-probability of all tokens but the first.
    fn perplexity(&self, cpu: &Arc<Cpu>, model: &Arc<Model>, kv_format: KvFormat) -> Result<f64> {
        let mut runner = runner(cpu, model, (SLOTS, self.tokens.len() + 1), kv_format)?;
        let sampling = SamplingParams { prompt_logprobs: Some(0), ..SamplingParams::greedy() };
        let mut streams = Streams::new(&mut runner, vec![self.tokens.clone()], &sampling);
        let mut logprobs = Vec::new();
        while streams.is_in_prompts() {
            let of_step = streams.step()?.outcome.prompt_logprobs.into_iter();
            logprobs.extend(of_step.flat_map(|(_, tokens)| tokens));
        }
        ensure!(logprobs.len() + 1 == self.tokens.len(), "a token has no log-probability");
        let sum: f64 = logprobs.iter().map(|token| f64::from(token.logprob)).sum();
        Ok((-sum / logprobs.len() as f64).exp())
    }
}
