//! `cargo xtask bench gpu`: what a model does on a GPU, beside what the GPU would allow.

mod ceilings;
mod profile;
mod requests;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ArgMatches;
use cuda::Gpu;
use engine::{Engine, EngineHandle, EngineSettings, SchedulerSettings};
use runner::{CudaLoadOptions, CudaModel, CudaOptions, CudaRunner, GpuBudget};
use telemetry::EngineMetrics;
use types::{Executor, Fault};
use weights::Weights;

use crate::{arguments, report::seconds};
use ceilings::Ceilings;
use requests::{Wave, run_wave};

/// Positions of the longest request.
const CONTEXT_MAX: u32 = 40_960;
const SLOTS: u32 = 256;
/// What the server holds to on a GPU.
const TOKEN_LATENCY_TARGET: Duration = Duration::from_millis(25);

/// The command.
pub(crate) fn run(matches: &ArgMatches) -> Result<()> {
    let path = arguments::model_path(matches)?;
    let random = matches.get_flag("dummy");
    ensure!(Gpu::count() > 0, "there is no GPU");
    let begun = Instant::now();
    let gpu = Gpu::open(0)?;
    let weights = if random { Weights::open_without_tensors(&path) } else { Weights::open(&path) }?;
    let options = CudaLoadOptions {
        random,
        check_launches: false,
        kernel_cache: Some(std::env::temp_dir().join("brigade-kernels")),
        progress: &mut |_, _| {},
    };
    let model = Arc::new(CudaModel::load(&gpu, &weights, options)?);
    println!("{}, {}", gpu.properties().name, path.display());
    println!("loaded in {}", seconds(begun.elapsed().as_secs_f64()));
    let ceilings = Ceilings::measure(&gpu)?;
    ceilings.print();
    let model_work = Work::of(&model);
    let options = CudaOptions {
        step_tokens_max: model.step_tokens_default(),
        slots_max: SLOTS,
        context_max: Some(CONTEXT_MAX.min(model.spec.context_max as u32)),
        budget: GpuBudget::FractionOfAll(0.9),
        host_cache_bytes: 0,
        tune: true,
    };
    if matches.get_flag("steps") {
        return profile::overlapped(&model, &options);
    }
    if matches.get_flag("profile") {
        profile::run(&model, &options, &ceilings, &model_work)?;
    }
    let begun = Instant::now();
    let target = (!matches.get_flag("no-target")).then_some(TOKEN_LATENCY_TARGET);
    let (engine, handle) = start(&model, &options, target)?;
    println!("runner ready in {}", seconds(begun.elapsed().as_secs_f64()));
    let memory = handle.memory();
    println!(
        "weights {:.2} GB, KV {:.2} GB, workspace {:.2} GB",
        memory.weights_bytes as f64 / 1e9,
        memory.kv_bytes as f64 / 1e9,
        memory.workspace_bytes as f64 / 1e9
    );
    waves(&handle, &ceilings, &model_work, model.spec.vocab_size)?;
    engine.shutdown();
    Ok(())
}

fn start(
    model: &Arc<CudaModel>,
    options: &CudaOptions,
    token_latency_target: Option<Duration>,
) -> Result<(Engine, EngineHandle)> {
    let (model, options) = (Arc::clone(model), Mutex::new(options.clone()));
    let factory = move || -> Result<Box<dyn Executor>, Fault> {
        let options = options.lock().map_err(|_| Fault::internal("options"))?;
        Ok(Box::new(CudaRunner::new(Arc::clone(&model), &options)?))
    };
    let settings = EngineSettings {
        scheduler: SchedulerSettings {
            step_tokens_max: u32::MAX,
            prefill_chunk_max: u32::MAX,
            running_max: SLOTS,
            token_latency_target,
            ..SchedulerSettings::default()
        },
        ..EngineSettings::default()
    };
    Engine::start(factory, settings, EngineMetrics::unregistered()).context("starting the engine")
}

/// What a model takes to compute.
pub(crate) struct Work {
    /// Bytes of weights that a step reads, the table of the embedding left out.
    pub(crate) weight_bytes: f64,
    /// Bytes of keys and values of a position.
    pub(crate) kv_bytes: f64,
    /// Weights that each position is multiplied with, the projection to logits left out.
    pub(crate) weights: f64,
    /// Operations of attention for each pair of positions.
    pub(crate) attention: f64,
}

impl Work {
    fn of(model: &CudaModel) -> Self {
        let spec = &model.spec;
        let attended = spec.heads * spec.head_dim;
        let layer = spec.width * (spec.qkv_width() + attended + 3 * spec.feed_forward);
        let weights = (spec.layers * layer) as f64;
        Self {
            weight_bytes: model.step_bytes() as f64,
            kv_bytes: 2.0 * spec.kv_values_per_token() as f64,
            weights,
            attention: 4.0 * (attended * spec.layers) as f64,
        }
    }

    /// Seconds that a step of one position for each of `streams` takes at least, when each has this context.
    pub(crate) fn decode_floor_s(&self, ceilings: &Ceilings, streams: f64, context: f64) -> f64 {
        (self.weight_bytes + streams * context * self.kv_bytes) / ceilings.read_bytes_s
    }

    /// Seconds that a prompt takes at least.
    pub(crate) fn prefill_floor_s(&self, ceilings: &Ceilings, tokens: f64) -> f64 {
        (2.0 * self.weights * tokens + self.attention * tokens * tokens / 2.0) / ceilings.matrix_s
    }
}

fn waves(handle: &EngineHandle, ceilings: &Ceilings, work: &Work, vocab_size: usize) -> Result<()> {
    let run = |count, prompt_tokens, output_tokens| {
        run_wave(handle, Wave { count, prompt_tokens, output_tokens, vocab_size })
    };
    // Warm up, so that nothing is done for the first time while it is timed.
    run(1, 300, 8)?;
    run(SLOTS as usize, 32, 4)?;
    println!("\nprompt alone        first token ms   floor   reached");
    for tokens in [128, 1024, 4096, 16_384, 32_768] {
        let best = (0..3).map(|_| run(1, tokens, 1)).collect::<Result<Vec<_>>>()?;
        let first_s = best.iter().map(|seen| seen.first_s[0]).fold(f64::INFINITY, f64::min);
        let floor_s = work
            .prefill_floor_s(ceilings, tokens as f64)
            .max(work.decode_floor_s(ceilings, 1.0, 0.0));
        println!(
            "{tokens:<20} {:>13.2} {:>7.2} {:>8.0} %",
            1e3 * first_s,
            1e3 * floor_s,
            1e2 * floor_s / first_s
        );
    }
    println!("\ndecode alone        ms a token       floor   reached");
    for (context, count) in [(128, 256), (8192, 64), (32_768, 64)] {
        let seen = run(1, context, count)?;
        let floor_s = work.decode_floor_s(ceilings, 1.0, (context + count / 2) as f64);
        println!(
            "after {context:<14} {:>13.3} {:>7.3} {:>8.0} %",
            1e3 * seen.between_s,
            1e3 * floor_s,
            1e2 * floor_s / seen.between_s
        );
    }
    println!(
        "\nat once      in    out   output tokens/s   all tokens/s   step ms   floor   reached"
    );
    for (count, prompt) in [(8, 128), (64, 128), (256, 128), (64, 1024), (256, 1024)] {
        let output = 128;
        let seen = run(count, prompt, output)?;
        let floor_s = work.decode_floor_s(ceilings, count as f64, (prompt + output / 2) as f64);
        println!(
            "{count:<8} {prompt:>6} {output:>6} {:>17.0} {:>14.0} {:>9.2} {:>7.2} {:>8.0} %",
            (count * output) as f64 / seen.whole_s,
            (count * (output + prompt)) as f64 / seen.whole_s,
            1e3 * seen.between_s,
            1e3 * floor_s,
            1e2 * floor_s / seen.between_s
        );
    }
    Ok(())
}
