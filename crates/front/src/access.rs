//! What happens to every request, whatever its route: it gets an id, its key is checked, it is counted, and one line is
//! logged when its answer is complete or its client is gone.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::AUTHORIZATION},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use telemetry::HttpMetrics;
use tokio::{runtime::Handle, time::timeout};
use tracing::{Instrument, info, info_span};

use crate::{Error, caller::Caller, explain, fault, record::Record, state::FrontState};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_LENGTH_MAX: usize = 128;
/// A log line waits at most so long for what the engine has to say.
const REPORTS_TIMEOUT: Duration = Duration::from_secs(30);

/// The error behind an answer, left by whoever made the answer.
#[derive(Clone)]
pub(crate) struct Failure(pub(crate) String);

/// Goes around every route.
pub(crate) async fn observe(
    State(state): State<FrontState>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = request_id(request.headers()).unwrap_or_else(|| state.source().id());
    let id_header = HeaderValue::from_str(&id).expect("ids are letters, digits and dashes");
    let record = Arc::new(Record::new(id));
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = info_span!("request", id = %record.id, method = %request.method(), route = %route);
    let mut watch = Watch {
        metrics: state.http_metrics().clone(),
        method: method_label(request.method()),
        route,
        // Nothing else has been decided if the client goes away before there is an answer.
        status: fault::client_closed_request(),
        complete: false,
        record: Arc::clone(&record),
        span: span.clone(),
    };
    watch.metrics.started();
    request.extensions_mut().insert(record);
    let mut response = next.run(request).instrument(span).await;
    watch.status = response.status();
    if let Some(Failure(message)) = response.extensions().get() {
        watch.record.set_error(message);
    }
    response.headers_mut().insert(REQUEST_ID, id_header);
    response.map(|body| {
        watch.complete = body.is_end_stream();
        Body::new(Watched { body, watch })
    })
}

/// Goes around the routes that cost something, if keys are asked for.
pub(crate) async fn authorize(
    State(state): State<FrontState>,
    mut request: Request,
    next: Next,
) -> Response {
    match known_key(&state.settings().api_keys, request.headers()) {
        Ok(known) => {
            let caller = Caller::new(request.headers(), known);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// Goes around the routes for those who run the server, which tell of everybody's requests.
pub(crate) async fn administer(
    State(state): State<FrontState>,
    request: Request,
    next: Next,
) -> Response {
    let settings = state.settings();
    if settings.admin_keys.is_empty() && !settings.api_keys.is_empty() {
        return Error::AdminClosed.into_response();
    }
    match known_key(&settings.admin_keys, request.headers()) {
        Ok(_) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Which of the keys a request came with; nothing where none is asked for.
fn known_key(keys: &[String], headers: &HeaderMap) -> Result<Option<usize>, Error> {
    let given = bearer(headers);
    // Every key is compared in full, so that the time taken tells nothing.
    let known = given.and_then(|given| {
        keys.iter().enumerate().fold(None, |known, (index, key)| {
            if same(key.as_bytes(), given.as_bytes()) { Some(index) } else { known }
        })
    });
    if known.is_none() && !keys.is_empty() {
        return Err(Error::Unauthorized { given: given.is_some() });
    }
    Ok(known)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// The client's own id, if it is fit for logs and for ids of answers.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let short = (1..=REQUEST_ID_LENGTH_MAX).contains(&id.len());
    (short && id.bytes().all(fit)).then(|| id.to_owned())
}

/// Clients may make up methods; labels may not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// Lives as long as the request, wherever that ends; reports when it is dropped.
struct Watch {
    metrics: HttpMetrics,
    method: &'static str,
    route: String,
    status: StatusCode,
    complete: bool,
    record: Arc<Record>,
    span: tracing::Span,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let duration = self.record.started.elapsed();
        self.metrics.finished(self.method, &self.route, self.status.as_u16(), duration);
        let line = LogLine {
            status: self.status.as_u16(),
            complete: self.complete,
            duration,
            record: Arc::clone(&self.record),
            span: self.span.clone(),
        };
        // What the engine has to say comes when it is done with the request, in a step or so. Without a runtime, or
        // when it ends, the line is written as it is.
        if line.record.awaits_reports()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                let _late = timeout(REPORTS_TIMEOUT, line.record.reports()).await;
            });
        }
    }
}

/// The line in the log; written when it is dropped.
struct LogLine {
    status: u16,
    complete: bool,
    duration: Duration,
    record: Arc<Record>,
    span: tracing::Span,
}

impl Drop for LogLine {
    fn drop(&mut self) {
        let &mut Self { status, complete, duration, ref record, ref span } = self;
        let _in_span = span.enter();
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let model = record.model();
        let first_token_ms = record.first_token_ms();
        let (prompt_tokens, output_tokens) = (record.prompt_tokens(), record.output_tokens());
        let cached_tokens = record.cached_tokens();
        let error = record.error();
        let error = error.as_deref();
        // Of several answers, the one that took longest.
        let slowest = record.slowest();
        let slowest = slowest.as_ref().map(|report| &report.explanation);
        let time = slowest.map(explain::line);
        let steps = slowest.map(|explanation| explanation.steps.count());
        let others_max = slowest.map(|explanation| explanation.steps.others_max);
        let preemptions = slowest.map(|explanation| explanation.preemptions);
        let miss = slowest.and_then(|explanation| explanation.prefix.miss);
        let prefix_miss = miss.map(|miss| explain::miss_name(miss, true));
        info!(
            status,
            complete,
            duration_ms,
            first_token_ms,
            model,
            prompt_tokens,
            cached_tokens,
            output_tokens,
            time,
            steps,
            others_max,
            preemptions,
            prefix_miss,
            error,
            "request finished"
        );
    }
}

/// A body that knows whether it was sent to its end.
struct Watched {
    body: Body,
    watch: Watch,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        this.watch.complete |= matches!(frame, Poll::Ready(None)) || this.body.is_end_stream();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
