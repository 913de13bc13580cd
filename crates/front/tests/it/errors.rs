//! Every row of the table of errors, and the fields that are checked.

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use engine::testing::FakeSettings;
use front::FrontSettings;
use serde_json::{Value, json};

use super::support::{Answer, House, HouseOptions};

/// Checks the shape and gives back what is in it.
fn error(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = answer.json();
    let error = body["error"].as_object().unwrap();
    let keys: Vec<&String> = error.keys().collect();
    assert_eq!(keys, ["message", "type", "param", "code"]);
    assert!(!error["message"].as_str().unwrap().is_empty());
    body["error"].clone()
}

#[tokio::test]
async fn a_bad_value_is_named_with_its_range() {
    let house = House::new();
    for (options, field, range) in [
        (json!({"temperature": -0.1}), "temperature", "from 0 to 100"),
        (json!({"top_p": 1.01}), "top_p", "from 0 to 1"),
        (json!({"top_k": -2}), "top_k", "from 0"),
        (json!({"min_p": 2}), "min_p", "from 0 to 1"),
        (json!({"typical_p": 0}), "typical_p", "above 0 and up to 1"),
        (json!({"repetition_penalty": 1e-300}), "repetition_penalty", "above 0"),
        (json!({"presence_penalty": 2.5}), "presence_penalty", "from -2 to 2"),
        (json!({"frequency_penalty": -2.5}), "frequency_penalty", "from -2 to 2"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5", "from -100 to 100"),
        (json!({"logit_bias": {"five": 1}}), "logit_bias", "`five` is not a token id"),
        (json!({"logit_bias": {"257": 1}}), "logit_bias", "has 257 tokens"),
        (json!({"seed": 1.5}), "seed", "64-bit integer"),
        (json!({"stop": ""}), "stop[0]", "from 1 to 1024"),
        (json!({"stop": vec!["x"; 65]}), "stop", "at most 64"),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids[0]", "not a token id"),
        (json!({"stop_token_ids": [257]}), "stop_token_ids", "has 257 tokens"),
        (json!({"max_tokens": 0}), "max_tokens", "at least 1"),
        (json!({"max_completion_tokens": -1}), "max_completion_tokens", "from 0"),
        (json!({"min_tokens": 9, "max_tokens": 8}), "min_tokens", "more than the 8"),
        (json!({"n": 0}), "n", "from 1 to 128"),
        (json!({"n": 129}), "n", "from 1 to 128"),
        (json!({"n": 2, "best_of": 3}), "best_of", "differs from `n`"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "from 0 to 20"),
        (json!({"top_logprobs": 2}), "top_logprobs", "needs `logprobs`"),
        (json!({"prompt_logprobs": 1, "stream": true}), "prompt_logprobs", "`stream`"),
        (json!({"stream_options": {}}), "stream_options", "only allowed with `stream`"),
        (json!({"response_format": {"type": "json_object"}}), "response_format", "not supported"),
        (json!({"tool_choice": "required"}), "tool_choice", "only `auto` and `none`"),
        (json!({"chat_template": "x"}), "chat_template", "the model's is used"),
        (json!({"messages": []}), "messages", "empty"),
        (json!({"cache_salt": "x".repeat(513)}), "cache_salt", "513 bytes"),
        (json!({"messages": null}), "messages", "missing"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", "missing"),
        (json!({"messages": [{"role": "refused", "content": ""}]}), "messages", "no such role"),
        (json!({"messages": [{"role": "user", "content": ""}]}), "messages", "no tokens"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages",
            "image_url",
        ),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
            "cannot be combined",
        ),
    ] {
        let answer = house.chat("hi", options.clone()).await;
        let error = error(&answer, 400);
        assert_eq!(error["param"], field, "{options}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(range), "{options}: {message}");
    }
}

#[tokio::test]
async fn a_wrong_type_is_named_with_its_place() {
    let house = House::new();
    for (options, field) in [
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"stop": [1]}), "stop"),
        (json!({"user": 7}), "user"),
        (json!({"messages": {}}), "messages"),
        (json!({"messages": [{"role": "user", "content": "x"}, 5]}), "messages[1]"),
        (json!({"stream_options": {"include_usage": 1}}), "stream_options.include_usage"),
        (json!({"logit_bias": {"5": "x"}}), "logit_bias.5"),
    ] {
        let answer = house.chat("hi", options.clone()).await;
        let error = error(&answer, 400);
        assert_eq!(error["param"], field, "{options}: {error}");
        assert_eq!(error["code"], "invalid_value");
    }
}

#[tokio::test]
async fn a_bad_prompt_is_named() {
    let house = House::new();
    for (options, field, says) in [
        (json!({}), "prompt", "missing"),
        (json!({"prompt": []}), "prompt", "empty"),
        (json!({"prompt": ""}), "prompt", "no tokens"),
        (json!({"prompt": [[97], []]}), "prompt", "no tokens"),
        (json!({"prompt": {"a": 1}}), "prompt", "a list of token ids"),
        (json!({"prompt": [-1]}), "prompt", "a list of token ids"),
        (json!({"prompt": [257]}), "prompt", "the vocabulary has 257 tokens"),
        (json!({"prompt": "x", "suffix": "y"}), "suffix", "not supported"),
        (json!({"prompt": "x", "logprobs": 21}), "logprobs", "from 0 to 20"),
        (json!({"prompt": "x", "max_tokens": 0}), "max_tokens", "at least 1"),
        (json!({"prompt": vec!["x"; 65], "n": 2}), "prompt", "at most 64"),
    ] {
        let answer = house.complete(options.clone()).await;
        let error = error(&answer, 400);
        assert_eq!(error["param"], field, "{options}: {error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{options}: {error}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_json_says_where() {
    let house = House::new();
    for (body, says) in [
        ("", "empty"),
        ("   \n", "empty"),
        ("[]", "object"),
        ("\"x\"", "object"),
        ("{", "line 1 column 1"),
        ("{\"model\": \"parrot\",\n \"messages\": [,]}", "line 2"),
        ("{} {}", "trailing characters"),
        ("{\"model\": \"\u{1}\"}", "control character"),
        ("{\"seed\": 1e999}", "out of range"),
        ("{\"model\": \"a\", \"model\": \"b\"}", "duplicate field"),
    ] {
        let error = error(&house.post("/v1/chat/completions", body).await, 400);
        assert_eq!(error["code"], "invalid_json");
        assert!(error["message"].as_str().unwrap().contains(says), "{body}: {error}");
    }
    let nested = "[".repeat(10_000) + &"]".repeat(10_000);
    let deep = format!("{{\"messages\": [{{\"role\": \"user\", \"content\": {nested}}}]}}");
    let error = error(&house.post("/v1/chat/completions", deep).await, 400);
    assert!(error["message"].as_str().unwrap().contains("recursion"), "{error}");
}

#[tokio::test]
async fn a_long_value_is_not_repeated_whole() {
    let answer = House::new().chat("hi", json!({"temperature": "x".repeat(100_000)})).await;
    let error = error(&answer, 400);
    assert!(error["message"].as_str().unwrap().chars().count() < 1000);
}

#[tokio::test]
async fn a_prompt_too_long_says_both_numbers() {
    let house = House::new();
    for options in [
        json!({"prompt": vec![97; 512]}),
        json!({"prompt": vec![97; 600], "max_tokens": 3}),
        json!({"prompt": "x".repeat(600)}),
    ] {
        let error = error(&house.complete(options).await, 400);
        assert_eq!(error["code"], "context_length_exceeded");
        assert_eq!(error["param"], "prompt");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("512") && (message.contains("600") || message.contains("12 tok")));
    }
    let options = json!({"max_tokens": 511});
    let error = error(&house.chat("hi", options).await, 400);
    assert_eq!(error["code"], "context_length_exceeded");
    let message = error["message"].as_str().unwrap();
    for number in ["512", "513", "511", "2 in the prompt"] {
        assert!(message.contains(number), "{message} should have {number}");
    }
    let fits = json!({"max_tokens": 510, "ignore_eos": true});
    assert_eq!(house.chat("hi", fits).await.ok()["usage"]["total_tokens"], 512);
}

#[tokio::test]
async fn the_kv_pool_may_hold_less_than_the_context() {
    let mut fake = FakeSettings::new(super::text::VOCAB_SIZE);
    fake.info.cache_groups[0].blocks = 4;
    let house = House::over(fake.factory(), HouseOptions::default());
    assert_eq!(house.get("/v1/models").await.ok()["data"][0]["max_model_len"], 64);
    let error = error(&house.complete(json!({"prompt": vec![97; 64]})).await, 400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(error["message"].as_str().unwrap().matches("64 tokens").count(), 2, "{error}");
    let answer = house.chat("0123456789", json!({"ignore_eos": true})).await.ok();
    assert_eq!(answer["usage"]["total_tokens"], 64);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let house = House::new();
    let error_of = |answer: Answer, status| error(&answer, status);
    let unknown = error_of(house.chat("hi", json!({"model": "gpt-4"})).await, 404);
    assert_eq!((&unknown["code"], &unknown["param"]), (&"model_not_found".into(), &"model".into()));
    assert!(unknown["message"].as_str().unwrap().contains("parrot"));
    let unknown = error_of(house.get("/v1/models/a/b").await, 404);
    assert_eq!(unknown["code"], "model_not_found");
    let unknown = error_of(house.get("/v1/nothing").await, 404);
    assert_eq!(unknown["code"], "route_not_found");
    for (method, path) in [
        (Method::GET, "/v1/chat/completions"),
        (Method::POST, "/v1/models"),
        (Method::DELETE, "/v1/models/parrot"),
        (Method::POST, "/health"),
    ] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let answer = house.send(request).await;
        assert_eq!(error(&answer, 405)["code"], "method_not_allowed");
        assert!(answer.header("allow").is_some());
    }
    // Every name works, and answers carry the first.
    let answer = house.chat("hi", json!({"model": "birds/parrot"})).await.ok();
    assert_eq!(answer["model"], "parrot");
    let answer = house.chat("hi", json!({"model": null})).await.ok();
    assert_eq!(answer["model"], "parrot");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let settings = FrontSettings { body_bytes_max: 1000, ..FrontSettings::default() };
    let house = House::with(HouseOptions { settings, ..HouseOptions::default() });
    let announced = house.post("/v1/completions", "x".repeat(1001)).await;
    assert_eq!(error(&announced, 413)["code"], "body_too_large");
    let chunks = futures::stream::iter((0..11).map(|_| Ok::<_, std::io::Error>("x".repeat(100))));
    let streamed = house.post("/v1/completions", Body::from_stream(chunks)).await;
    assert!(error(&streamed, 413)["message"].as_str().unwrap().contains("1000"));
    let body = json!({"prompt": "ab", "temperature": 0}).to_string();
    let padded = body.clone() + &" ".repeat(1000 - body.len());
    house.post("/v1/completions", padded).await.ok();
}

#[tokio::test]
async fn encodings_and_content_types() {
    let house = House::new();
    let request = |name: &str, value: &str| {
        let body = json!({"prompt": "ab", "temperature": 0}).to_string();
        Request::post("/v1/completions").header(name, value).body(body.into()).unwrap()
    };
    let answer = house.send(request("content-encoding", "gzip")).await;
    assert!(error(&answer, 415)["message"].as_str().unwrap().contains("gzip"));
    house.send(request("content-encoding", "identity")).await.ok();
    house.send(request("content-type", "text/plain")).await.ok();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_given_up() {
    let never = futures::stream::pending::<Result<&str, std::io::Error>>();
    let answer = House::new().post("/v1/completions", Body::from_stream(never)).await;
    assert_eq!(error(&answer, 408)["code"], "body_timeout");
}

#[tokio::test]
async fn keys_are_asked_for() {
    let settings =
        FrontSettings { api_keys: vec!["sesame".into(), "sim".into()], ..FrontSettings::default() };
    let house = House::with(HouseOptions { settings, ..HouseOptions::default() });
    let with_key = |path: &str, value: &str| {
        Request::get(path).header("authorization", value).body(Body::empty()).unwrap()
    };
    for value in ["Bearer sesam", "Bearer sesame2", "Bearer", "Basic sesame", "Bearer  "] {
        let answer = house.send(with_key("/v1/models", value)).await;
        assert_eq!(error(&answer, 401)["code"], "invalid_api_key", "{value}");
    }
    error(&house.get("/v1/models").await, 401);
    error(&house.post("/tokenize", "{}").await, 401);
    error(&house.post("/v1/chat/completions", "{}").await, 401);
    for value in ["Bearer sesame", "bearer sim"] {
        house.send(with_key("/v1/models", value)).await.ok();
    }
    // Those who watch over the server have no key.
    for path in ["/health", "/ready", "/version", "/metrics"] {
        assert_eq!(house.get(path).await.status, StatusCode::OK);
    }
    error(&house.get("/nothing").await, 404);
}
