//! The model behind the real engine, in this process: scheduling, streams and threads included, HTTP not.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use engine::{Engine, EngineSettings, NewRequest, SchedulerSettings};
use kernels::attention::KvFormat;
use serde_json::{Value, json};
use telemetry::EngineMetrics;
use types::{Executor, Fault, RequestEvent, SamplingParams, Service};

use super::{
    load::{STEP_TOKENS_MAX, runner},
    speed::{Bench, LEFT_OUT_S},
    streams::prompt,
};
use crate::{report::seconds, timing::percentile};

const STREAMS: usize = 32;
const PROMPT_TOKENS: usize = 128;
const OUTPUT_TOKENS: u32 = 128;

/// When a request got its tokens, from the moment all were sent.
type Arrivals = Vec<Duration>;

/// Sends requests all at once and reads each in a thread of its own. What the runner alone reached, in tokens per
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
    let (cpu, model) = (Arc::clone(&bench.cpu), Arc::clone(&bench.model));
    let factory = move || -> Result<Box<dyn Executor>, Fault> {
        let runner = runner(&cpu, &model, (STREAMS, context), KvFormat::Bf16);
        let runner = runner.map_err(|error| Fault::internal(format!("{error:#}")))?;
        Ok(Box::new(runner))
    };
    let settings = EngineSettings {
        scheduler: SchedulerSettings {
            step_tokens_max: STEP_TOKENS_MAX,
            ..SchedulerSettings::default()
        },
        ..EngineSettings::default()
    };
    let (engine, handle) = Engine::start(factory, settings, EngineMetrics::unregistered())?;
    let vocab_size = bench.model.spec.vocab_size;
    let begun = Instant::now();
    let arrivals: Result<Vec<Arrivals>> = thread::scope(|scope| {
        let mut readers = Vec::new();
        for stream in 0..STREAMS {
            // Greedy, as servers are loaded, so that the two can be compared.
            let sampling = SamplingParams::greedy();
            let mut generation = handle.submit(NewRequest {
                prompt: prompt(vocab_size, stream, PROMPT_TOKENS),
                sampling,
                tokens_max: OUTPUT_TOKENS,
                service: Service::default(),
            })?;
            readers.push(scope.spawn(move || -> Result<Arrivals> {
                let mut arrivals = Vec::new();
                while let Some(event) = generation.next_blocking() {
                    match event {
                        RequestEvent::Token { .. } => arrivals.push(begun.elapsed()),
                        RequestEvent::Failed(fault) => bail!("a request failed: {fault}"),
                        RequestEvent::Prefilled { .. }
                        | RequestEvent::PromptLogprobs(_)
                        | RequestEvent::Finished { .. } => {}
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
    engine.shutdown();
    Ok(report(&arrivals?))
}

fn report(arrivals: &[Arrivals]) -> Value {
    let tokens: usize = arrivals.iter().map(Vec::len).sum();
    let whole_s = arrivals.iter().flatten().map(Duration::as_secs_f64).fold(0.0, f64::max);
    let mut first: Vec<f64> =
        arrivals.iter().filter_map(|a| a.first().map(Duration::as_secs_f64)).collect();
    let between =
        arrivals.iter().flat_map(|a| a.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()));
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
