//! Every setting, once: its key, names, default, range and meaning. Flags, environment variables, the file's keys, the
//! reference page and `brigade config show` all come from this table.

/// A setting.
pub(crate) struct Setting {
    /// Its key in the file, with its section; the flag and the environment variable are made from the part after the
    /// dot.
    pub(crate) key: &'static str,
    /// Other flags that mean the same, as other servers call it.
    pub(crate) flag_aliases: &'static [&'static str],
    /// Other environment variables that mean the same; `BRIGADE_…` wins over them.
    pub(crate) env_aliases: &'static [&'static str],
    /// What it is when nothing is said; empty stands for absent.
    pub(crate) default: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// One or two sentences.
    pub(crate) help: &'static str,
}

/// What a setting takes.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A whole number in a range.
    Integer(u64, u64),
    /// A number in a range.
    Number(f64, f64),
    /// A size in bytes of at least so many, with an optional suffix such as `4GiB`.
    Bytes(u64),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// `true` or `false`; the flag alone means `true`.
    Switch,
    /// Texts separated by commas; the flag may be repeated.
    List,
}

impl Setting {
    /// The flag without its dashes.
    pub(crate) fn flag(&self) -> String {
        self.name().replace('_', "-")
    }

    /// The environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("BRIGADE_{}", self.name().to_uppercase())
    }

    /// The section of the file it stands in.
    pub(crate) fn section(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(section, _)| section)
    }

    /// The key without its section.
    pub(crate) fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }
}

const fn setting(
    key: &'static str,
    default: &'static str,
    kind: Kind,
    help: &'static str,
) -> Setting {
    Setting { key, flag_aliases: &[], env_aliases: &[], default, kind, help }
}

impl Setting {
    const fn flags(self, flag_aliases: &'static [&'static str]) -> Self {
        Self { flag_aliases, ..self }
    }

    const fn variables(self, env_aliases: &'static [&'static str]) -> Self {
        Self { env_aliases, ..self }
    }
}

const COUNT: Kind = Kind::Integer(1, 1 << 20);
const SECONDS: Kind = Kind::Number(0.1, 86_400.0);

/// The settings, in the order in which help shows them.
pub(crate) const SETTINGS: &[Setting] = &[
    setting("model.model", "smollm2", Kind::Text, "The model to serve where the command names none.")
        .flags(&["model-id"])
        .variables(&["MODEL_ID"]),
    setting(
        "model.served_model_name",
        "",
        Kind::List,
        "Names under which clients ask for the model; the first one is in the answers. By default the model's own name.",
    ),
    setting(
        "model.cache_dir",
        "",
        Kind::Text,
        "Where models from packages are kept. By default $XDG_CACHE_HOME/brigade or ~/.cache/brigade. Models from the hub lie in the hub's own cache (HF_HOME).",
    )
    .variables(&["BRIGADE_CACHE"]),
    setting("model.offline", "false", Kind::Switch, "Use only what is cached.")
        .variables(&["HF_HUB_OFFLINE"]),
    setting(
        "model.load_format",
        "auto",
        Kind::Choice(&["auto", "dummy"]),
        "auto reads the weights. dummy makes random ones on a GPU, from the configuration alone, for measuring.",
    ),
    setting(
        "model.chat_template",
        "",
        Kind::Text,
        "A file with a chat template to use instead of the model's own.",
    ),
    setting("server.host", "127.0.0.1", Kind::Text, "Address to listen on; 0.0.0.0 for all.")
        .flags(&["hostname"]),
    setting("server.port", "8000", Kind::Integer(0, 65_535), "Port to listen on; 0 for a free one.")
        .variables(&["PORT"]),
    setting(
        "server.api_key",
        "",
        Kind::List,
        "Keys of which a client must send one as a bearer token. By default none is needed.",
    ),
    setting(
        "server.admin_key",
        "",
        Kind::List,
        "Keys that open the routes under /admin, which tell of everybody's requests. Without one they are closed where api_key asks for keys, and open where nothing does.",
    ),
    setting(
        "server.requests_max",
        "1024",
        COUNT,
        "Most requests under way at once; one more is answered with 429.",
    )
    .flags(&["max-concurrent-requests"])
    .variables(&["MAX_CONCURRENT_REQUESTS"]),
    setting("server.connections_max", "4096", COUNT, "Most connections at once."),
    setting("server.body_bytes_max", "8MiB", Kind::Bytes(1), "Largest request body.")
        .flags(&["payload-limit"]),
    setting("server.choices_max", "128", COUNT, "Most answers to one request: prompts times `n`."),
    setting(
        "server.drain_timeout_s",
        "30",
        Kind::Number(0.0, 86_400.0),
        "At SIGTERM or Ctrl-C, requests under way have this long to finish.",
    )
    .flags(&["shutdown-timeout"]),
    setting(
        "server.keep_alive_interval_s",
        "15",
        SECONDS,
        "A stream that is silent this long sends a comment, so that proxies keep it open.",
    )
    .flags(&["sse-keep-alive-interval"]),
    setting(
        "server.write_timeout_s",
        "60",
        SECONDS,
        "A client that takes nothing of its answer for this long is cut off.",
    ),
    setting("server.cors", "false", Kind::Switch, "Let web pages from anywhere call this server."),
    setting(
        "engine.device",
        "auto",
        Kind::Choice(&["auto", "cpu", "cuda"]),
        "Where the model runs; auto is the first NVIDIA GPU, if there is one, and otherwise the CPU.",
    ),
    setting("engine.gpu", "0", Kind::Integer(0, 1023), "Which GPU, as the driver counts them."),
    setting(
        "engine.context_max",
        "",
        COUNT,
        "Most tokens in a request, prompt and answer together. By default the model's own limit.",
    )
    .flags(&["max-model-len", "max-total-tokens"])
    .variables(&["MAX_TOTAL_TOKENS"]),
    setting("engine.running_max", "", Kind::Integer(1, 4096), "Most requests computed at once. By default 64 on a CPU and 256 on a GPU.")
        .flags(&["max-num-seqs"]),
    setting("engine.waiting_max", "1024", COUNT, "Most requests waiting; one more is answered with 429."),
    setting(
        "engine.step_tokens_max",
        "",
        Kind::Integer(1, 65_536),
        "Most tokens computed in one step. Larger steps make long prompts faster and other streams jerkier. By default 512 on a CPU, and 2048 to 8192 on a GPU, as its memory allows.",
    )
    .flags(&["max-num-batched-tokens", "max-batch-prefill-tokens"])
    .variables(&["MAX_BATCH_PREFILL_TOKENS"]),
    setting(
        "engine.prefill_chunk_max",
        "",
        Kind::Integer(1, 65_536),
        "Most tokens of one prompt computed in one step. By default 512 on a CPU, and all of a step on a GPU.",
    ),
    setting(
        "engine.policy",
        "fair",
        Kind::Choice(&["fair", "first-come", "priority", "shortest", "deadline"]),
        "Who is served first. fair: tenants share by their weights, small requests before large ones, and nobody waits for ever. first-come: in order of arrival. priority: by the request's `priority`, and running ones give way. shortest: small requests first, with ageing. deadline: by the request's `first_token_due_ms`.",
    ),
    setting(
        "engine.tenant_weights",
        "",
        Kind::List,
        "Shares of tenants under the fair policy, as name=weight; 1 where nothing is said. A tenant is one of the keys (`key 1` is the first), else what the header x-tenant-id says, else the request's `user`.",
    ),
    setting(
        "engine.token_latency_target_ms",
        "",
        Kind::Integer(0, 60_000),
        "How long a step may take while requests wait for their next tokens; prompts are computed in what is left of it, by measured times. 0 for no target. By default 100 on a CPU and 25 on a GPU.",
    ),
    setting(
        "engine.speculation",
        "off",
        Kind::Choice(&["off", "ngram"]),
        "ngram guesses next tokens from what a request's own text said before and computes several in a step; answers are the same. It pays where answers repeat their prompts. On a CPU alone so far.",
    ),
    setting(
        "engine.draft_tokens_max",
        "8",
        Kind::Integer(1, 16),
        "Most tokens guessed at once; fewer where guesses go wrong or would not save time.",
    ),
    setting(
        "engine.kv_cache_bytes",
        "",
        Kind::Bytes(1),
        "Memory for the KV cache. By default the fraction of free memory below, and no more than can be used.",
    )
    .flags(&["kv-cache-memory-bytes"]),
    setting(
        "engine.kv_cache_fraction",
        "0.5",
        Kind::Number(0.01, 0.95),
        "On a CPU: part of the memory that is free at start, after the weights are loaded, for the KV cache.",
    ),
    setting(
        "engine.gpu_memory_fraction",
        "0.9",
        Kind::Number(0.01, 0.99),
        "On a GPU: part of its memory that is used in all. The KV cache gets what weights and activations leave of it.",
    )
    .flags(&["gpu-memory-utilization"]),
    setting(
        "engine.gpu_check_launches",
        "false",
        Kind::Switch,
        "On a GPU: wait for each kernel, so that the error of one that fails names it and its launch shape. Slow; for finding faults.",
    ),
    setting("engine.kv_cache_dtype", "auto", Kind::Choice(&["auto", "bf16", "int8", "f32"]), "How keys and values are stored; auto is bf16, or f32 where the model computes in f32; int8 holds nearly twice as many as bf16, a little less exactly."),
    setting(
        "engine.prefix_cache",
        "true",
        Kind::Switch,
        "Requests that begin alike share what was computed for the first of them. Tenants with keys of their own share nothing.",
    )
    .flags(&["enable-prefix-caching"]),
    setting(
        "engine.prefix_cache_bytes",
        "",
        Kind::Bytes(1),
        "On a CPU: the KV cache grows in memory up to this size before something cached is dropped, and beyond it only as running requests need it. By default twice the weights.",
    ),
    setting(
        "engine.host_cache_bytes",
        "0",
        Kind::Bytes(0),
        "Memory of the host for blocks that made room in the KV cache: found again, they are copied back if that is sooner than to compute them. For a GPU it is pinned at start, about 3 GB a second, and each block that makes room is copied, which takes a sixth of what computing it took. There is none beside layers with a window. 0 turns it off.",
    ),
    setting(
        "engine.journal",
        "",
        Kind::Text,
        "A file to record the engine's inputs in, for `brigade replay`: settings, arrivals, outcomes of steps, aborts, times. It takes the place of one that is there, and is readable by its owner alone.",
    ),
    setting("engine.journal_bytes_max", "1GiB", Kind::Bytes(1), "The journal's file ends when it has this size."),
    setting(
        "engine.journal_memory_bytes_max",
        "8MiB",
        Kind::Bytes(0),
        "So much of the journal, the newest, is kept in memory whether there is a file or not, and beside it a second scheduler in the state in which the first was at its beginning; SIGUSR1 writes both to a file for `brigade replay` and logs where. 0 keeps none.",
    ),
    setting(
        "engine.journal_tokens",
        "hashes",
        Kind::Choice(&["hashes", "ids"]),
        "How tokens stand in the journal. hashes: each as a hash of itself and all before it under a key that is kept nowhere, tenants and salts as well; it tells which prompts begin alike, and no more. ids: as they are, so that prompts and answers can be read from it.",
    ),
    setting(
        "engine.compute",
        "native",
        Kind::Choice(&["native", "f32"]),
        "native: quantized weights are multiplied with 8-bit inputs. f32: the reference path, weights dequantised, slower and larger.",
    ),
    setting(
        "engine.threads",
        "",
        Kind::Integer(1, 1024),
        "Threads that compute. By default one for each processor.",
    ),
    setting(
        "engine.isa",
        "auto",
        Kind::Choice(&["auto", "scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "neon"]),
        "Widest instruction set to use, auto being the widest there is; what the processor lacks is never used. avx2, avxvnni, avx512 and avx512bf16 are for x86-64, neon is for AArch64.",
    ),
    setting("log.log_format", "text", Kind::Choice(&["text", "json"]), "How log lines look."),
    setting(
        "log.log_filter",
        "info",
        Kind::Text,
        "What is logged: a level, or levels by module, such as `warn,engine=debug`.",
    )
    .flags(&["log-level"]),
];

/// A flag of another server that Brigade takes so that a command line carries over, though it has nothing to set.
pub(crate) struct Compatible {
    /// The flag without its dashes.
    pub(crate) flag: &'static str,
    /// What it takes and what that does here.
    pub(crate) effect: Effect,
}

/// What a compatible flag does.
pub(crate) enum Effect {
    /// A number that must be 1, because more is not there yet.
    MustBeOne(&'static str),
    /// A switch that changes nothing; why.
    Switch(&'static str),
    /// A value that changes nothing; why.
    Value(&'static str),
}

/// The compatible flags.
pub(crate) const COMPATIBLE: &[Compatible] = &[
    Compatible { flag: "tensor-parallel-size", effect: Effect::MustBeOne("tensor parallelism") },
    Compatible { flag: "num-shard", effect: Effect::MustBeOne("sharding") },
    Compatible {
        flag: "pipeline-parallel-size",
        effect: Effect::MustBeOne("pipeline parallelism"),
    },
    Compatible {
        flag: "enable-auto-tool-choice",
        effect: Effect::Switch("tool calls are not parsed yet"),
    },
    Compatible { flag: "tool-call-parser", effect: Effect::Value("tool calls are not parsed yet") },
    Compatible { flag: "reasoning-parser", effect: Effect::Value("reasoning is not parsed yet") },
    Compatible {
        flag: "quantization",
        effect: Effect::Value("the weight file says how it is quantized"),
    },
    Compatible {
        flag: "quantize",
        effect: Effect::Value("the weight file says how it is quantized"),
    },
    Compatible { flag: "dtype", effect: Effect::Value("see --compute") },
    Compatible {
        flag: "trust-remote-code",
        effect: Effect::Switch("no code of models is ever run"),
    },
    Compatible {
        flag: "max-input-tokens",
        effect: Effect::Value("prompt and answer share one limit, --context-max"),
    },
];
