//! What goes over the wire, byte for byte.

use serde_json::json;

use super::support::House;

#[tokio::test]
async fn a_chat() {
    let answer = House::new().chat("hi", json!({})).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    insta::assert_snapshot!(answer.text());
}

#[tokio::test]
async fn a_chat_stream() {
    let house = House::new();
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let answer = house.chat("h\u{e9}\n", options).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    insta::assert_snapshot!(answer.text());
}

#[tokio::test]
async fn a_chat_stream_without_usage() {
    let answer = House::new().chat("hi", json!({"stream": true})).await;
    insta::assert_snapshot!(answer.text());
}

#[tokio::test]
async fn a_chat_stream_with_everything() {
    let options = json!({
        "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true},
        "logprobs": true,
        "top_logprobs": 1,
        "return_token_ids": true,
        "stop": "c",
    });
    let answer = House::new().chat("abcd", options).await;
    insta::assert_snapshot!(answer.text());
}

#[tokio::test]
async fn a_chat_with_everything() {
    let options = json!({
        "logprobs": true,
        "top_logprobs": 2,
        "prompt_logprobs": 1,
        "return_token_ids": true,
        "n": 2,
        "max_tokens": 1,
    });
    let answer = House::new().chat("ab", options).await;
    insta::assert_snapshot!(answer.text());
}

#[tokio::test]
async fn a_completion() {
    let body = json!({"prompt": ["ab", "c"], "temperature": 0, "echo": true, "logprobs": 1});
    insta::assert_snapshot!(House::new().complete(body).await.text());
}

#[tokio::test]
async fn a_completion_stream() {
    let body = json!({"prompt": "ab", "temperature": 0, "echo": true, "stream": true});
    insta::assert_snapshot!(House::new().complete(body).await.text());
}

#[tokio::test]
async fn models() {
    let house = House::new();
    insta::assert_snapshot!(house.get("/v1/models").await.text());
    insta::assert_snapshot!(house.get("/v1/models/birds/parrot").await.text());
}

#[tokio::test]
async fn an_error() {
    let answer = House::new().chat("hi", json!({"temperature": -1})).await;
    insta::assert_snapshot!(answer.text());
}
