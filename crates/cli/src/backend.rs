//! What a model runs on: a CPU or a GPU, and how it gets there.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use cuda::Gpu;
use device::cpu::{Cpu, Rung};
use kernels::attention::KvFormat;
use models::{Compute, LoadOptions, Model};
use runner::{
    CpuRunner, CudaLoadOptions, CudaModel, CudaOptions, CudaRunner, GpuBudget, KvBudget,
    RunnerOptions,
};
use types::{Executor, Fault};
use weights::Weights;

use crate::{
    load::{bytes, cache_dir},
    progress::bytes_bar,
    settings::Settings,
};

/// A model where it runs.
pub(crate) struct Backend {
    pub(crate) device: Device,
    pub(crate) architecture: &'static str,
    pub(crate) vocab_size: usize,
    pub(crate) executors: Executors,
}

/// Builds executors, all alike.
pub(crate) type Executors = Box<dyn FnMut() -> Result<Box<dyn Executor>, Fault> + Send>;

/// Where models run.
pub(crate) struct Device {
    kind: DeviceKind,
    /// For people.
    pub(crate) description: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DeviceKind {
    Cpu,
    Gpu,
}

impl Device {
    /// Most tokens in one step, if the executor takes as many.
    pub(crate) fn step_tokens_max(&self, settings: &Settings) -> u32 {
        self.count(settings, "engine.step_tokens_max", 512, u32::MAX)
    }

    /// How long a step may take while requests wait for their next tokens.
    pub(crate) fn token_latency_target(&self, settings: &Settings) -> Option<Duration> {
        let target_ms = self.count(settings, "engine.token_latency_target_ms", 100, 25);
        (target_ms > 0).then(|| Duration::from_millis(target_ms.into()))
    }

    /// Most tokens of one prompt in one step.
    pub(crate) fn prefill_chunk_max(&self, settings: &Settings) -> u32 {
        self.count(settings, "engine.prefill_chunk_max", 512, 65_536)
    }

    /// Most requests computed at once.
    pub(crate) fn running_max(&self, settings: &Settings) -> u32 {
        self.count(settings, "engine.running_max", 64, 256)
    }

    fn count(&self, settings: &Settings, key: &str, on_cpu: u32, on_gpu: u32) -> u32 {
        let default = match self.kind {
            DeviceKind::Cpu => on_cpu,
            DeviceKind::Gpu => on_gpu,
        };
        count(settings, key).unwrap_or(default)
    }
}

/// Memory of the host for what made room in the KV cache. It can only be found as a prefix.
fn host_cache_bytes(settings: &Settings) -> u64 {
    if !settings.switch("engine.prefix_cache") {
        return 0;
    }
    settings.integer("engine.host_cache_bytes").unwrap_or(0)
}

fn count(settings: &Settings, key: &str) -> Option<u32> {
    settings.integer(key).map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}

impl Backend {
    /// Brings a model to the device that the settings name, by default a GPU if there is one.
    pub(crate) fn new(settings: &Settings, weights: &Weights) -> Result<Self> {
        match settings.text("engine.device") {
            Some("cpu") => Self::on_cpu(settings, weights),
            Some("cuda") => Self::on_gpu(settings, weights),
            _ if Gpu::count() == 0 => Self::on_cpu(settings, weights),
            _ => Self::on_gpu(settings, weights)
                .context("using the GPU (--device cpu runs the model without it)"),
        }
    }

    fn on_cpu(settings: &Settings, weights: &Weights) -> Result<Self> {
        if is_random(settings) {
            bail!(
                "--load-format dummy makes weights on a GPU only; `cargo xtask gen-model` makes files of random weights"
            );
        }
        let cpu = Arc::new(cpu(settings)?);
        let model = Arc::new(pack(settings, weights, &cpu)?);
        let description = format!("{} on {} threads", cpu.isa.rung(), cpu.pool.threads());
        let device = Device { kind: DeviceKind::Cpu, description };
        let mut options = RunnerOptions {
            step_tokens_max: device.step_tokens_max(settings),
            slots_max: device.running_max(settings),
            context_max: count(settings, "engine.context_max"),
            kv_budget: settings.integer("engine.kv_cache_bytes").map_or_else(
                || KvBudget::FractionOfFree(settings.number("engine.kv_cache_fraction")),
                KvBudget::Bytes,
            ),
            prefix_cache_bytes: settings.integer("engine.prefix_cache_bytes"),
            host_cache_bytes: host_cache_bytes(settings),
            kv_format: kv_format(settings),
        };
        let (architecture, vocab_size) = (model.spec.architecture, model.spec.vocab_size);
        let executors = Box::new(move || {
            let runner = CpuRunner::new(Arc::clone(&cpu), Arc::clone(&model), &options)?;
            // The memory that was free for the first one counts for those after it.
            options.kv_budget = KvBudget::Bytes(runner.memory().kv_bytes);
            Ok(Box::new(runner) as Box<dyn Executor>)
        });
        Ok(Self { device, architecture, vocab_size, executors })
    }

    fn on_gpu(settings: &Settings, weights: &Weights) -> Result<Self> {
        for (key, value) in [("engine.kv_cache_dtype", "bf16"), ("engine.compute", "native")] {
            if settings.text(key).is_some_and(|text| text != value && text != "auto") {
                bail!("on a GPU {key} can only be {value} as yet");
            }
        }
        let ordinal = settings.integer("engine.gpu").unwrap_or(0);
        let gpu = Gpu::open(u32::try_from(ordinal).unwrap_or(u32::MAX))?;
        let bar = bytes_bar(0);
        bar.set_message("loading");
        let mut progress = |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        };
        let options = CudaLoadOptions {
            random: is_random(settings),
            check_launches: settings.switch("engine.gpu_check_launches"),
            kernel_cache: Some(cache_dir(settings)?.join("kernels")),
            progress: &mut progress,
        };
        let model = CudaModel::load(&gpu, weights, options);
        bar.finish_and_clear();
        let model = Arc::new(model?);
        let device = Device { kind: DeviceKind::Gpu, description: gpu.properties().name.clone() };
        let mut options = CudaOptions {
            step_tokens_max: count(settings, "engine.step_tokens_max")
                .unwrap_or_else(|| model.step_tokens_default()),
            slots_max: device.running_max(settings),
            context_max: count(settings, "engine.context_max"),
            budget: settings.integer("engine.kv_cache_bytes").map_or_else(
                || GpuBudget::FractionOfAll(settings.number("engine.gpu_memory_fraction")),
                GpuBudget::Bytes,
            ),
            host_cache_bytes: host_cache_bytes(settings),
            tune: true,
        };
        let (architecture, vocab_size) = (model.spec.architecture, model.spec.vocab_size);
        let executors = Box::new(move || {
            let runner = CudaRunner::new(Arc::clone(&model), &options)?;
            options.budget = GpuBudget::Bytes(runner.memory().kv_bytes);
            Ok(Box::new(runner) as Box<dyn Executor>)
        });
        Ok(Self { device, architecture, vocab_size, executors })
    }
}

fn is_random(settings: &Settings) -> bool {
    settings.text("model.load_format") == Some("dummy")
}

fn kv_format(settings: &Settings) -> KvFormat {
    match (settings.text("engine.kv_cache_dtype"), settings.text("engine.compute")) {
        (Some("f32"), _) | (Some("auto"), Some("f32")) => KvFormat::F32,
        (Some("int8"), _) => KvFormat::Int8,
        _ => KvFormat::Bf16,
    }
}

/// The CPU as the settings want it used.
pub(crate) fn cpu(settings: &Settings) -> Result<Cpu> {
    let rung_max = match settings.text("engine.isa") {
        None | Some("auto") => Rung::HIGHEST,
        Some(name) => name.parse()?,
    };
    let threads = settings.integer("engine.threads");
    Ok(Cpu::new(rung_max, threads.map_or_else(Cpu::default_threads, |threads| threads as usize)))
}

/// Packs the weights, showing how far it is.
pub(crate) fn pack(settings: &Settings, weights: &Weights, cpu: &Cpu) -> Result<Model> {
    let compute = match settings.text("engine.compute") {
        Some("f32") => Compute::F32,
        _ => Compute::Native,
    };
    check_memory(weights, compute)?;
    let bar = bytes_bar(0);
    bar.set_message("loading");
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let model = models::load(weights, cpu, LoadOptions { compute, progress: &mut progress });
    bar.finish_and_clear();
    Ok(model?)
}

/// Refuses a model that cannot fit before anything is allocated for it.
fn check_memory(weights: &Weights, compute: Compute) -> Result<()> {
    let needed: u64 = weights
        .tensors()
        .map(|tensor| match compute {
            Compute::Native => tensor.bytes as u64,
            Compute::F32 => 4 * tensor.shape.iter().product::<usize>() as u64,
        })
        .sum();
    match device::cpu::available_memory_bytes() {
        Some(free) if needed > free => {
            bail!("the weights need {}, but only {} of memory are free", bytes(needed), bytes(free))
        }
        _ => Ok(()),
    }
}
