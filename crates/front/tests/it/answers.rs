//! What answers say: lengths, stops, seeds, several at once, log-probabilities.

use axum::http::Request;
use front::{FrontSettings, SamplingDefaults};
use serde_json::{Value, json};

use super::{
    support::{House, HouseOptions, streamed_text},
    text::END,
};

/// The text, the reason for the end, and the tokens used, of a whole answer.
fn outcome(answer: &Value) -> (String, String, u64) {
    let choice = &answer["choices"][0];
    let text = choice["message"]["content"].as_str().or(choice["text"].as_str()).unwrap();
    let reason = choice["finish_reason"].as_str().unwrap();
    (text.into(), reason.into(), answer["usage"]["completion_tokens"].as_u64().unwrap())
}

/// The same of an answer that was asked for whole and as a stream, which must agree.
async fn both_ways(house: &House, text: &str, mut options: Value) -> (String, String, u64) {
    let whole = outcome(&house.chat(text, options.clone()).await.ok());
    options["stream"] = true.into();
    options["stream_options"] = json!({"include_usage": true});
    let chunks = house.chat(text, options).await.chunks();
    let (usage, chunks) = chunks.split_last().unwrap();
    let reason = chunks.last().unwrap()["choices"][0]["finish_reason"].as_str().unwrap().into();
    let used = usage["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!((streamed_text(chunks, 0), reason, used), whole);
    whole
}

#[tokio::test]
async fn an_answer_ends_where_the_model_ends_it() {
    let house = House::new();
    // Two tokens and the end.
    assert_eq!(both_ways(&house, "hi", json!({})).await, ("hi".into(), "stop".into(), 3));
}

#[tokio::test]
async fn an_answer_ends_at_its_limit() {
    let house = House::new();
    let expected = |text: &str, used| (text.to_owned(), "length".to_owned(), used);
    for options in [json!({"max_tokens": 2}), json!({"max_completion_tokens": 2, "max_tokens": 9})]
    {
        assert_eq!(both_ways(&house, "abcd", options).await, expected("ab", 2));
    }
    let options = json!({"max_tokens": 6, "ignore_eos": true});
    assert_eq!(both_ways(&house, "abcd", options).await, expected("abcdab", 6));
    // Without a limit it is the context.
    let options = json!({"ignore_eos": true});
    let (_, reason, used) = both_ways(&house, "abcd", options).await;
    assert_eq!((reason.as_str(), used), ("length", u64::from(super::parrot::CONTEXT_MAX) - 4));
    let legacy = house.complete(json!({"prompt": "abcd", "temperature": 0, "ignore_eos": true}));
    assert_eq!(outcome(&legacy.await.ok()).2, 16);
}

#[tokio::test]
async fn an_answer_has_its_least_length() {
    let options = json!({"min_tokens": 5, "max_tokens": 50});
    let (text, reason, used) = both_ways(&House::new(), "ab", options).await;
    assert_eq!((text.as_str(), reason.as_str(), used), ("ababa", "stop", 6));
    // Stop strings do not count before it either.
    let options = json!({"min_tokens": 3, "max_tokens": 50, "stop": "b", "ignore_eos": true});
    let (text, reason, used) = both_ways(&House::new(), "ab", options).await;
    assert_eq!((text.as_str(), reason.as_str(), used), ("aba", "stop", 4));
}

#[tokio::test]
async fn a_stop_string_across_tokens_is_withheld() {
    let house = House::new();
    let expected = |text: &str, used| (text.to_owned(), "stop".to_owned(), used);
    let stopped = both_ways(&house, "one two three", json!({"stop": "two"})).await;
    assert_eq!(stopped, expected("one ", 7));
    let stopped = both_ways(&house, "one two three", json!({"stop": ["xx", "o t"]})).await;
    assert_eq!(stopped, expected("one tw", 9));
    // Looks like one to the very end.
    let whole = both_ways(&house, "one two", json!({"stop": "two!"})).await;
    assert_eq!(whole, expected("one two", 8));
    let options = json!({"stop": "two", "include_stop_str_in_output": true});
    assert_eq!(both_ways(&house, "one two three", options).await, expected("one two", 7));
    house.idle().await;
}

#[tokio::test]
async fn a_stop_string_is_named_as_the_reason() {
    let house = House::new();
    let answer = house.chat("abc", json!({"stop": ["c"]})).await.ok();
    assert_eq!(answer["choices"][0]["stop_reason"], "c");
    let answer = house.chat("abc", json!({"stop_token_ids": [98]})).await.ok();
    assert_eq!(answer["choices"][0]["stop_reason"], 98);
    assert_eq!(answer["choices"][0]["message"]["content"], "a");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let answer = house.chat("abc", json!({})).await.ok();
    assert_eq!(answer["choices"][0].get("stop_reason"), None);
}

#[tokio::test]
async fn a_stopped_answer_leaves_the_engine() {
    let (house, permits) = House::gated(Default::default());
    permits.allow(2);
    let options = json!({"stop": "b", "ignore_eos": true, "max_tokens": 400});
    let answer = house.chat("ab", options).await.ok();
    assert_eq!(outcome(&answer), ("a".into(), "stop".into(), 2));
    // The engine, which knows nothing of strings, would have gone on.
    drop(permits);
    house.idle().await;
    assert!(house.handle.stats().generated_tokens < 400);
}

#[tokio::test]
async fn characters_are_never_split() {
    // Every token is a byte.
    let text = "\u{e9}\u{65e5}\u{672c}\u{1f980}!";
    let chunks = House::new().chat(text, json!({"stream": true})).await.chunks();
    assert_eq!(streamed_text(&chunks, 0), text);
    let texts = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).collect();
    assert_eq!(texts, ["\u{e9}", "\u{65e5}", "\u{672c}", "\u{1f980}", "!"]);
    // Cut in the middle of one, there is nothing better to say.
    let cut = House::new().chat("\u{1f980}", json!({"max_tokens": 2})).await.ok();
    assert_eq!(cut["choices"][0]["message"]["content"], "\u{fffd}");
}

#[tokio::test]
async fn special_tokens_show_on_request() {
    let house = House::new();
    let body = |skip| {
        json!({"prompt": [97, END, 98], "temperature": 0, "max_tokens": 3, "ignore_eos": true,
               "skip_special_tokens": skip})
    };
    assert_eq!(outcome(&house.complete(body(true)).await.ok()).0, "ab");
    assert_eq!(outcome(&house.complete(body(false)).await.ok()).0, "a<end>b");
}

#[tokio::test]
async fn seeds_decide() {
    let house = House::new();
    let sample = async |options: Value| {
        let mut body = json!({"max_tokens": 3, "temperature": 1});
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        outcome(&house.chat("abcdefgh", body).await.ok()).0
    };
    assert_eq!(sample(json!({"seed": 2})).await, "cde");
    assert_eq!(sample(json!({"seed": -1})).await, "hab");
    assert_eq!(sample(json!({"seed": u64::MAX})).await, "hab");
    // Where there is none, the source gives one.
    assert_eq!(sample(json!({})).await, "def");
}

#[tokio::test]
async fn several_answers_have_seeds_of_their_own() {
    let house = House::new();
    let text = "abcdefghijklmnopqrstuvwxyz";
    let options = json!({"n": 4, "temperature": 1, "seed": 2, "max_tokens": 5});
    let whole = house.chat(text, options.clone()).await.ok();
    let texts: Vec<&str> = whole["choices"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(index, choice)| {
            assert_eq!(choice["index"], index);
            choice["message"]["content"].as_str().unwrap()
        })
        .collect();
    assert_eq!(texts[0], "cdefg");
    assert!(texts[1..].iter().all(|text| *text != texts[0]));
    assert_eq!(whole["usage"]["prompt_tokens"], 26);
    assert_eq!(whole["usage"]["completion_tokens"], 20);

    let mut streamed = options;
    streamed["stream"] = true.into();
    let chunks = house.chat(text, streamed).await.chunks();
    for (index, text) in texts.iter().enumerate() {
        assert_eq!(streamed_text(&chunks, index as u64), *text);
    }
    let ends = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"] == "length");
    assert_eq!(ends.count(), 4);
}

#[tokio::test]
async fn several_prompts_have_several_answers() {
    let house = House::new();
    let body = json!({"prompt": ["ab", "cd"], "n": 2, "temperature": 0, "max_tokens": 2});
    let answer = house.complete(body).await.ok();
    let texts: Vec<&Value> =
        answer["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, ["ab", "ab", "cd", "cd"]);
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
    let lists = json!({"prompt": [[97], [98, 99]], "temperature": 0});
    let answer = house.complete(lists).await.ok();
    assert_eq!(answer["choices"][1]["text"], "bc");
}

#[tokio::test]
async fn usage_tells_what_was_cached_of_a_prompt() {
    let settings =
        FrontSettings { api_keys: vec!["one".into(), "two".into()], ..FrontSettings::default() };
    let house = House::with(HouseOptions { settings, ..HouseOptions::default() });
    let complete = async |key: &str, options: Value| {
        let mut body = json!({"prompt": "x".repeat(40), "max_tokens": 1});
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let request = Request::post("/v1/completions")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {key}"))
            .body(body.to_string().into())
            .unwrap();
        let answer = house.send(request).await.ok();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(complete("one", json!({})).await, 0);
    // Two whole blocks of 16 tokens.
    assert_eq!(complete("one", json!({})).await, 32);
    assert_eq!(complete("one", json!({"n": 3})).await, 32, "a prompt counts once");
    assert_eq!(complete("two", json!({})).await, 0, "keys share nothing");
    assert_eq!(complete("two", json!({"cache_salt": "a"})).await, 0, "nor do salts");
    assert_eq!(complete("two", json!({"cache_salt": "a"})).await, 32);
}

#[tokio::test]
async fn a_text_s_own_log_probabilities_need_no_answer() {
    let house = House::new();
    let body = json!({"prompt": "a\u{e9}b", "echo": true, "logprobs": 0, "max_tokens": 0});
    let answer = house.complete(body).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "a\u{e9}b");
    assert_eq!(choice["logprobs"]["tokens"], json!(["a", "bytes:\\xc3", "bytes:\\xa9", "b"]));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1, 1, 2]));
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, -0.25, -0.25, -0.25]));
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    // A first token alone has no probability, and that is no reason to wait for one.
    let body = json!({"prompt": "a", "echo": true, "logprobs": 0, "max_tokens": 0});
    let answer = house.complete(body).await.ok();
    assert_eq!(answer["choices"][0]["text"], "a");
    house.idle().await;
}

#[tokio::test]
async fn log_probabilities_cover_every_token() {
    let house = House::new();
    let text = "\u{e9}x";
    for stream in [false, true] {
        let options = json!({"logprobs": true, "stream": stream, "stop": "zzz"});
        let answer = house.chat(text, options).await;
        let chunks = if stream { answer.chunks() } else { vec![answer.ok()] };
        let tokens: Vec<&Value> = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
            .flatten()
            .map(|token| &token["bytes"])
            .collect();
        assert_eq!(tokens, [&json!([0xc3]), &json!([0xa9]), &json!([0x78]), &json!(b"<end>")]);
    }
}

#[tokio::test]
async fn a_message_can_be_continued() {
    let body = json!({
        "messages": [{"role": "assistant", "content": [{"type": "text", "text": "ab"}]}],
        "continue_final_message": true,
        "temperature": 0,
    });
    let answer = House::new().post("/v1/chat/completions", body.to_string()).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "ab");
}

#[tokio::test]
async fn the_makers_recommendation_is_the_default() {
    let defaults = SamplingDefaults { temperature: Some(0.0), ..SamplingDefaults::default() };
    let house = House::with(HouseOptions { defaults, ..HouseOptions::default() });
    let answer = house.complete(json!({"prompt": "abcd", "max_tokens": 2})).await.ok();
    assert_eq!(answer["choices"][0]["text"], "ab");
    let answer =
        house.complete(json!({"prompt": "abcd", "max_tokens": 2, "temperature": 1})).await.ok();
    assert_eq!(answer["choices"][0]["text"], "da");
}

#[tokio::test]
async fn null_is_the_same_as_absent_and_strange_fields_are_ignored() {
    let options = json!({
        "max_tokens": null, "max_completion_tokens": null, "top_p": null, "top_k": null,
        "min_p": null, "typical_p": null, "repetition_penalty": null, "presence_penalty": null,
        "frequency_penalty": null, "logit_bias": null, "seed": null, "stop": null,
        "stop_token_ids": null, "ignore_eos": null, "min_tokens": null, "n": null, "best_of": null,
        "logprobs": null, "top_logprobs": null, "prompt_logprobs": null, "stream": null,
        "stream_options": null, "priority": null, "response_format": null, "tools": null,
        "tool_choice": null, "documents": null, "add_generation_prompt": null,
        "continue_final_message": null, "add_special_tokens": null, "chat_template": null,
        "chat_template_kwargs": null, "include_stop_str_in_output": null,
        "skip_special_tokens": null, "return_token_ids": null, "user": null,
        "never_heard_of": {"x": [1, {}]}, "parallel_tool_calls": true, "store": false,
    });
    let answer = House::new().chat("hi", options).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "hi");
}

#[tokio::test]
async fn a_large_prompt_goes_the_same_way() {
    // Large enough to be worked on beside the event loop; mostly spaces between JSON tokens.
    let body = super::support::chat_body("hi", json!({})) + &" ".repeat(64 << 10);
    let answer = House::new().post("/v1/chat/completions", body).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "hi");
}
