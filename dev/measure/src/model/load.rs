//! Loading a model, and runners for it.

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use device::cpu::{Cpu, available_memory_bytes};
use kernels::attention::KvFormat;
use models::{Compute, LoadOptions, Model};
use runner::{CpuRunner, KvBudget, RunnerOptions};
use weights::Weights;

use crate::report::megabytes;

/// Most positions in a step.
pub(crate) const STEP_TOKENS_MAX: u32 = 512;

/// A model and how long it took to get it.
pub(crate) struct Loaded {
    pub(crate) model: Arc<Model>,
    /// Reading the file's directory.
    pub(crate) open_s: f64,
    /// Packing the weights.
    pub(crate) pack_s: f64,
    /// Bytes of weights in the file.
    pub(crate) file_bytes: u64,
}

/// Loads a model; refuses one that does not fit into memory.
pub(crate) fn load(path: &Path, cpu: &Cpu, compute: Compute) -> Result<Loaded> {
    let begun = Instant::now();
    let weights = Weights::open(path).with_context(|| format!("opening {}", path.display()))?;
    let open_s = begun.elapsed().as_secs_f64();
    let needed: u64 = match compute {
        Compute::Native => weights.bytes(),
        Compute::F32 => weights.tensors().map(|tensor| 4 * tensor.elements() as u64).sum(),
    };
    if let Some(free) = available_memory_bytes() {
        let (needed_mb, free_mb) = (megabytes(needed), megabytes(free));
        ensure!(needed < free, "the weights need {needed_mb}, but only {free_mb} are free");
    }
    let begun = Instant::now();
    let options = LoadOptions { compute, progress: &mut |_, _| {} };
    let model = Arc::new(models::load(&weights, cpu, options)?);
    let pack_s = begun.elapsed().as_secs_f64();
    Ok(Loaded { model, open_s, pack_s, file_bytes: weights.bytes() })
}

/// A runner with room for `slots` requests of `context` positions each, and none in the host's memory besides.
pub(crate) fn runner(
    cpu: &Arc<Cpu>,
    model: &Arc<Model>,
    (slots, context): (usize, usize),
    kv_format: KvFormat,
) -> Result<CpuRunner> {
    runner_with_host(cpu, model, (slots, context), (kv_format, 0))
}

/// The same with so many bytes in the host's memory besides.
pub(crate) fn runner_with_host(
    cpu: &Arc<Cpu>,
    model: &Arc<Model>,
    (slots, context): (usize, usize),
    (kv_format, host_cache_bytes): (KvFormat, u64),
) -> Result<CpuRunner> {
    let options = RunnerOptions {
        step_tokens_max: STEP_TOKENS_MAX,
        slots_max: slots as u32,
        context_max: Some(context.min(model.spec.context_max) as u32),
        // As much as those requests can fill.
        kv_budget: KvBudget::Bytes(u64::MAX),
        prefix_cache_bytes: None,
        host_cache_bytes,
        kv_format,
    };
    Ok(CpuRunner::new(Arc::clone(cpu), Arc::clone(model), &options)?)
}
