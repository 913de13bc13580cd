//! `/tokenize` and `/detokenize`.

use serde_json::{Value, json};

use super::support::{Answer, House};

async fn tokenize(house: &House, body: Value) -> Answer {
    house.post("/tokenize", body.to_string()).await
}

#[tokio::test]
async fn vllm_s_form() {
    let house = House::new();
    let answer = tokenize(&house, json!({"model": "parrot", "prompt": "ab"})).await.ok();
    let expected =
        json!({"count": 2, "max_model_len": 512, "tokens": [97, 98], "token_strs": null});
    assert_eq!(answer, expected);
    let body = json!({"prompt": "ab<end>", "return_token_strs": true});
    assert_eq!(tokenize(&house, body).await.ok()["token_strs"], json!(["a", "b", "<end>"]));
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(tokenize(&house, body).await.ok()["tokens"], json!([104, 105]));
    let back = house.post("/detokenize", json!({"tokens": [97, 256, 98]}).to_string()).await;
    assert_eq!(back.ok(), json!({"prompt": "a<end>b"}));
}

#[tokio::test]
async fn tgi_s_form() {
    let answer = tokenize(&House::new(), json!({"inputs": "a\u{e9}b"})).await.ok();
    let span = |id: u32, text: &str, start: u32, stop: u32| json!({"id": id, "text": text, "start": start, "stop": stop});
    let expected = [
        span(0x61, "a", 0, 1),
        span(0xc3, "\u{fffd}", 1, 1),
        span(0xa9, "\u{fffd}", 1, 2),
        span(0x62, "b", 2, 3),
    ];
    assert_eq!(answer, json!(expected));
}

#[tokio::test]
async fn errors() {
    let house = House::new();
    for body in [json!({}), json!({"prompt": "x", "inputs": "y"}), json!({"prompt": 5})] {
        let answer = tokenize(&house, body).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["param"]),
            (400, &"prompt".into())
        );
    }
    let answer = tokenize(&house, json!({"model": "x", "prompt": "x"})).await;
    assert_eq!(answer.status, 404);
    let answer = house.post("/detokenize", "{}").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &"tokens".into()));
    let answer = house.post("/detokenize", json!({"tokens": [97, 4_000_000]}).to_string()).await;
    let error = answer.json()["error"].clone();
    assert_eq!((answer.status.as_u16(), &error["param"]), (400, &"tokens".into()));
    assert!(error["message"].as_str().unwrap().contains("4000000"), "{error}");
}
