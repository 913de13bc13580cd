//! A front door over a test engine, and ways to talk to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Request, StatusCode},
};
use engine::{Engine, EngineHandle, EngineSettings};
use front::{FrontSettings, FrontState, SamplingDefaults, ServedModel, Source, router};
use http_body_util::BodyExt;
use serde_json::Value;
use telemetry::Metrics;
use tower::ServiceExt;
use types::{Executor, Fault};

use super::{
    parrot::{Gate, Parrot, Permits, gate},
    text,
};

/// Ids count up, seeds and the date stand still.
struct FixedSource(AtomicU64);

impl Source for FixedSource {
    fn id(&self) -> String {
        format!("id{}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn seed(&self) -> u64 {
        3
    }

    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }
}

/// A front door with an engine behind it.
pub(crate) struct House {
    pub(crate) state: FrontState,
    pub(crate) router: Router,
    pub(crate) handle: EngineHandle,
    engine: Option<Engine>,
}

#[derive(Default)]
pub(crate) struct HouseOptions {
    pub(crate) settings: FrontSettings,
    pub(crate) engine: EngineSettings,
    pub(crate) gate: Option<Gate>,
    pub(crate) defaults: SamplingDefaults,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with(HouseOptions::default())
    }

    /// With an engine that does one step a permit.
    pub(crate) fn gated(settings: FrontSettings) -> (Self, Permits) {
        let (gate, permits) = gate();
        let options = HouseOptions { settings, gate: Some(gate), ..HouseOptions::default() };
        (Self::with(options), permits)
    }

    pub(crate) fn with(options: HouseOptions) -> Self {
        let HouseOptions { settings, engine, gate, defaults } = options;
        let factory =
            move || -> Result<Box<dyn Executor>, Fault> { Ok(Box::new(Parrot::new(gate.clone()))) };
        Self::over(factory, settings, engine, defaults)
    }

    pub(crate) fn over(
        factory: impl FnMut() -> Result<Box<dyn Executor>, Fault> + Send + 'static,
        settings: FrontSettings,
        engine_settings: EngineSettings,
        defaults: SamplingDefaults,
    ) -> Self {
        let metrics = Arc::new(Metrics::new());
        let (engine, handle) =
            Engine::start(factory, engine_settings, metrics.engine("parrot")).unwrap();
        let model = ServedModel {
            names: vec!["parrot".into(), "birds/parrot".into()],
            created: 1_600_000_000,
            tokenizer: text::tokenizer(),
            chat: Some(text::template()),
            engine: handle.clone(),
            defaults,
        };
        let source = Box::new(FixedSource(AtomicU64::new(1)));
        let state = FrontState::with_source(vec![model], metrics, settings, source);
        Self { router: router(state.clone()), state, handle, engine: Some(engine) }
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post(path).body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Asks in a chat; the answer is `text` again.
    pub(crate) async fn chat(&self, text: &str, options: Value) -> Answer {
        self.post("/v1/chat/completions", chat_body(text, options)).await
    }

    pub(crate) async fn complete(&self, options: Value) -> Answer {
        self.post("/v1/completions", options.to_string()).await
    }

    /// Waits until nothing runs and nothing waits in the engine.
    pub(crate) async fn idle(&self) {
        self.busy(0).await;
    }

    /// Waits until this many requests run or wait in the engine.
    pub(crate) async fn busy(&self, requests: u32) {
        let started = Instant::now();
        loop {
            let stats = self.handle.stats();
            if stats.running + stats.waiting == requests {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{stats:?}");
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.shutdown();
        }
    }
}

pub(crate) fn chat_body(text: &str, options: Value) -> String {
    let mut body = serde_json::json!({
        "model": "parrot",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
    });
    for (key, value) in options.as_object().unwrap() {
        body[key] = value.clone();
    }
    body.to_string()
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The answer of a request that went well.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The events of a stream that ended well.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        let lines: Vec<&str> =
            self.text().split("\n\n").filter(|event| !event.is_empty()).collect();
        assert_eq!(lines.last(), Some(&"data: [DONE]"));
        lines[..lines.len() - 1].iter().map(|event| data(event)).collect()
    }
}

/// The JSON of an event.
pub(crate) fn data(event: &str) -> Value {
    serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()
}

/// The text of one answer in a chat stream.
pub(crate) fn streamed_text(chunks: &[Value], index: u64) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let of_answer = choices.filter(|choice| choice["index"] == index);
    of_answer.filter_map(|choice| choice["delta"]["content"].as_str()).collect()
}
