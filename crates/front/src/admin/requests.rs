//! What became of requests: those in the engines and those that ended last.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};
use engine::Reports;
use serde_json::{Value, json};
use tokio::time::timeout;
use types::{Fault, FaultKind};

use crate::{Error, explain::Told, state::FrontState};

const COUNT_DEFAULT: usize = 100;
const COUNT_MAX: usize = 4096;
/// An engine answers between two steps.
const PATIENCE: Duration = Duration::from_secs(10);
/// What answers put before a request's id.
const PREFIXES: [&str; 2] = ["chatcmpl-", "cmpl-"];

/// `GET /admin/requests`: of each model those that run, those that wait and those that ended, the latest first.
/// `?limit=N` asks for at most so many of each model.
pub(crate) async fn list(
    State(state): State<FrontState>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Error> {
    let count_max = limit(query.as_deref().unwrap_or_default())?;
    Ok(Json(json!({"requests": told(&state, None, count_max).await?})))
}

/// `GET /admin/requests/{id}`: the answers to one request, by its `x-request-id` or the id of its answer.
pub(crate) async fn get(
    State(state): State<FrontState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Error> {
    let mut bare = PREFIXES.iter().filter_map(|prefix| id.strip_prefix(prefix));
    let label: Arc<str> = bare.next().unwrap_or(&id).into();
    let found = told(&state, Some(label), COUNT_MAX).await?;
    if found.is_empty() {
        let message = format!("no request `{id}` is under way or among those that ended last");
        return Err(Fault::new(FaultKind::NotFound, message).into());
    }
    Ok(Json(json!({"id": id, "requests": found})))
}

async fn told(
    state: &FrontState,
    label: Option<Arc<str>>,
    count_max: usize,
) -> Result<Vec<Value>, Error> {
    let mut all = Vec::new();
    for model in state.models() {
        let answer = timeout(PATIENCE, model.engine.reports(label.clone(), count_max)).await;
        let late = || {
            let message = format!("the engine of `{}` is in a step that takes long", model.name());
            Fault::new(FaultKind::Unavailable, message)
        };
        let reports: Reports = answer.map_err(|_| late())??;
        let told = Told::all(&reports, model.name(), state.unix_ms());
        all.extend(told.iter().map(|told| json!(told)));
    }
    Ok(all)
}

fn limit(query: &str) -> Result<usize, Error> {
    let mut fields = query.split('&').filter_map(|field| field.split_once('='));
    let Some((_, limit)) = fields.find(|(name, _)| *name == "limit") else {
        return Ok(COUNT_DEFAULT);
    };
    let count = limit.parse().ok().filter(|count| (1..=COUNT_MAX).contains(count));
    count.ok_or_else(|| Error::field("limit", format!("must be a number from 1 to {COUNT_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_read_or_refused() {
        assert_eq!(limit("").unwrap(), COUNT_DEFAULT);
        assert_eq!(limit("a=b&limit=7").unwrap(), 7);
        for wrong in ["limit=0", "limit=-1", "limit=x", "limit=", "limit=4097"] {
            limit(wrong).unwrap_err();
        }
    }
}
