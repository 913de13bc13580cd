//! Metrics of one engine.
//!
//! Dashboards and autoscalers in the field read vLLM's names, so most families are shown under a second name as well.
//! Both names are the same atomics: an alias costs nothing until it is scraped.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder},
    metrics::{TypedMetric, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// A stop token or a stop string.
    Stop,
    /// As many tokens as were allowed.
    Length,
    /// The client went away.
    Abort,
    /// A fault.
    Error,
}

impl EncodeLabelValue for Ending {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.name())
    }
}

impl Ending {
    /// As labels and reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// Why a request was refused at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The request itself is wrong, or can never fit.
    Invalid,
    /// The queue is full.
    Overloaded,
    /// The engine is draining, stopped or failed.
    Unavailable,
}

impl EncodeLabelValue for Rejection {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Invalid => "invalid",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    model_name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Finished {
    model_name: Arc<str>,
    finished_reason: Ending,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    model_name: Arc<str>,
    reason: Rejection,
}

type Ratio = Gauge<f64, AtomicU64>;

/// A metric's own name, the name that existing dashboards use, and what it is.
struct Name(&'static str, Option<&'static str>, &'static str);

const RUNNING: Name =
    Name("brigade_requests_running", Some("vllm:num_requests_running"), "Requests with a slot");
const WAITING: Name =
    Name("brigade_requests_waiting", Some("vllm:num_requests_waiting"), "Requests in the queue");
const KV_USAGE: Name = Name(
    "brigade_kv_cache_usage_ratio",
    Some("vllm:kv_cache_usage_perc"),
    "Share of the KV blocks in use, from 0 to 1",
);
const KV_BLOCKS: Name =
    Name("brigade_kv_cache_blocks", None, "KV blocks in the pool, over all cache groups");
const HOST_USAGE: Name = Name(
    "brigade_kv_cache_host_usage_ratio",
    Some("vllm:cpu_cache_usage_perc"),
    "Share of the host's memory for KV blocks in use, from 0 to 1",
);
const HOST_BLOCKS: Name = Name(
    "brigade_kv_cache_host_blocks",
    None,
    "KV blocks that the host's memory can hold besides the pool, over all cache groups",
);
const TO_HOST: Name = Name(
    "brigade_kv_cache_blocks_to_host",
    None,
    "KV blocks copied to the host's memory, as they made room",
);
const TO_DEVICE: Name = Name(
    "brigade_kv_cache_blocks_from_host",
    None,
    "KV blocks copied back from the host's memory, as they were found",
);
const HOST_HITS: Name = Name(
    "brigade_kv_cache_host_hits",
    None,
    "Tokens brought back from the host's memory, of requests that started and of those that were preempted",
);
const PROMPT_TOKENS: Name = Name(
    "brigade_prompt_tokens",
    Some("vllm:prompt_tokens"),
    "Prompt tokens of the requests that started",
);
const GENERATION_TOKENS: Name =
    Name("brigade_generation_tokens", Some("vllm:generation_tokens"), "Tokens generated");
const LEFT_OUT: Name = Name(
    "brigade_left_out_tokens",
    None,
    "Tokens of prompts that steps left out for a request that had just come, to be computed later",
);
const PREEMPTIONS: Name = Name(
    "brigade_preemptions",
    Some("vllm:num_preemptions"),
    "Times a running request lost its place and was queued again",
);
const DRAFTED: Name = Name(
    "brigade_draft_tokens",
    Some("vllm:spec_decode_num_draft_tokens"),
    "Tokens guessed, to be computed together",
);
const ACCEPTED: Name = Name(
    "brigade_draft_tokens_accepted",
    Some("vllm:spec_decode_num_accepted_tokens"),
    "Guessed tokens that were right",
);
const PREFIX_QUERIES: Name = Name(
    "brigade_prefix_cache_queries",
    Some("vllm:prefix_cache_queries"),
    "Tokens of the requests that started, all of which might have been cached",
);
const PREFIX_HITS: Name = Name(
    "brigade_prefix_cache_hits",
    Some("vllm:prefix_cache_hits"),
    "Tokens of the requests that started that were cached",
);
const FINISHED: Name =
    Name("brigade_requests_finished", Some("vllm:request_success"), "Requests ended, by reason");
const REJECTED: Name = Name("brigade_requests_rejected", None, "Requests refused at the door");
const REBUILDS: Name =
    Name("brigade_executor_rebuilds", None, "Times the executor failed and was built again");
const FIRST_TOKEN: Name = Name(
    "brigade_time_to_first_token_seconds",
    Some("vllm:time_to_first_token_seconds"),
    "From arrival to the first token",
);
const INTER_TOKEN: Name = Name(
    "brigade_inter_token_latency_seconds",
    Some("vllm:inter_token_latency_seconds"),
    "Between two tokens of one request",
);
const END_TO_END: Name = Name(
    "brigade_request_duration_seconds",
    Some("vllm:e2e_request_latency_seconds"),
    "From arrival to the end of a request",
);
const QUEUED: Name = Name(
    "brigade_request_queue_seconds",
    Some("vllm:request_queue_time_seconds"),
    "From arrival to the first time a request was scheduled",
);
const PROMPT_LENGTH: Name = Name(
    "brigade_request_prompt_tokens",
    Some("vllm:request_prompt_tokens"),
    "Prompt tokens of a request",
);
const GENERATION_LENGTH: Name = Name(
    "brigade_request_generation_tokens",
    Some("vllm:request_generation_tokens"),
    "Tokens generated for a request",
);
const STEP_DURATION: Name = Name("brigade_step_duration_seconds", None, "One step of the engine");
const STEP_TOKENS: Name =
    Name("brigade_step_tokens", Some("vllm:iteration_tokens_total"), "Positions in one step");

// Bucket bounds follow the alias families', so that quantiles over a mixed fleet add up.
const FIRST_TOKEN_SECONDS: [f64; 19] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
];
const INTER_TOKEN_SECONDS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0,
];
const REQUEST_SECONDS: [f64; 18] = [
    0.005, 0.025, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0,
    480.0, 1920.0,
];
const STEP_SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const TOKENS: [f64; 17] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];

type Histograms = Family<Model, Histogram, fn() -> Histogram>;

/// The families, shared by the engines of all models.
#[derive(Clone, Debug)]
pub(crate) struct EngineFamilies {
    running: Family<Model, Gauge>,
    waiting: Family<Model, Gauge>,
    kv_usage: Family<Model, Ratio>,
    kv_blocks: Family<Model, Gauge>,
    host_usage: Family<Model, Ratio>,
    host_blocks: Family<Model, Gauge>,
    to_host: Family<Model, Counter>,
    to_device: Family<Model, Counter>,
    host_hits: Family<Model, Counter>,
    prompt_tokens: Family<Model, Counter>,
    generation_tokens: Family<Model, Counter>,
    left_out: Family<Model, Counter>,
    preemptions: Family<Model, Counter>,
    drafted: Family<Model, Counter>,
    accepted: Family<Model, Counter>,
    prefix_queries: Family<Model, Counter>,
    prefix_hits: Family<Model, Counter>,
    finished: Family<Finished, Counter>,
    rejected: Family<Rejected, Counter>,
    rebuilds: Family<Model, Counter>,
    first_token: Histograms,
    inter_token: Histograms,
    end_to_end: Histograms,
    queued: Histograms,
    prompt_length: Histograms,
    generation_length: Histograms,
    step_duration: Histograms,
    step_tokens: Histograms,
}

impl Default for EngineFamilies {
    fn default() -> Self {
        let family = |constructor: fn() -> Histogram| Histograms::new_with_constructor(constructor);
        Self {
            running: Family::default(),
            waiting: Family::default(),
            kv_usage: Family::default(),
            kv_blocks: Family::default(),
            host_usage: Family::default(),
            host_blocks: Family::default(),
            to_host: Family::default(),
            to_device: Family::default(),
            host_hits: Family::default(),
            prompt_tokens: Family::default(),
            generation_tokens: Family::default(),
            left_out: Family::default(),
            preemptions: Family::default(),
            drafted: Family::default(),
            accepted: Family::default(),
            prefix_queries: Family::default(),
            prefix_hits: Family::default(),
            finished: Family::default(),
            rejected: Family::default(),
            rebuilds: Family::default(),
            first_token: family(|| Histogram::new(FIRST_TOKEN_SECONDS)),
            inter_token: family(|| Histogram::new(INTER_TOKEN_SECONDS)),
            end_to_end: family(|| Histogram::new(REQUEST_SECONDS)),
            queued: family(|| Histogram::new(REQUEST_SECONDS)),
            prompt_length: family(|| Histogram::new(TOKENS)),
            generation_length: family(|| Histogram::new(TOKENS)),
            step_duration: family(|| Histogram::new(STEP_SECONDS)),
            step_tokens: family(|| Histogram::new(TOKENS)),
        }
    }
}

impl EngineFamilies {
    pub(crate) fn register(&self, registry: &mut Registry) {
        show(registry, RUNNING, &self.running);
        show(registry, WAITING, &self.waiting);
        show(registry, KV_USAGE, &self.kv_usage);
        show(registry, KV_BLOCKS, &self.kv_blocks);
        show(registry, HOST_USAGE, &self.host_usage);
        show(registry, HOST_BLOCKS, &self.host_blocks);
        show(registry, TO_HOST, &self.to_host);
        show(registry, TO_DEVICE, &self.to_device);
        show(registry, HOST_HITS, &self.host_hits);
        show(registry, PROMPT_TOKENS, &self.prompt_tokens);
        show(registry, GENERATION_TOKENS, &self.generation_tokens);
        show(registry, LEFT_OUT, &self.left_out);
        show(registry, PREEMPTIONS, &self.preemptions);
        show(registry, DRAFTED, &self.drafted);
        show(registry, ACCEPTED, &self.accepted);
        show(registry, PREFIX_QUERIES, &self.prefix_queries);
        show(registry, PREFIX_HITS, &self.prefix_hits);
        show(registry, FINISHED, &self.finished);
        show(registry, REJECTED, &self.rejected);
        show(registry, REBUILDS, &self.rebuilds);
        show(registry, FIRST_TOKEN, &self.first_token);
        show(registry, INTER_TOKEN, &self.inter_token);
        show(registry, END_TO_END, &self.end_to_end);
        show(registry, QUEUED, &self.queued);
        show(registry, PROMPT_LENGTH, &self.prompt_length);
        show(registry, GENERATION_LENGTH, &self.generation_length);
        show(registry, STEP_DURATION, &self.step_duration);
        show(registry, STEP_TOKENS, &self.step_tokens);
    }

    /// The members of the families that carry `model_name`, looked up once so that recording is an atomic addition.
    pub(crate) fn of(&self, model_name: &str) -> EngineMetrics {
        let model_name: Arc<str> = model_name.into();
        let model = Model { model_name: model_name.clone() };
        let finished = |finished_reason| {
            let model_name = model_name.clone();
            self.finished.get_or_create_owned(&Finished { model_name, finished_reason })
        };
        let rejected = |reason| {
            let model_name = model_name.clone();
            self.rejected.get_or_create_owned(&Rejected { model_name, reason })
        };
        EngineMetrics {
            running: self.running.get_or_create_owned(&model),
            waiting: self.waiting.get_or_create_owned(&model),
            kv_usage: self.kv_usage.get_or_create_owned(&model),
            kv_blocks: self.kv_blocks.get_or_create_owned(&model),
            host_usage: self.host_usage.get_or_create_owned(&model),
            host_blocks: self.host_blocks.get_or_create_owned(&model),
            to_host: self.to_host.get_or_create_owned(&model),
            to_device: self.to_device.get_or_create_owned(&model),
            host_hits: self.host_hits.get_or_create_owned(&model),
            prompt_tokens: self.prompt_tokens.get_or_create_owned(&model),
            generation_tokens: self.generation_tokens.get_or_create_owned(&model),
            left_out: self.left_out.get_or_create_owned(&model),
            preemptions: self.preemptions.get_or_create_owned(&model),
            drafted: self.drafted.get_or_create_owned(&model),
            accepted: self.accepted.get_or_create_owned(&model),
            prefix_queries: self.prefix_queries.get_or_create_owned(&model),
            prefix_hits: self.prefix_hits.get_or_create_owned(&model),
            finished_stop: finished(Ending::Stop),
            finished_length: finished(Ending::Length),
            finished_abort: finished(Ending::Abort),
            finished_error: finished(Ending::Error),
            rejected_invalid: rejected(Rejection::Invalid),
            rejected_overloaded: rejected(Rejection::Overloaded),
            rejected_unavailable: rejected(Rejection::Unavailable),
            rebuilds: self.rebuilds.get_or_create_owned(&model),
            first_token: self.first_token.get_or_create_owned(&model),
            inter_token: self.inter_token.get_or_create_owned(&model),
            end_to_end: self.end_to_end.get_or_create_owned(&model),
            queued: self.queued.get_or_create_owned(&model),
            prompt_length: self.prompt_length.get_or_create_owned(&model),
            generation_length: self.generation_length.get_or_create_owned(&model),
            step_duration: self.step_duration.get_or_create_owned(&model),
            step_tokens: self.step_tokens.get_or_create_owned(&model),
        }
    }
}

fn show<M>(registry: &mut Registry, name: Name, metric: &M)
where
    M: Clone + std::fmt::Debug + EncodeMetric + TypedMetric + Send + Sync + 'static,
{
    let Name(own, alias, help) = name;
    registry.register(own, help, metric.clone());
    if let Some(alias) = alias {
        registry.register(alias, help, metric.clone());
    }
}

/// What an engine records. Cheap to clone; every clone counts into the same metrics.
#[derive(Clone, Debug)]
pub struct EngineMetrics {
    running: Gauge,
    waiting: Gauge,
    kv_usage: Ratio,
    kv_blocks: Gauge,
    host_usage: Ratio,
    host_blocks: Gauge,
    to_host: Counter,
    to_device: Counter,
    host_hits: Counter,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    left_out: Counter,
    preemptions: Counter,
    drafted: Counter,
    accepted: Counter,
    prefix_queries: Counter,
    prefix_hits: Counter,
    finished_stop: Counter,
    finished_length: Counter,
    finished_abort: Counter,
    finished_error: Counter,
    rejected_invalid: Counter,
    rejected_overloaded: Counter,
    rejected_unavailable: Counter,
    rebuilds: Counter,
    first_token: Histogram,
    inter_token: Histogram,
    end_to_end: Histogram,
    queued: Histogram,
    prompt_length: Histogram,
    generation_length: Histogram,
    step_duration: Histogram,
    step_tokens: Histogram,
}

impl EngineMetrics {
    /// Metrics that no registry shows, for tests and tools.
    pub fn unregistered() -> Self {
        EngineFamilies::default().of("")
    }

    /// How many requests run and wait now.
    pub fn set_requests(&self, running: u32, waiting: u32) {
        self.running.set(running.into());
        self.waiting.set(waiting.into());
    }

    /// How many KV blocks are in use now, of how many.
    pub fn set_kv_blocks(&self, used: u64, total: u64) {
        self.kv_usage.set(if total == 0 { 0.0 } else { used as f64 / total as f64 });
        self.kv_blocks.set(total.try_into().unwrap_or(i64::MAX));
    }

    /// How many blocks' contents are in the host's memory now, and how many can be.
    pub fn set_host_blocks(&self, used: u64, total: u64) {
        self.host_usage.set(if total == 0 { 0.0 } else { used as f64 / total as f64 });
        self.host_blocks.set(total.try_into().unwrap_or(i64::MAX));
    }

    /// Blocks were copied to the host's memory and back from there, and so `tokens` were found.
    pub fn copied(&self, to_host: u64, to_device: u64, tokens: u64) {
        self.to_host.inc_by(to_host);
        self.to_device.inc_by(to_device);
        self.host_hits.inc_by(tokens);
    }

    /// A step of `tokens` positions is done.
    pub fn step(&self, duration: Duration, tokens: u64) {
        self.step_duration.observe(duration.as_secs_f64());
        self.step_tokens.observe(tokens as f64);
    }

    /// So many positions of prompts were left out of steps for somebody new.
    pub fn left_out(&self, tokens: u64) {
        self.left_out.inc_by(tokens);
    }

    /// Running requests were preempted.
    pub fn preempted(&self, count: u64) {
        self.preemptions.inc_by(count);
    }

    /// So many tokens were guessed, and so many of them rightly.
    pub fn guesses(&self, drafted: u64, accepted: u64) {
        self.drafted.inc_by(drafted);
        self.accepted.inc_by(accepted);
    }

    /// Requests of `queried` tokens started, and `hits` of those were cached.
    pub fn prefixes(&self, queried: u64, hits: u64) {
        self.prefix_queries.inc_by(queried);
        self.prefix_hits.inc_by(hits);
    }

    /// The first token of a request is out.
    pub fn first_token(&self, since_arrival: Duration, prompt_tokens: u64) {
        self.first_token.observe(since_arrival.as_secs_f64());
        self.prompt_tokens.inc_by(prompt_tokens);
        self.generation_tokens.inc();
    }

    /// A later token of a request is out.
    pub fn next_token(&self, since_last: Duration) {
        self.inter_token.observe(since_last.as_secs_f64());
        self.generation_tokens.inc();
    }

    /// A request ended.
    pub fn ended(&self, ending: Ending, since_arrival: Duration) {
        match ending {
            Ending::Stop => &self.finished_stop,
            Ending::Length => &self.finished_length,
            Ending::Abort => &self.finished_abort,
            Ending::Error => &self.finished_error,
        }
        .inc();
        self.end_to_end.observe(since_arrival.as_secs_f64());
    }

    /// What a request that ended well used.
    pub fn used(&self, prompt_tokens: u64, generated_tokens: u64, queued: Duration) {
        self.prompt_length.observe(prompt_tokens as f64);
        self.generation_length.observe(generated_tokens as f64);
        self.queued.observe(queued.as_secs_f64());
    }

    /// A request was refused at the door.
    pub fn rejected(&self, reason: Rejection) {
        match reason {
            Rejection::Invalid => &self.rejected_invalid,
            Rejection::Overloaded => &self.rejected_overloaded,
            Rejection::Unavailable => &self.rejected_unavailable,
        }
        .inc();
    }

    /// The executor failed and is being built again.
    pub fn executor_rebuilt(&self) {
        self.rebuilds.inc();
    }
}
