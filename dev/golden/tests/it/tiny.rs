//! Tiny models of every architecture against transformers, and against themselves in other formats.

use device::cpu::Rung;
use golden::{
    bfloat16::write_bfloat16,
    cpu,
    drive::{Circumstances, Generated, Job, run},
    load, runner,
    tiny::{self, FloatFormat, Tiny, folder, gguf_of, hugging_face, quantized_gguf},
};
use kernels::attention::KvFormat;
use models::Compute;
use serde_json::{Value, json};
use types::{DataType, SamplingParams, TokenId};
use weights::Weights;

/// The greedy answer to a prompt, with the log-probabilities of every token at every place.
fn generate(weights: &Weights, compute: Compute, rung: Rung, prompt: &[TokenId]) -> Generated {
    let cpu = cpu(rung);
    let model = load(weights, &cpu, compute);
    let kv_format = if compute == Compute::F32 { KvFormat::F32 } else { KvFormat::Bf16 };
    let all = model.spec.vocab_size as u32;
    let sampling = SamplingParams {
        logprobs: Some(all),
        prompt_logprobs: Some(all),
        ..SamplingParams::greedy()
    };
    let job = Job { prompt: prompt.to_vec(), count: 24, sampling };
    let mut runner = runner(&cpu, &model, 1, kv_format);
    run(&mut runner, &[job], Circumstances::default()).remove(0)
}

/// The largest difference between log-probabilities and transformers'.
fn distance(tiny: &Tiny, got: &Generated) -> f32 {
    assert_eq!(got.prompt_logprobs.len(), tiny.prompt_logprobs.len());
    assert_eq!(got.logprobs[0].top.len(), tiny.last_logprobs.len());
    let prompt = got.prompt_logprobs.iter().map(|token| token.logprob).zip(&tiny.prompt_logprobs);
    let last = got.logprobs[0].top.iter();
    let last = last.map(|&(token, logprob)| (logprob, &tiny.last_logprobs[token as usize]));
    let greedy = got.logprobs.iter().map(|token| token.logprob).zip(&tiny.greedy_logprobs);
    prompt.chain(last).chain(greedy).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max)
}

#[track_caller]
fn assert_agrees(tiny: &Tiny, weights: &Weights, rung: Rung) {
    let got = generate(weights, Compute::F32, rung, &tiny.prompt);
    let distance = distance(tiny, &got);
    assert!(distance < 1e-3, "{} on {rung}: a log-probability is off by {distance}", tiny.name);
    assert_eq!(got.tokens, tiny.greedy, "{} on {rung}", tiny.name);
}

#[test]
fn every_architecture_agrees_with_transformers() {
    for tiny in tiny::all() {
        let weights = hugging_face(&tiny.config, FloatFormat::F32);
        for &rung in Rung::ALL {
            assert_agrees(&tiny, &weights, rung);
        }
    }
}

#[test]
fn the_fast_path_stays_near_transformers() {
    for tiny in tiny::all() {
        let weights = hugging_face(&tiny.config, FloatFormat::Bf16);
        for &rung in Rung::ALL {
            let got = generate(&weights, Compute::Native, rung, &tiny.prompt);
            let off = got.prompt_logprobs.iter().map(|token| token.logprob);
            let off = off.zip(&tiny.prompt_logprobs).map(|(got, want)| (got - want).abs());
            let mean = off.sum::<f32>() / tiny.prompt_logprobs.len() as f32;
            println!("{} on {rung}: {mean}", tiny.name);
            assert!(mean < 0.02, "{} on {rung}: off by {mean} in the mean", tiny.name);
        }
    }
}

/// Every element is exact in every float format, so nothing may differ.
#[test]
fn float_formats_and_shards_make_no_difference() {
    for tiny in tiny::all() {
        let answer =
            |weights: &Weights| generate(weights, Compute::F32, Rung::HIGHEST, &tiny.prompt);
        let want = answer(&hugging_face(&tiny.config, FloatFormat::F32));
        for format in [FloatFormat::F16, FloatFormat::Bf16] {
            let got = answer(&hugging_face(&tiny.config, format));
            assert_eq!(got, want, "{} in {format:?}", tiny.name);
        }
        let place = tempfile::tempdir().expect("there is room for temporary files");
        folder(&tiny.config, FloatFormat::Bf16, place.path());
        let weights = Weights::open(place.path()).expect("the folder is sound");
        assert_eq!(answer(&weights), want, "{} in two files", tiny.name);
    }
}

/// Files of the llama architecture have the rows of queries and keys in another order, and scaled frequencies as a
/// tensor. They cannot say that there is a window, or biases.
#[test]
fn gguf_files_are_the_same_models() {
    for name in ["llama", "llama_linear", "llama_llama3", "qwen2", "qwen3"] {
        let tiny = tiny::named(name);
        assert_agrees(&tiny, &gguf_of(&tiny.config), Rung::HIGHEST);
    }
}

/// And back: names and rows are again those of the folder, and bfloat16 holds every element exactly.
#[test]
fn folders_made_of_gguf_files_are_the_same_models() {
    let tiny = tiny::named("llama");
    let gguf = gguf_of(&tiny.config);
    let place = tempfile::tempdir().expect("there is room for temporary files");
    write_bfloat16(&gguf, place.path());
    let folder = Weights::open(place.path()).expect("the folder is sound");
    assert_eq!(folder.tensors().len(), gguf.tensors().len());
    assert!(folder.tensors().all(|tensor| tensor.data_type == DataType::BF16));
    assert_agrees(&tiny, &folder, Rung::HIGHEST);
}

/// The comparison above can fail: a field of the configuration that was not heeded would show.
#[test]
fn what_a_configuration_says_shows_in_the_numbers() {
    let changes: [(&str, &str, Value); 11] = [
        ("llama_llama3", "rope_scaling", Value::Null),
        ("llama_llama3", "rope_theta", json!(10_000.0)),
        ("llama_linear", "rope_scaling", Value::Null),
        ("llama_yarn", "rope_scaling", Value::Null),
        ("mistral", "sliding_window", Value::Null),
        ("mistral", "sliding_window", json!(19)),
        ("mistral", "rope_parameters", Value::Null),
        ("qwen2_windows", "use_sliding_window", json!(false)),
        ("qwen2_windows", "sliding_window", json!(19)),
        ("qwen2_windows", "layer_types", json!(vec!["full_attention"; 4])),
        ("qwen3", "rms_norm_eps", json!(0.1)),
    ];
    for (name, field, value) in changes {
        let mut tiny = tiny::named(name);
        tiny.config[field] = value;
        let weights = hugging_face(&tiny.config, FloatFormat::F32);
        let got = generate(&weights, Compute::F32, Rung::HIGHEST, &tiny.prompt);
        let distance = distance(&tiny, &got);
        assert!(distance > 0.01, "{name} without its {field} is off by {distance} only");
    }
}

#[test]
fn quantized_formats_mean_what_they_dequantise_to() {
    let prompt: Vec<TokenId> = (0..40).map(|place| place * 37 % 317).collect();
    for data_type in DataType::ALL.into_iter().filter(|data_type| data_type.is_quantized()) {
        let quantized = quantized_gguf(data_type, false);
        let floats = quantized_gguf(data_type, true);
        let want = generate(&floats, Compute::F32, Rung::HIGHEST, &prompt);
        let exact = generate(&quantized, Compute::F32, Rung::HIGHEST, &prompt);
        assert_eq!(exact, want, "{data_type} on the reference path");
        for &rung in Rung::ALL {
            let fast = generate(&quantized, Compute::Native, rung, &prompt);
            let off = fast.prompt_logprobs.iter().zip(&want.prompt_logprobs);
            let off = off.map(|(got, want)| (got.logprob - want.logprob).abs());
            let mean = off.sum::<f32>() / (prompt.len() - 1) as f32;
            println!("{data_type} on {rung}: {mean}");
            assert!(mean < 0.05, "{data_type} on {rung}: off by {mean} in the mean");
        }
    }
}
