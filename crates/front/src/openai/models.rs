//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;

use crate::{
    Error,
    state::{FrontState, ServedModel},
};

#[derive(Serialize)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

#[derive(Serialize)]
pub(crate) struct ModelObject {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The name that all names of one model have in common.
    root: String,
    /// Where clients look for the length of the context.
    max_model_len: u32,
}

impl ModelObject {
    fn new(model: &ServedModel, name: &str) -> Self {
        Self {
            id: name.to_owned(),
            object: "model",
            created: model.created,
            owned_by: "brigade",
            root: model.name().to_owned(),
            max_model_len: model.context_max(),
        }
    }
}

/// Every name of every model.
pub(crate) async fn list(State(state): State<FrontState>) -> Json<ModelList> {
    let of_model = |model: &ServedModel| -> Vec<ModelObject> {
        model.names.iter().map(|name| ModelObject::new(model, name)).collect()
    };
    let data = state.models().iter().flat_map(|model| of_model(model)).collect();
    Json(ModelList { object: "list", data })
}

/// One name; it may have slashes in it.
pub(crate) async fn get(
    State(state): State<FrontState>,
    Path(name): Path<String>,
) -> Result<Json<ModelObject>, Error> {
    Ok(Json(ModelObject::new(state.model(Some(&name))?, &name)))
}
