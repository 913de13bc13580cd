//! More than a hundred bodies that are wrong in different ways, while a neighbour's stream goes on.

use axum::{body::Body, http::Request};
use front::FrontSettings;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::support::{House, chat_body, data, streamed_text};

/// A body that is in order, to be damaged.
fn sound() -> String {
    chat_body("hi", json!({"stop": ["x"], "logit_bias": {"5": 1}, "stream": false}))
}

/// Bodies that no route takes.
fn malformed() -> Vec<Vec<u8>> {
    let sound = sound();
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    // Cut off anywhere, it is no JSON.
    bodies.extend((0..sound.len()).step_by(3).map(|length| sound.as_bytes()[..length].to_vec()));
    // Wrong types: every field in turn is a number where that is wrong, or a string or list where that is wrong.
    for field in ["messages", "stop", "logit_bias", "stream_options", "response_format", "tools"] {
        bodies.push(chat_body("hi", json!({field: 5})).into());
        bodies.push(chat_body("hi", json!({field: [[5]]})).into());
    }
    for field in ["temperature", "top_p", "top_k", "n", "max_tokens", "min_tokens", "seed"] {
        bodies.push(chat_body("hi", json!({field: "x"})).into());
        bodies.push(chat_body("hi", json!({field: [1]})).into());
        bodies.push(chat_body("hi", json!({field: {}})).into());
        bodies.push(chat_body("hi", json!({field: -1e300})).into());
    }
    for field in ["stream", "ignore_eos", "logprobs", "skip_special_tokens"] {
        bodies.push(chat_body("hi", json!({field: "yes"})).into());
        bodies.push(chat_body("hi", json!({field: 1})).into());
    }
    // No JSON at all, or not this kind.
    let others: [&[u8]; 10] = [
        b"null",
        b"true",
        b"[]",
        b"\"x\"",
        b"12",
        b"\xff\xfe\x00",
        b"\x00",
        b"<xml/>",
        b"a=b&c=d",
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}",
    ];
    bodies.extend(others.map(<[u8]>::to_vec));
    bodies.push(format!("{{\"messages\":{}", "[".repeat(100_000)).into());
    bodies.push(format!("{{\"a\":{}1", "{\"a\":".repeat(5_000)).into());
    bodies
}

#[tokio::test]
async fn a_neighbour_is_not_disturbed() {
    let bodies = malformed();
    assert!(bodies.len() >= 100, "{}", bodies.len());
    let options = json!({"stream": true, "ignore_eos": true, "max_tokens": bodies.len() + 1});
    let neighbour = chat_body("I go on and on. ", options);
    let alone = House::new().post("/v1/chat/completions", neighbour.clone()).await.chunks();

    let (house, permits) = House::gated(FrontSettings::default());
    permits.allow(2);
    let request = Request::post("/v1/chat/completions").body(Body::from(neighbour)).unwrap();
    let mut stream = house.router.clone().oneshot(request).await.unwrap();
    let mut chunks = Vec::new();
    let mut take = async || {
        let frame = stream.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        String::from_utf8(frame.to_vec()).unwrap().trim_end().to_owned()
    };
    for body in bodies {
        permits.allow(1);
        chunks.push(data(&take().await));
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = house.post("/v1/chat/completions", body).await;
        assert_eq!(answer.status, 400, "{shown}: {}", answer.text());
        assert!(answer.json()["error"]["message"].is_string());
    }
    drop(permits);
    loop {
        let event = take().await;
        if event == "data: [DONE]" {
            break;
        }
        chunks.push(data(&event));
    }
    assert_eq!(streamed_text(&chunks, 0), streamed_text(&alone, 0));
    assert_eq!(chunks.len(), alone.len());
    assert_eq!(house.handle.stats().running, 0);
}

#[test]
fn a_body_is_checked_without_a_server() {
    let (chat, completions) = ("/v1/chat/completions", "/v1/completions");
    front::check_body(chat, sound().as_bytes()).unwrap();
    front::check_body(completions, br#"{"prompt": "x"}"#).unwrap();
    front::check_body("/tokenize", br#"{"inputs": "x"}"#).unwrap();
    front::check_body("/detokenize", br#"{"tokens": [1]}"#).unwrap();
    for body in malformed() {
        assert!(front::check_body(chat, &body).is_err());
    }
    for (path, body) in [(completions, "{}"), ("/detokenize", "{\"tokens\": [-1]}"), ("/x", "{}")] {
        assert!(front::check_body(path, body.as_bytes()).is_err());
    }
}

#[tokio::test]
async fn damage_in_one_place_is_no_more_than_an_error() {
    let house = House::new();
    let sound = sound().into_bytes();
    for position in 0..sound.len() {
        for damage in [0x00, b'"', b'}', 0xff] {
            let mut body = sound.clone();
            body[position] = damage;
            let request = Request::post("/v1/chat/completions").body(Body::from(body)).unwrap();
            let answer = house.send(request).await;
            assert!(matches!(answer.status.as_u16(), 200 | 400 | 404), "{}", answer.text());
            let _json: Value = answer.json();
        }
    }
    house.idle().await;
}
