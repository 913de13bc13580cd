//! Everything that can be wrong with a request, and the one table that says which status code, error type and error
//! code a client sees for it, and whether it is worth trying again.
//!
//! Every error body of every route has the shape that OpenAI clients parse:
//! `{"error":{"message","type","param","code"}}`. Inside a stream the same object is sent as a `data:` line.

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use types::{Fault, FaultKind};

use crate::access::Failure;

/// Tells OpenAI clients whether to try again, over their own rule of thumb.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A client is asked to wait this long where nothing better is known.
const RETRY_AFTER_MS_DEFAULT: u64 = 1_000;

/// A message may quote what the client sent; this much of it is enough to recognise.
const MESSAGE_CHARS_MAX: usize = 600;

/// What went wrong with a request at the front door.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body is not JSON.
    #[error("the request body is not valid JSON: {message}")]
    Syntax {
        /// What the parser says, with line and column.
        message: String,
    },
    /// A field has the wrong type or a value out of its range.
    #[error("`{field}`: {message}")]
    Field {
        /// The path of the field, such as `messages[0].content`.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// A field asks for something that Brigade cannot do yet.
    #[error("`{field}`: {message}")]
    NotSupported {
        /// The field that asks for it.
        field: &'static str,
        /// What is not there, and what to do instead.
        message: String,
    },
    /// No model of this name is served.
    #[error("the model `{model}` does not exist; served here: {served}")]
    ModelNotFound {
        /// The name asked for.
        model: String,
        /// The names that would work, separated by commas.
        served: String,
    },
    /// The prompt, or the prompt and the tokens to generate, are more than the context holds.
    #[error("{}", context_message(*prompt_tokens, *tokens_max, *context_max))]
    ContextLength {
        /// The field that holds the prompt.
        field: &'static str,
        /// Length of the prompt.
        prompt_tokens: usize,
        /// Tokens asked for, where the request says.
        tokens_max: Option<u32>,
        /// What the context holds.
        context_max: u32,
    },
    /// The body is larger than the limit.
    #[error("the request body is larger than the limit of {limit_bytes} bytes")]
    BodyTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body did not arrive in time.
    #[error("no byte of the request body arrived for {limit_s} seconds")]
    BodyTimeout {
        /// The limit.
        limit_s: u64,
    },
    /// The connection broke while the body was read.
    #[error("the request body could not be read: {message}")]
    BodyInterrupted {
        /// What the connection says.
        message: String,
    },
    /// The body is compressed.
    #[error("the request body has content-encoding `{encoding}`; send it without compression")]
    ContentEncoding {
        /// The encoding named in the header.
        encoding: String,
    },
    /// No such route.
    #[error("there is no route {path}")]
    RouteNotFound {
        /// The path asked for.
        path: String,
    },
    /// The route exists, for other methods.
    #[error("{path} does not answer {method}")]
    MethodNotAllowed {
        /// The method used.
        method: Method,
        /// The path asked for.
        path: String,
    },
    /// The API key is missing or unknown.
    #[error("{}", if *.given { "the API key is not known here" } else { "this server wants an API key: send the header `Authorization: Bearer KEY`" })]
    Unauthorized {
        /// Whether the request had a key at all.
        given: bool,
    },
    /// Keys are asked for, and none is set for the administrator's routes.
    #[error(
        "the routes under /admin want an admin key, and this server has none: start it with --admin-key"
    )]
    AdminClosed,
    /// What the engine or another part reports.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Error {
    /// `field` is wrong because of `message`.
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field { field: field.into(), message: message.into() }
    }

    /// There is no room for the request now.
    pub(crate) fn overloaded(message: impl Into<String>) -> Self {
        Self::Fault(
            Fault::new(FaultKind::Overloaded, message).with_retry_after_ms(RETRY_AFTER_MS_DEFAULT),
        )
    }

    /// The server is about to stop.
    pub(crate) fn draining() -> Self {
        Self::Fault(
            Fault::new(FaultKind::Unavailable, "the server is shutting down")
                .with_retry_after_ms(RETRY_AFTER_MS_DEFAULT),
        )
    }

    /// What kind of fault this is.
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::ModelNotFound { .. } | Self::RouteNotFound { .. } => FaultKind::NotFound,
            Self::BodyTimeout { .. } => FaultKind::Deadline,
            Self::Fault(fault) => fault.kind,
            _ => FaultKind::Invalid,
        }
    }

    /// The HTTP status for this error.
    pub fn status(&self) -> StatusCode {
        self.row().status
    }

    /// The table. Rows for what HTTP itself has a status for come first, then one row a kind of fault.
    fn row(&self) -> Row {
        const BAD: &str = "invalid_request_error";
        use StatusCode as S;
        match self {
            Self::Syntax { .. } => Row::new(S::BAD_REQUEST, BAD, Some("invalid_json")),
            Self::Field { .. } => Row::new(S::BAD_REQUEST, BAD, Some("invalid_value")),
            Self::NotSupported { .. } => Row::new(S::BAD_REQUEST, BAD, Some("not_supported")),
            Self::ContextLength { .. } => {
                Row::new(S::BAD_REQUEST, BAD, Some("context_length_exceeded"))
            }
            Self::BodyInterrupted { .. } => Row::new(S::BAD_REQUEST, BAD, None),
            Self::Unauthorized { .. } => Row::new(S::UNAUTHORIZED, BAD, Some("invalid_api_key")),
            Self::AdminClosed => Row::new(S::FORBIDDEN, BAD, Some("admin_key_not_set")),
            Self::ModelNotFound { .. } => Row::new(S::NOT_FOUND, BAD, Some("model_not_found")),
            Self::RouteNotFound { .. } => Row::new(S::NOT_FOUND, BAD, Some("route_not_found")),
            Self::MethodNotAllowed { .. } => {
                Row::new(S::METHOD_NOT_ALLOWED, BAD, Some("method_not_allowed"))
            }
            Self::BodyTimeout { .. } => {
                Row::new(S::REQUEST_TIMEOUT, BAD, Some("body_timeout")).retry(true)
            }
            Self::BodyTooLarge { .. } => {
                Row::new(S::PAYLOAD_TOO_LARGE, BAD, Some("body_too_large"))
            }
            Self::ContentEncoding { .. } => Row::new(S::UNSUPPORTED_MEDIA_TYPE, BAD, None),
            Self::Fault(fault) => match fault.kind {
                FaultKind::Invalid => Row::new(S::BAD_REQUEST, BAD, None),
                FaultKind::NotFound => Row::new(S::NOT_FOUND, BAD, None),
                FaultKind::Overloaded => {
                    Row::new(S::TOO_MANY_REQUESTS, "rate_limit_error", Some("overloaded"))
                        .retry(true)
                }
                FaultKind::Deadline => {
                    Row::new(S::GATEWAY_TIMEOUT, "server_error", Some("deadline")).retry(false)
                }
                FaultKind::Cancelled => {
                    Row::new(client_closed_request(), "server_error", Some("cancelled"))
                }
                FaultKind::Unavailable => {
                    Row::new(S::SERVICE_UNAVAILABLE, "server_error", Some("unavailable"))
                        .retry(true)
                }
                // Clients would send the same request again at once, and to no good.
                FaultKind::Internal => {
                    Row::new(S::INTERNAL_SERVER_ERROR, "server_error", Some("internal"))
                        .retry(false)
                }
            },
        }
    }

    /// The field that is to blame.
    fn param(&self) -> Option<&str> {
        match self {
            Self::Field { field, .. } => Some(field),
            Self::NotSupported { field, .. } | Self::ContextLength { field, .. } => Some(field),
            Self::ModelNotFound { .. } => Some("model"),
            Self::Fault(fault) => fault.field.as_deref(),
            _ => None,
        }
    }

    /// The error as it goes over the wire.
    pub(crate) fn body(&self) -> ErrorBody<'_> {
        let row = self.row();
        let mut message = self.to_string();
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
            message.truncate(end);
            message.push('…');
        }
        ErrorBody {
            error: ErrorObject { message, kind: row.kind, param: self.param(), code: row.code },
        }
    }

    fn headers(&self) -> HeaderMap {
        let row = self.row();
        let mut headers = HeaderMap::new();
        if let Some(retry) = row.retry {
            let value = if retry { "true" } else { "false" };
            headers.insert(SHOULD_RETRY, HeaderValue::from_static(value));
        }
        let waiting_helps = matches!(self.kind(), FaultKind::Overloaded | FaultKind::Unavailable);
        if let Self::Fault(fault) = self
            && waiting_helps
        {
            let wait_ms = fault.retry_after_ms.unwrap_or(RETRY_AFTER_MS_DEFAULT);
            // Zero would mean "at once", which is what an overloaded server wants least.
            headers.insert(RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1_000).max(1)));
        }
        headers
    }
}

/// One row of the table.
struct Row {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    retry: Option<bool>,
}

impl Row {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>) -> Self {
        Self { status, kind, code, retry: None }
    }

    fn retry(mut self, worthwhile: bool) -> Self {
        self.retry = Some(worthwhile);
        self
    }
}

/// The status that proxies log for a client that went away; such a client never sees it.
pub(crate) fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).expect("499 is within the range of status codes")
}

fn context_message(prompt_tokens: usize, tokens_max: Option<u32>, context_max: u32) -> String {
    match tokens_max {
        Some(tokens_max) if prompt_tokens < context_max as usize => format!(
            "this model's context holds {context_max} tokens, but {} were asked for: \
             {prompt_tokens} in the prompt and {tokens_max} to generate",
            prompt_tokens as u64 + u64::from(tokens_max),
        ),
        _ => format!(
            "this model's context holds {context_max} tokens, but the prompt has {prompt_tokens} \
             tokens, and at least one more is needed to answer"
        ),
    }
}

/// `{"error":{...}}`.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody<'a> {
    error: ErrorObject<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorObject<'a> {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if self.kind() == FaultKind::Internal {
            tracing::error!(error = %self, "a request failed");
        }
        let mut response = (self.status(), self.headers(), Json(self.body())).into_response();
        response.extensions_mut().insert(Failure(self.to_string()));
        response
    }
}
