//! The table of routes.

use std::any::Any;

use axum::{
    Router,
    extract::Request,
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tower_http::{catch_panic::CatchPanicLayer, cors::CorsLayer};
use types::Fault;

use crate::{
    Error, access, admin,
    openai::{chat, completions, models},
    state::{FrontSettings, FrontState},
    tokens,
};

/// All routes, over this state.
pub fn router(state: FrontState) -> Router {
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::get))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(middleware::from_fn_with_state(state.clone(), access::authorize));
    let admin = Router::new()
        .route("/admin/requests", get(admin::requests::list))
        .route("/admin/requests/{id}", get(admin::requests::get))
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(middleware::from_fn_with_state(state.clone(), access::administer));
    let open = Router::new()
        .route("/health", get(admin::health))
        .route("/ready", get(admin::ready))
        .route("/version", get(admin::version))
        .route("/metrics", get(admin::metrics));
    let cors = state.settings().cors.then(CorsLayer::permissive);
    let mut router = guarded
        .merge(admin)
        .merge(open)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(route_not_found)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(state.clone(), access::observe));
    if let Some(cors) = cors {
        router = router.layer(cors);
    }
    router.with_state(state)
}

/// A defect in a handler costs its own request and nothing else. What it was, the panic hook has printed.
fn panicked(_payload: Box<dyn Any + Send>) -> Response {
    Error::from(Fault::internal("the server has a defect; its log says more")).into_response()
}

async fn route_not_found(request: Request) -> Response {
    Error::RouteNotFound { path: request.uri().path().to_owned() }.into_response()
}

async fn method_not_allowed(request: Request) -> Response {
    let path = request.uri().path().to_owned();
    Error::MethodNotAllowed { method: request.method().clone(), path }.into_response()
}

/// Reads and checks a body as the route at `path` would, without a server and without a model. For fuzzing: it returns
/// for every input, whatever it thinks of it.
pub fn check_body(path: &str, body: &[u8]) -> Result<(), Error> {
    let choices_max = FrontSettings::default().choices_max;
    match path {
        "/v1/chat/completions" => chat::check(choices_max, body).map(drop),
        "/v1/completions" => completions::check(choices_max, body).map(drop),
        "/tokenize" => tokens::check_tokenize(body),
        "/detokenize" => tokens::check_detokenize(body),
        _ => Err(Error::RouteNotFound { path: path.to_owned() }),
    }
}
