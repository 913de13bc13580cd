//! The tokenizer of a real model against what an independent implementation gave.

#![expect(clippy::unwrap_used, reason = "in a test, failing there is the message")]

use std::{fs, sync::Arc};

use chat::{ChatTemplate, RenderOptions};
use serde_json::Value;
use tokenizer::{IncrementalDecoder, Tokenizer};
use weights::{Source, Weights};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/smollm2-135m-instruct-q4_1.json");

struct Model {
    tokenizer: Arc<Tokenizer>,
    template: String,
}

/// The model, if this machine has it.
fn model() -> Option<Model> {
    let path = golden::smollm2_file()?;
    let weights = Weights::open(&path).unwrap();
    let Source::Gguf(metadata) = weights.source() else { panic!("{path:?} is not a GGUF file") };
    let template = metadata.vocabulary().unwrap().chat_template.unwrap().to_owned();
    Some(Model { tokenizer: Arc::new(golden::tokenizer(&weights)), template })
}

fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string(GOLDEN).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap().try_into().unwrap()).collect()
}

#[test]
fn texts_become_the_golden_tokens_and_back() {
    let Some(model) = model() else { return };
    let golden = golden();
    let cases = golden["tokenize"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expect = ids(&case["ids"]);
        assert_eq!(model.tokenizer.encode(text, true).unwrap(), expect, "{text:?}");
        assert_eq!(
            model.tokenizer.decode(&expect, false).unwrap(),
            case["decoded"].as_str().unwrap()
        );
        let mut decoder = IncrementalDecoder::new(Arc::clone(&model.tokenizer), false);
        let mut parts: String = expect.iter().map(|id| decoder.push(*id).unwrap()).collect();
        parts.push_str(&decoder.finish());
        assert_eq!(parts, case["decoded"].as_str().unwrap());
    }
    for case in golden["generate"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(
            model.tokenizer.encode(text, true).unwrap(),
            ids(&case["prompt_ids"]),
            "{text:?}"
        );
        let greedy = model.tokenizer.decode(&ids(&case["greedy_ids"]), false).unwrap();
        assert_eq!(greedy, case["greedy_text"].as_str().unwrap());
    }
}

#[test]
fn chats_become_the_golden_prompts() {
    let Some(model) = model() else { return };
    let special = model.tokenizer.special();
    assert_eq!((special.bos, &special.eos[..]), (Some(1), &[2, 0][..]));
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let template =
        ChatTemplate::new(&model.template, &text(&special.bos_text), &text(&special.eos_text))
            .unwrap();
    let golden = golden();
    let cases = golden["chat"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let messages = case["messages"].as_array().unwrap();
        let prompt = template.render(messages, &RenderOptions::new(std::time::UNIX_EPOCH)).unwrap();
        assert_eq!(prompt, case["rendered"].as_str().unwrap());
        assert_eq!(model.tokenizer.encode(&prompt, false).unwrap(), ids(&case["ids"]));
    }
}
