//! From a model's name to an engine that runs it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use chat::ChatTemplate;
use device::cpu::{Cpu, Rung};
use engine::{Engine, EngineSettings, SchedulerSettings};
use front::{SamplingDefaults, ServedModel};
use kernels::attention::KvFormat;
use models::{Compute, LoadOptions, Model};
use runner::{CpuRunner, KvBudget, RunnerOptions};
use telemetry::Metrics;
use tokenizer::{TokenKind, Tokenizer, Vocabulary};
use types::{Executor, Fault};
use weights::{
    Source, Weights,
    resolve::{HubSettings, Resolved, Resolver},
};

use crate::{
    progress::{Download, bytes_bar},
    settings::Settings,
};

/// A model with its engine running.
pub(crate) struct Loaded {
    /// For the front door.
    pub(crate) served: ServedModel,
    /// Stops when dropped.
    pub(crate) engine: Engine,
    /// What it is, for people.
    pub(crate) description: String,
}

/// Finds models as the settings say.
pub(crate) fn resolver(settings: &Settings) -> Result<Resolver> {
    let variable = |name: &str| std::env::var(name).ok();
    let mut hub = HubSettings::from_env(variable);
    hub.offline |= settings.switch("model.offline");
    Ok(Resolver::new(cache_dir(settings)?, hub))
}

fn cache_dir(settings: &Settings) -> Result<PathBuf> {
    if let Some(dir) = settings.text("model.cache_dir") {
        return Ok(dir.into());
    }
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .map(|base| base.join("brigade"))
        .context("neither XDG_CACHE_HOME nor HOME is set: name a folder with --cache-dir")
}

/// The model that the command or the settings name, fetched if needed.
pub(crate) fn resolve(settings: &Settings, argument: Option<&str>) -> Result<Resolved> {
    let model = argument.or(settings.text("model.model")).context("no model is named")?;
    let download = Download::default();
    resolver(settings)?.resolve(model, &download).with_context(|| format!("model `{model}`"))
}

/// Loads a model and starts its engine.
pub(crate) fn load(
    settings: &Settings,
    argument: Option<&str>,
    metrics: &Metrics,
) -> Result<Loaded> {
    let resolved = resolve(settings, argument)?;
    let begun = Instant::now();
    let weights = Weights::open(&resolved.path)?;
    let tokenizer = Arc::new(tokenizer(&weights)?);
    for warning in tokenizer.warnings() {
        tracing::warn!(%warning, "tokenizer");
    }
    let chat = chat_template(settings, &weights, &tokenizer)?.map(Arc::new);
    let defaults = sampling_defaults(&weights);
    let cpu = Arc::new(cpu(settings)?);
    let model = Arc::new(pack(settings, &weights, &cpu)?);
    if tokenizer.vocab_size() > model.spec.vocab_size {
        bail!(
            "the tokenizer has {} tokens, but the model only {}",
            tokenizer.vocab_size(),
            model.spec.vocab_size
        );
    }
    let data_types = data_types(&weights);
    // The packed weights are all that is needed from here on.
    drop(weights);

    let mut names = settings.list("model.served_model_name").to_vec();
    if names.is_empty() {
        names.push(resolved.name);
    }
    let options = runner_options(settings);
    let (engine, handle) = Engine::start(
        factory(Arc::clone(&cpu), Arc::clone(&model), options),
        engine_settings(settings),
        metrics.engine(&names[0]),
    )?;
    let memory = handle.memory();
    let info = handle.info();
    let group = &info.cache_groups[0];
    let description = format!(
        "{}: {}, {data_types}, {} weights, KV cache {} for {} tokens, context {}, {} on {} threads, ready in {:.1} s",
        names[0],
        model.spec.architecture,
        bytes(memory.weights_bytes),
        bytes(memory.kv_bytes),
        u64::from(group.blocks) * u64::from(group.block_tokens),
        info.context_max,
        cpu.isa.rung(),
        cpu.pool.threads(),
        begun.elapsed().as_secs_f64(),
    );
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let served = ServedModel { names, created, tokenizer, chat, engine: handle, defaults };
    Ok(Loaded { served, engine, description })
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

fn runner_options(settings: &Settings) -> RunnerOptions {
    let context_max = settings.integer("engine.context_max");
    RunnerOptions {
        step_tokens_max: settings.count("engine.step_tokens_max"),
        slots_max: settings.count("engine.running_max"),
        context_max: context_max.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)),
        kv_budget: settings.integer("engine.kv_cache_bytes").map_or_else(
            || KvBudget::FractionOfFree(settings.number("engine.kv_cache_fraction")),
            KvBudget::Bytes,
        ),
        kv_format: match (settings.text("engine.kv_cache_dtype"), settings.text("engine.compute")) {
            (Some("f32"), _) | (Some("auto"), Some("f32")) => KvFormat::F32,
            (Some("int8"), _) => KvFormat::Int8,
            _ => KvFormat::Bf16,
        },
    }
}

fn engine_settings(settings: &Settings) -> EngineSettings {
    let defaults = EngineSettings::default();
    EngineSettings {
        scheduler: SchedulerSettings {
            step_tokens_max: settings.count("engine.step_tokens_max"),
            prefill_chunk_max: settings.count("engine.prefill_chunk_max"),
            running_max: settings.count("engine.running_max"),
            waiting_max: settings.count("engine.waiting_max"),
            prefix_cache: settings.switch("engine.prefix_cache"),
            ..defaults.scheduler
        },
        ..defaults
    }
}

/// Builds runners, all alike: the memory that was free for the first one counts for those after it.
fn factory(
    cpu: Arc<Cpu>,
    model: Arc<Model>,
    mut options: RunnerOptions,
) -> impl FnMut() -> Result<Box<dyn Executor>, Fault> + Send + 'static {
    move || {
        let runner = CpuRunner::new(Arc::clone(&cpu), Arc::clone(&model), &options)?;
        options.kv_budget = KvBudget::Bytes(runner.memory().kv_bytes);
        Ok(Box::new(runner))
    }
}

/// The tokenizer that the checkpoint carries.
pub(crate) fn tokenizer(weights: &Weights) -> Result<Tokenizer> {
    Ok(match weights.source() {
        Source::HuggingFace { dir, .. } => Tokenizer::from_folder(dir)?,
        Source::Gguf(metadata) => {
            let keys = metadata.vocabulary()?;
            let kind = |number: &i64| {
                TokenKind::from_number(*number)
                    .with_context(|| format!("unknown token type {number} in the vocabulary"))
            };
            Tokenizer::from_vocabulary(Vocabulary {
                model: keys.model.to_owned(),
                pre: keys.pre.map(str::to_owned),
                tokens: keys.tokens.to_vec(),
                scores: keys.scores.to_vec(),
                kinds: keys.token_types.iter().map(kind).collect::<Result<_>>()?,
                merges: keys.merges.to_vec(),
                bos: keys.bos,
                eos: keys.eos,
                eot: keys.eot,
                unk: keys.unk,
                pad: keys.pad,
                add_bos: keys.add_bos,
                add_eos: keys.add_eos,
                add_space_prefix: keys.add_space_prefix,
            })?
        }
    })
}

fn chat_template(
    settings: &Settings,
    weights: &Weights,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>> {
    let special = tokenizer.special();
    let bos = special.bos_text.as_deref().unwrap_or("");
    let eos = special.eos_text.as_deref().unwrap_or("");
    if let Some(path) = settings.text("model.chat_template") {
        let source = std::fs::read_to_string(path)
            .with_context(|| format!("reading the chat template {path}"))?;
        return Ok(Some(ChatTemplate::new(&source, bos, eos)?));
    }
    Ok(match weights.source() {
        Source::HuggingFace { dir, .. } => ChatTemplate::from_folder(dir, bos, eos)?,
        Source::Gguf(metadata) => metadata
            .vocabulary()?
            .chat_template
            .map(|source| ChatTemplate::new(source, bos, eos))
            .transpose()?,
    })
}

/// What the makers of the model recommend, if they do.
fn sampling_defaults(weights: &Weights) -> SamplingDefaults {
    let Source::HuggingFace { dir, .. } = weights.source() else {
        return SamplingDefaults::default();
    };
    let config = read_json(&dir.join("generation_config.json")).unwrap_or_default();
    let number = |name: &str| config.get(name).and_then(|value| value.as_f64());
    let float = |name: &str| number(name).map(|value| value as f32);
    SamplingDefaults {
        temperature: float("temperature"),
        top_p: float("top_p"),
        top_k: number("top_k").map(|value| value as u32),
        min_p: float("min_p"),
        typical_p: float("typical_p"),
        repetition_penalty: float("repetition_penalty"),
    }
}

fn read_json(path: &Path) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(path).ok()?;
    serde_json::from_str(&text)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "ignored"))
        .ok()
}

/// Formats of the weights, the most used one first.
pub(crate) fn data_types(weights: &Weights) -> String {
    let mut counts: Vec<(types::DataType, usize)> = Vec::new();
    for tensor in weights.tensors().filter(|tensor| tensor.shape.len() > 1) {
        match counts.iter_mut().find(|(data_type, _)| *data_type == tensor.data_type) {
            Some((_, bytes)) => *bytes += tensor.bytes,
            None => counts.push((tensor.data_type, tensor.bytes)),
        }
    }
    counts.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    counts.iter().map(|(data_type, _)| data_type.to_string()).collect::<Vec<_>>().join(" + ")
}

/// Bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
