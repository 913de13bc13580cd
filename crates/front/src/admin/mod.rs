//! Routes for those who run the server: is it alive, is it ready, what is it, how does it do.

pub(crate) mod requests;

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use engine::EngineState;
use serde_json::{Value, json};
use types::{Fault, FaultKind};

use crate::{
    Error,
    state::{FrontState, ServedModel},
};

/// `GET /health`: whether the program works; a program that does not is to be restarted.
pub(crate) async fn health(State(state): State<FrontState>) -> Result<Json<Value>, Error> {
    match model_where(&state, |engine| engine == EngineState::Failed) {
        None => Ok(Json(json!({"status": "ok"}))),
        Some(model) => {
            let message = format!("the engine of `{}` has failed", model.name());
            Err(Fault::new(FaultKind::Unavailable, message).into())
        }
    }
}

/// `GET /ready`: whether requests are taken now; one that is not ready gets no traffic for a while.
pub(crate) async fn ready(State(state): State<FrontState>) -> Result<Json<Value>, Error> {
    if state.is_draining() {
        return Err(Error::draining());
    }
    match model_where(&state, |engine| engine != EngineState::Running) {
        None => Ok(Json(json!({"status": "ready"}))),
        Some(model) => {
            let message = format!("`{}` takes no requests", model.name());
            Err(Fault::new(FaultKind::Unavailable, message).into())
        }
    }
}

fn model_where(state: &FrontState, is_so: fn(EngineState) -> bool) -> Option<&Arc<ServedModel>> {
    state.models().iter().find(|model| is_so(model.engine.state()))
}

/// `GET /version`.
pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// `GET /metrics`, for Prometheus.
pub(crate) async fn metrics(State(state): State<FrontState>) -> Response {
    let headers = [(CONTENT_TYPE, telemetry::CONTENT_TYPE)];
    (StatusCode::OK, headers, state.metrics().encode()).into_response()
}
