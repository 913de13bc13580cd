//! From a model's name to an engine that runs it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use chat::ChatTemplate;
use engine::{Engine, EngineSettings, JournalSettings, PolicyKind, SchedulerSettings, TokenRecord};
use front::{SamplingDefaults, ServedModel};
use telemetry::Metrics;
use tokenizer::{TokenKind, Tokenizer, Vocabulary};
use weights::{
    Source, Weights,
    resolve::{HubSettings, Resolved, Resolver},
};

use crate::{
    backend::{Backend, Device},
    progress::Download,
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

pub(crate) fn cache_dir(settings: &Settings) -> Result<PathBuf> {
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
    let weights = if settings.text("model.load_format") == Some("dummy") {
        Weights::open_without_tensors(&resolved.path)?
    } else {
        Weights::open(&resolved.path)?
    };
    let tokenizer = Arc::new(tokenizer(&weights)?);
    for warning in tokenizer.warnings() {
        tracing::warn!(%warning, "tokenizer");
    }
    let chat = chat_template(settings, &weights, &tokenizer)?.map(Arc::new);
    let defaults = sampling_defaults(&weights);
    let Backend { device, architecture, vocab_size, executors } = Backend::new(settings, &weights)?;
    if tokenizer.vocab_size() > vocab_size {
        bail!(
            "the tokenizer has {} tokens, but the model only {vocab_size}",
            tokenizer.vocab_size(),
        );
    }
    let data_types = data_types(&weights);
    // The device has what it needs of them.
    drop(weights);

    let mut names = settings.list("model.served_model_name").to_vec();
    if names.is_empty() {
        names.push(resolved.name);
    }
    let scheduler = engine_settings(settings, &device)?;
    let (engine, handle) = Engine::start(executors, scheduler, metrics.engine(&names[0]))?;
    let memory = handle.memory();
    let info = handle.info();
    if draft_tokens_max(settings) > 0 && info.draft_tokens_max == 0 {
        tracing::warn!(
            "engine.speculation is set, but this device takes no drafts: nothing is guessed"
        );
    }
    let wants_host = settings.integer("engine.host_cache_bytes").is_some_and(|bytes| bytes > 0);
    if wants_host && !settings.switch("engine.prefix_cache") {
        tracing::warn!(
            "engine.host_cache_bytes is set, but without engine.prefix_cache nothing is found there: it is not used"
        );
    }
    let (windowed, whole): (Vec<_>, Vec<_>) =
        info.cache_groups.iter().partition(|group| group.window().is_some());
    if wants_host && !windowed.is_empty() {
        tracing::warn!(
            "engine.host_cache_bytes is set, but layers of this model see no more than a window: it is not used"
        );
    }
    // What requests hold longest bounds how many tokens the cache has.
    let group = whole.first().or(windowed.first()).expect("a model has layers");
    let host = if memory.host_kv_bytes == 0 {
        String::new()
    } else {
        let tokens = u64::from(group.host_blocks) * u64::from(group.block_tokens);
        format!(" and {} of the host for {tokens} more", bytes(memory.host_kv_bytes))
    };
    let description = format!(
        "{}: {architecture}, {data_types}, {} weights, KV cache {} for {} tokens{host}, context {}, {}, ready in {:.1} s",
        names[0],
        bytes(memory.weights_bytes),
        bytes(memory.kv_bytes),
        u64::from(group.blocks) * u64::from(group.block_tokens),
        info.context_max,
        device.description,
        begun.elapsed().as_secs_f64(),
    );
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let served = ServedModel { names, created, tokenizer, chat, engine: handle, defaults };
    Ok(Loaded { served, engine, description })
}

fn engine_settings(settings: &Settings, device: &Device) -> Result<EngineSettings> {
    let defaults = EngineSettings::default();
    Ok(EngineSettings {
        scheduler: SchedulerSettings {
            step_tokens_max: device.step_tokens_max(settings),
            prefill_chunk_max: device.prefill_chunk_max(settings),
            running_max: device.running_max(settings),
            waiting_max: settings.count("engine.waiting_max"),
            prefix_cache: settings.switch("engine.prefix_cache"),
            policy: policy(settings),
            tenant_weights: tenant_weights(settings)?,
            token_latency_target: device.token_latency_target(settings),
            draft_tokens_max: draft_tokens_max(settings),
            ..defaults.scheduler
        },
        journal: journal_settings(settings),
        ..defaults
    })
}

fn journal_settings(settings: &Settings) -> JournalSettings {
    let bytes = |key| settings.integer(key).unwrap_or(0);
    JournalSettings {
        file: settings.text("engine.journal").map(PathBuf::from),
        file_bytes_max: bytes("engine.journal_bytes_max"),
        memory_bytes_max: bytes("engine.journal_memory_bytes_max") as usize,
        tokens: match settings.text("engine.journal_tokens") {
            Some("ids") => TokenRecord::Ids,
            _ => TokenRecord::Hashes,
        },
    }
}

/// How many tokens are guessed at once, if any are.
fn draft_tokens_max(settings: &Settings) -> u32 {
    match settings.text("engine.speculation") {
        Some("ngram") => settings.count("engine.draft_tokens_max"),
        _ => 0,
    }
}

fn policy(settings: &Settings) -> PolicyKind {
    let name = settings.text("engine.policy");
    let named = PolicyKind::NAMES.into_iter().find(|(known, _)| Some(*known) == name);
    named.map(|(_, policy)| policy).unwrap_or_default()
}

/// Shares of tenants, from texts such as `acme=3`.
fn tenant_weights(settings: &Settings) -> Result<BTreeMap<Arc<str>, u32>> {
    let weights = settings.list("engine.tenant_weights").iter().map(|text| {
        let pair = text.rsplit_once('=');
        let weight = pair.and_then(|(tenant, weight)| Some((tenant.into(), weight.parse().ok()?)));
        weight.filter(|(_, weight)| *weight > 0).with_context(|| {
            format!("engine.tenant_weights: {text} is not a name, `=` and a weight of at least 1")
        })
    });
    weights.collect()
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
