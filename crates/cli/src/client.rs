//! A client of the server's own HTTP interface, for `chat` and `generate`: one way to a model, whether it runs
//! elsewhere or in this process.

use std::{
    io::{BufRead, BufReader},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use front::{FrontSettings, FrontState};
use serde_json::{Map, Value, json};
use telemetry::Metrics;
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc, task::JoinHandle};

use crate::{
    commands::serve::{address, front_settings},
    load::{Loaded, load},
    progress::note,
    settings::Settings,
};

/// How long a server on this machine may take to say that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Pieces of text on their way from the connection to the terminal.
const PIECES_WAITING_MAX: usize = 64;

/// A server to talk to, and a model of it.
pub(crate) struct Client {
    base_url: String,
    api_key: Option<String>,
    model: String,
    agent: ureq::Agent,
    /// The server in this process, if there was no other.
    local: Option<Local>,
}

struct Local {
    _server: JoinHandle<()>,
    _engine: engine::Engine,
}

/// A piece of an answer.
pub(crate) enum Piece {
    /// More text.
    Text(String),
    /// The answer is complete.
    End,
    /// The answer broke off.
    Failed(anyhow::Error),
}

impl Client {
    /// Finds a server, or becomes one: the server at `url`; or the one at the settings' address, if it serves
    /// `model`; or one in this process.
    pub(crate) fn connect(
        runtime: &Runtime,
        settings: &Settings,
        url: Option<&str>,
        model: Option<&str>,
    ) -> Result<Self> {
        let api_key = settings.list("server.api_key").first().cloned();
        if let Some(url) = url {
            let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
            let served = served_models(&url, api_key.as_deref(), None)
                .with_context(|| format!("the server at {url}"))?;
            let model = choose(&served, model)
                .with_context(|| format!("the server at {url} serves {}", served.join(", ")))?;
            return Ok(Self::new(url, api_key, model, None));
        }
        let (host, port) = address(settings);
        let url = format!("http://{host}:{port}");
        if let Ok(served) = served_models(&url, api_key.as_deref(), Some(PROBE_TIMEOUT))
            && let Ok(model) = choose(&served, model)
        {
            note(&format!("using {model} at {url}"));
            return Ok(Self::new(url, api_key, model, None));
        }
        Self::in_process(runtime, settings, model)
    }

    fn in_process(runtime: &Runtime, settings: &Settings, model: Option<&str>) -> Result<Self> {
        let metrics = Arc::new(Metrics::new());
        let Loaded { served, engine, description } = load(settings, model, &metrics)?;
        note(&description);
        let model = served.names[0].clone();
        // The address is this process's alone; keys are for servers.
        let front = FrontSettings { api_keys: Vec::new(), ..front_settings(settings) };
        let state = FrontState::new(vec![served], metrics, front);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = runtime.spawn(async move {
            if let Err(error) = front::serve(listener, state, std::future::pending()).await {
                note(&format!("the server in this process failed: {error}"));
            }
        });
        let local = Local { _server: server, _engine: engine };
        Ok(Self::new(url, None, model, Some(local)))
    }

    fn new(base_url: String, api_key: Option<String>, model: String, local: Option<Local>) -> Self {
        Self { base_url, api_key, model, agent: agent(None), local }
    }

    /// Whether the model runs in this process.
    pub(crate) fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// The model's name.
    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    /// Asks for an answer to `messages`. Dropping the receiver stops it.
    pub(crate) fn chat(
        &self,
        messages: &[Value],
        fields: &Map<String, Value>,
    ) -> mpsc::Receiver<Piece> {
        let body = json!({ "messages": messages });
        self.stream("/v1/chat/completions", body, fields, "/choices/0/delta/content")
    }

    /// Asks for a continuation of `prompt`. Dropping the receiver stops it.
    pub(crate) fn complete(
        &self,
        prompt: &str,
        fields: &Map<String, Value>,
    ) -> mpsc::Receiver<Piece> {
        let body = json!({ "prompt": prompt });
        self.stream("/v1/completions", body, fields, "/choices/0/text")
    }

    fn stream(
        &self,
        path: &str,
        mut body: Value,
        fields: &Map<String, Value>,
        text_at: &'static str,
    ) -> mpsc::Receiver<Piece> {
        body["model"] = self.model.clone().into();
        body["stream"] = true.into();
        for (name, value) in fields {
            body[name] = value.clone();
        }
        let (agent, url) = (self.agent.clone(), format!("{}{path}", self.base_url));
        let api_key = self.api_key.clone();
        let (pieces, receiver) = mpsc::channel(PIECES_WAITING_MAX);
        thread::spawn(move || {
            let outcome = read_stream(&agent, &url, api_key.as_deref(), &body, text_at, &pieces);
            // Nobody listens any more only if the answer was stopped.
            let _ = pieces.blocking_send(outcome.map_or_else(Piece::Failed, |()| Piece::End));
        });
        receiver
    }
}

/// Reads server-sent events until the end, or until nobody listens; then the connection is dropped, and the server
/// stops.
fn read_stream(
    agent: &ureq::Agent,
    url: &str,
    api_key: Option<&str>,
    body: &Value,
    text_at: &str,
    pieces: &mpsc::Sender<Piece>,
) -> Result<()> {
    let mut request = agent.post(url).content_type("application/json");
    if let Some(key) = api_key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let mut response = request.send(body.to_string())?;
    if !response.status().is_success() {
        let text = response.body_mut().read_to_string()?;
        bail!("{}", error_message(&text));
    }
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line.context("the connection broke")?;
        if pieces.is_closed() {
            return Ok(());
        }
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            return Ok(());
        }
        let event: Value = serde_json::from_str(data).context("an event that is not JSON")?;
        if event.get("error").is_some() {
            bail!("{}", error_message(data));
        }
        let text = event.pointer(text_at).and_then(Value::as_str).unwrap_or("");
        if !text.is_empty() && pieces.blocking_send(Piece::Text(text.to_owned())).is_err() {
            return Ok(());
        }
    }
    Err(anyhow!("the connection ended before the answer did"))
}

/// The message of an error body, or the body.
fn error_message(text: &str) -> String {
    serde_json::from_str::<Value>(text)
        .ok()
        .and_then(|value| value.pointer("/error/message")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| text.to_owned())
}

fn agent(timeout: Option<Duration>) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(timeout)
        .build()
        .new_agent()
}

fn served_models(
    url: &str,
    api_key: Option<&str>,
    timeout: Option<Duration>,
) -> Result<Vec<String>> {
    let mut request = agent(timeout).get(format!("{url}/v1/models"));
    if let Some(key) = api_key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let mut response = request.call()?;
    let text = response.body_mut().read_to_string()?;
    if !response.status().is_success() {
        bail!("{}", error_message(&text));
    }
    let list: Value = serde_json::from_str(&text).context("its list of models is not JSON")?;
    let models = list.get("data").and_then(Value::as_array).into_iter().flatten();
    Ok(models.filter_map(|model| model.get("id")?.as_str().map(str::to_owned)).collect())
}

fn choose(served: &[String], wanted: Option<&str>) -> Result<String> {
    match wanted {
        None => served.first().cloned().context("it serves no model"),
        Some(wanted) => served
            .iter()
            .find(|name| *name == wanted)
            .cloned()
            .with_context(|| format!("model `{wanted}` is not served there")),
    }
}
