//! What those see who run the server.

use axum::{body::Body, http::Request};
use engine::{EngineSettings, testing::FakeSettings};
use front::{FrontSettings, SamplingDefaults};
use serde_json::json;

use super::support::{House, HouseOptions, chat_body};

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let house = House::new();
    house.chat("hi", json!({})).await.ok();
    house.chat("hi", json!({"stream": true})).await.chunks();
    house.chat("hi", json!({"n": 0})).await;
    house.get("/v1/models/birds/parrot").await.ok();
    house.get("/wp-login.php").await;
    let brew = Request::builder().method("BREW").uri("/health").body(Body::empty()).unwrap();
    house.send(brew).await;
    let answer = house.get("/metrics").await;
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    for line in [
        r#"{method="POST",route="/v1/chat/completions",status="200"} 2"#,
        r#"{method="POST",route="/v1/chat/completions",status="400"} 1"#,
        r#"{method="GET",route="/v1/models/{*id}",status="200"} 1"#,
        r#"{method="GET",route="unmatched",status="404"} 1"#,
        r#"{method="other",route="/health",status="405"} 1"#,
    ] {
        for name in ["brigade_http_requests_total", "http_requests_total"] {
            let line = format!("{name}{line}\n");
            assert!(answer.text().contains(&line), "no {line} in {}", answer.text());
        }
    }
    // The one that asks is under way itself.
    assert!(answer.text().contains("brigade_http_requests_in_flight 1\n"));
    assert!(answer.text().contains("brigade_http_request_duration_seconds_count"));
}

#[tokio::test]
async fn a_request_has_an_id() {
    let house = House::new();
    let with_id = |id: &str| {
        let body = chat_body("hi", json!({}));
        Request::post("/v1/chat/completions").header("x-request-id", id).body(body.into()).unwrap()
    };
    let answer = house.send(with_id("mine-1.a_B")).await;
    assert_eq!(answer.header("x-request-id"), Some("mine-1.a_B"));
    assert_eq!(answer.ok()["id"], "chatcmpl-mine-1.a_B");
    // What does not look like an id is not repeated.
    for id in ["", "a b", "a\"b", &"x".repeat(129)] {
        let answer = house.send(with_id(id)).await;
        let given = answer.header("x-request-id").unwrap().to_owned();
        assert!(given.starts_with("id"), "{given}");
        assert_eq!(answer.ok()["id"], format!("chatcmpl-{given}"));
    }
    assert!(house.get("/nothing").await.header("x-request-id").is_some());
}

#[tokio::test]
async fn other_origins_are_let_in_only_on_request() {
    let preflight = || {
        Request::options("/v1/chat/completions")
            .header("origin", "http://elsewhere")
            .header("access-control-request-method", "POST")
            .body(Body::empty())
            .unwrap()
    };
    let closed = House::new().send(preflight()).await;
    assert_eq!(closed.status, 405);
    assert_eq!(closed.header("access-control-allow-origin"), None);
    let settings =
        FrontSettings { cors: true, api_keys: vec!["a".into()], ..FrontSettings::default() };
    let open = House::with(HouseOptions { settings, ..HouseOptions::default() });
    let answer = open.send(preflight()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn a_failed_engine_is_ill_and_not_ready() {
    let house = House::new();
    assert_eq!(house.get("/health").await.ok(), json!({"status": "ok"}));
    assert_eq!(house.get("/ready").await.ok(), json!({"status": "ready"}));
    let version = house.get("/version").await.ok();
    assert_eq!(version, json!({"version": env!("CARGO_PKG_VERSION")}));

    let mut fake = FakeSettings::new(super::text::VOCAB_SIZE);
    fake.faulty_steps = (0..100).collect();
    let engine = EngineSettings { executor_failures_max: 0, ..EngineSettings::default() };
    let house =
        House::over(fake.factory(), FrontSettings::default(), engine, SamplingDefaults::default());
    let answer = house.chat("hi", json!({})).await;
    assert!(answer.status.is_server_error(), "{}", answer.text());
    for path in ["/health", "/ready"] {
        let answer = house.get(path).await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["error"]["type"], "server_error");
    }
}
