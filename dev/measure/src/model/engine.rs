//! The model behind the real engine, in this process: scheduling, streams and threads included, HTTP not.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use device::cpu::Cpu;
use engine::{Engine, EngineHandle, EngineSettings, NewRequest, SchedulerSettings};
use kernels::attention::KvFormat;
use models::Model;
use serde_json::{Value, json};
use telemetry::EngineMetrics;
use types::{Executor, Fault, SamplingParams, Service};

use super::{
    load::{STEP_TOKENS_MAX, runner_with_host},
    speed::{Bench, LEFT_OUT_S},
    streams::prompt,
};
use crate::{
    report::seconds,
    requests::{self, Answer},
    timing::percentile,
};

const STREAMS: usize = 32;
const PROMPT_TOKENS: usize = 128;
const OUTPUT_TOKENS: u32 = 128;

/// Sends requests all at once. What the runner alone reached, in tokens per
/// second, tells how long that may take.
pub(crate) fn run(bench: &Bench, (prefill_tokens_s, decode_tokens_s): (f64, f64)) -> Result<Value> {
    let context = PROMPT_TOKENS + OUTPUT_TOKENS as usize;
    let tokens = |of_one: usize| (STREAMS * of_one) as f64;
    let expected_s =
        tokens(PROMPT_TOKENS) / prefill_tokens_s + tokens(OUTPUT_TOKENS as usize) / decode_tokens_s;
    if context > bench.model.spec.context_max || expected_s > LEFT_OUT_S {
        let expected = seconds(expected_s);
        println!("engine: left out, it needs a context of {context} tokens and about {expected}\n");
        return Ok(Value::Null);
    }
    let (engine, handle) = start(&bench.cpu, &bench.model, (STREAMS, context))?;
    let vocab_size = bench.model.spec.vocab_size;
    // Greedy, as servers are loaded, so that the two can be compared.
    let request = |stream| NewRequest {
        prompt: prompt(vocab_size, stream, PROMPT_TOKENS),
        sampling: SamplingParams::greedy(),
        tokens_max: OUTPUT_TOKENS,
        service: Service::default(),
        label: "".into(),
    };
    let answers = requests::run(
        &handle,
        (0..STREAMS).map(|stream| (Duration::ZERO, request(stream))).collect(),
    );
    engine.shutdown();
    Ok(report(&answers?))
}

/// The engine with a runner for so many requests of so many positions.
pub(crate) fn start(
    cpu: &Arc<Cpu>,
    model: &Arc<Model>,
    shape: (usize, usize),
) -> Result<(Engine, EngineHandle)> {
    let scheduler =
        SchedulerSettings { step_tokens_max: STEP_TOKENS_MAX, ..SchedulerSettings::default() };
    start_with(cpu, model, shape, (scheduler, 0))
}

/// The same with other settings, and so many bytes in the host's memory for what makes room.
pub(crate) fn start_with(
    cpu: &Arc<Cpu>,
    model: &Arc<Model>,
    (slots, context): (usize, usize),
    (scheduler, host_cache_bytes): (SchedulerSettings, u64),
) -> Result<(Engine, EngineHandle)> {
    let (cpu, model) = (Arc::clone(cpu), Arc::clone(model));
    let factory = move || -> Result<Box<dyn Executor>, Fault> {
        let memory = (KvFormat::Bf16, host_cache_bytes);
        let runner = runner_with_host(&cpu, &model, (slots, context), memory);
        let runner = runner.map_err(|error| Fault::internal(format!("{error:#}")))?;
        Ok(Box::new(runner))
    };
    let settings = EngineSettings { scheduler, ..EngineSettings::default() };
    Ok(Engine::start(factory, settings, EngineMetrics::unregistered())?)
}

fn report(answers: &[Answer]) -> Value {
    let arrivals = || answers.iter().map(|answer| &answer.at_s);
    let tokens: usize = arrivals().map(Vec::len).sum();
    let whole_s = arrivals().flatten().copied().fold(0.0, f64::max);
    let mut first: Vec<f64> = arrivals().filter_map(|at_s| at_s.first().copied()).collect();
    let between = arrivals().flat_map(|at_s| at_s.windows(2).map(|pair| pair[1] - pair[0]));
    let mut between: Vec<f64> = between.collect();
    let output_tokens_s = tokens as f64 / whole_s;
    let [first_p50, first_p99] = [50.0, 99.0].map(|part| 1e3 * percentile(&mut first, part));
    let [between_p50, between_p99] = [50.0, 99.0].map(|part| 1e3 * percentile(&mut between, part));
    println!(
        "engine, {STREAMS} requests at once, {PROMPT_TOKENS} tokens in, {OUTPUT_TOKENS} out, greedy"
    );
    println!("  output tokens/s       {output_tokens_s:>8.1}");
    println!("  time to first token   {first_p50:>8.1} ms p50 {first_p99:>8.1} ms p99");
    println!("  between tokens        {between_p50:>8.1} ms p50 {between_p99:>8.1} ms p99\n");
    json!({
        "streams": STREAMS,
        "prompt_tokens": PROMPT_TOKENS,
        "output_tokens": OUTPUT_TOKENS,
        "output_tokens_s": output_tokens_s,
        "first_token_ms": { "p50": first_p50, "p99": first_p99 },
        "between_tokens_ms": { "p50": between_p50, "p99": between_p99 },
    })
}
