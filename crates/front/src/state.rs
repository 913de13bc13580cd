//! What every route can reach: the models served, the limits, the metrics, and whether the door is still open.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, UNIX_EPOCH},
};

use chat::ChatTemplate;
use engine::EngineHandle;
use telemetry::{HttpMetrics, Metrics};
use tokenizer::Tokenizer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use types::{CacheGroup, Fault};

use crate::{
    Error,
    source::{RandomSource, Source},
};

/// A model behind the door.
#[derive(Clone)]
pub struct ServedModel {
    /// Names that clients may use; the first is the one that answers carry.
    pub names: Vec<String>,
    /// When the model was loaded, in seconds since 1970.
    pub created: u64,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Messages to text; without it the model does not chat.
    pub chat: Option<Arc<ChatTemplate>>,
    /// Tokens to tokens.
    pub engine: EngineHandle,
    /// For what a request leaves open.
    pub defaults: SamplingDefaults,
}

impl ServedModel {
    /// The name that answers carry.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Most tokens of one request, prompt and answer: what the model can take, or less where the KV pool is smaller.
    pub(crate) fn context_max(&self) -> u32 {
        let info = self.engine.info();
        let pool = info.cache_groups.iter().map(CacheGroup::positions_of_one).min();
        pool.map_or(info.context_max, |pool| pool.min(info.context_max.into()) as u32)
    }
}

/// Sampling as the model's makers recommend it (`generation_config.json`), for requests that do not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "fields as in types::SamplingParams")]
pub struct SamplingDefaults {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub typical_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

/// Limits and switches of the front door.
#[derive(Clone, Debug)]
pub struct FrontSettings {
    /// Largest request body.
    pub body_bytes_max: usize,
    /// Most requests for tokens or text under way at once; one more is told to come back later.
    pub requests_max: usize,
    /// Most connections at once; one more waits to be accepted.
    pub connections_max: usize,
    /// Most answers to one request: prompts times `n`.
    pub choices_max: u32,
    /// A connection that sends no whole request head for this long is closed, idle ones included.
    pub header_timeout: Duration,
    /// A body of which no byte arrives for this long is given up.
    pub body_timeout: Duration,
    /// A client that takes no byte of its answer for this long is cut off.
    pub write_timeout: Duration,
    /// A stream that is silent for this long sends a comment line, for the proxies in between.
    pub keep_alive_interval: Duration,
    /// At shutdown, requests under way have this long to finish.
    pub drain_timeout: Duration,
    /// Keys that open the routes under `/v1` and the token routes; none means no key is asked for.
    pub api_keys: Vec<String>,
    /// Keys that open the routes under `/admin`. With none these routes are as open as the others if no key is asked
    /// for at all, and else closed: whoever may use the server may not see what others do.
    pub admin_keys: Vec<String>,
    /// Let web pages from anywhere call this server.
    pub cors: bool,
}

impl Default for FrontSettings {
    fn default() -> Self {
        Self {
            body_bytes_max: 8 << 20,
            requests_max: 1024,
            connections_max: 4096,
            choices_max: 128,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            keep_alive_interval: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            api_keys: Vec::new(),
            admin_keys: Vec::new(),
            cors: false,
        }
    }
}

/// The state behind the routes. Clones share it.
#[derive(Clone)]
pub struct FrontState(Arc<Shared>);

struct Shared {
    models: Vec<Arc<ServedModel>>,
    settings: FrontSettings,
    metrics: Arc<Metrics>,
    http: HttpMetrics,
    source: Box<dyn Source>,
    draining: AtomicBool,
    /// One permit a request under way, held until its answer is complete or dropped.
    requests: Arc<Semaphore>,
    /// One permit a CPU-bound chore on a blocking thread, so that many large prompts cannot crowd out the model.
    chores: Semaphore,
}

/// Bodies and prompts up to this size are worked on where they are; larger ones would hold up other connections.
const INLINE_BYTES_MAX: usize = 16 << 10;

impl FrontState {
    /// A door to `models`, at least one.
    pub fn new(models: Vec<ServedModel>, metrics: Arc<Metrics>, settings: FrontSettings) -> Self {
        Self::with_source(models, metrics, settings, Box::new(RandomSource))
    }

    /// The same with ids, seeds and the date from `source`; for tests that compare bytes.
    pub fn with_source(
        models: Vec<ServedModel>,
        metrics: Arc<Metrics>,
        settings: FrontSettings,
        source: Box<dyn Source>,
    ) -> Self {
        let requests = Arc::new(Semaphore::new(settings.requests_max));
        let chores = Semaphore::new(thread::available_parallelism().map_or(1, NonZeroUsize::get));
        let http = metrics.http();
        let models = models.into_iter().map(Arc::new).collect();
        let draining = AtomicBool::new(false);
        Self(Arc::new(Shared {
            models,
            settings,
            metrics,
            http,
            source,
            draining,
            requests,
            chores,
        }))
    }

    pub(crate) fn models(&self) -> &[Arc<ServedModel>] {
        &self.0.models
    }

    /// The model of this name; without a name, the first.
    pub(crate) fn model(&self, name: Option<&str>) -> Result<&Arc<ServedModel>, Error> {
        let found = match name {
            None => self.0.models.first(),
            Some(name) => self.0.models.iter().find(|model| model.names.iter().any(|n| n == name)),
        };
        found.ok_or_else(|| Error::ModelNotFound {
            model: name.unwrap_or_default().to_owned(),
            served: self.0.models.iter().map(|model| model.name()).collect::<Vec<_>>().join(", "),
        })
    }

    pub(crate) fn settings(&self) -> &FrontSettings {
        &self.0.settings
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn http_metrics(&self) -> &HttpMetrics {
        &self.0.http
    }

    pub(crate) fn source(&self) -> &dyn Source {
        &*self.0.source
    }

    /// The date in seconds since 1970.
    pub(crate) fn unix_seconds(&self) -> u64 {
        self.source().now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// The date in milliseconds since 1970.
    pub(crate) fn unix_ms(&self) -> u64 {
        let since = self.source().now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
    }

    /// Takes a place among the requests under way, or says why there is none.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Error> {
        if self.is_draining() {
            return Err(Error::draining());
        }
        Arc::clone(&self.0.requests).try_acquire_owned().map_err(|_| {
            Error::overloaded(format!(
                "{} requests are under way, which is the limit",
                self.0.settings.requests_max
            ))
        })
    }

    /// Runs a CPU-bound chore over `bytes` of input: here if that is quick, else on a thread for it.
    pub(crate) async fn chore<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if bytes <= INLINE_BYTES_MAX {
            return work();
        }
        let _permit = self.0.chores.acquire().await.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|_| Err(Fault::internal("reading the request failed").into()))
    }

    /// Closes the door to new requests: `/ready` says no from now on. Those under way go on.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
        for model in &self.0.models {
            model.engine.drain();
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Waits until no request is under way.
    pub(crate) async fn idle(&self) {
        let all = u32::try_from(self.0.settings.requests_max).unwrap_or(u32::MAX);
        // Every permit back means that no request holds one.
        drop(self.0.requests.acquire_many(all).await);
    }
}
