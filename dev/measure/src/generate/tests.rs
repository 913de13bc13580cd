//! Files of a tiny shape are models that compute numbers and write text.

use device::cpu::{Cpu, Rung};
use kernels::attention::KvFormat;
use models::{Compute, LoadOptions};
use types::SamplingParams;
use weights::{Source, Weights};

use super::{format::FILE_FORMATS, *};
use crate::{
    model::{load::runner, streams::Streams},
    shape::{LLAMA_8B, QWEN_0_5B},
};

/// As small as the blocks of all formats allow.
fn tiny(real: &Shape) -> Shape {
    Shape {
        width: 256,
        layers: 2,
        heads: Heads { queries: 4, kv: 2, dim: 64 },
        feed_forward: 512,
        vocab_size: 300,
        context_max: 256,
        ..real.clone()
    }
}

fn made(shape: &Shape, format: FileFormat, seed: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, shape, format, seed).expect("writing to memory cannot fail");
    bytes
}

#[test]
fn every_format_makes_a_model_that_computes_numbers() {
    for shape in [tiny(&LLAMA_8B), tiny(&QWEN_0_5B)] {
        for format in FILE_FORMATS {
            let weights = Weights::from_gguf_bytes(made(&shape, format, 1));
            let weights = weights.expect("the file is sound");
            let cpu = Cpu::new(Rung::ALL[Rung::ALL.len() - 1], 2);
            let options = LoadOptions { compute: Compute::Native, progress: &mut |_, _| {} };
            let model = models::load(&weights, &cpu, options).expect("the model is whole");
            assert_eq!(model.spec.architecture, shape.architecture);
            assert_eq!(model.spec.vocab_size, 300);
            let (cpu, model) = (cpu.into(), model.into());
            let mut runner =
                runner(&cpu, &model, (1, 64), KvFormat::Bf16).expect("the limits are sound");
            let sampling = SamplingParams { prompt_logprobs: Some(0), ..SamplingParams::greedy() };
            let prompts = vec![(0..40).map(|place| place * 7 % 300).collect()];
            let mut streams = Streams::new(&mut runner, prompts, &sampling);
            // A step fails if a logit is not a number.
            let first = streams.step().expect("logits are numbers").outcome;
            let logprobs = &first.prompt_logprobs[0].1;
            assert_eq!(logprobs.len(), 39, "{} {format}", shape.name);
            assert!(logprobs.iter().all(|token| token.logprob.is_finite() && token.logprob < 0.0));
            for _ in 0..8 {
                streams.step().expect("logits are numbers");
            }
        }
    }
}

#[test]
fn the_vocabulary_writes_any_text_and_reads_any_token() {
    for shape in SHAPES.map(|shape| tiny(&shape)) {
        let bytes = made(&shape, FILE_FORMATS[0], 1);
        let weights = Weights::from_gguf_bytes(bytes).expect("the file is sound");
        let tokenizer = golden::tokenizer(&weights);
        assert_eq!(tokenizer.warnings(), [] as [String; 0]);
        assert_eq!(tokenizer.vocab_size(), 300);
        let text = "Soup, 7 bowls: \"très chaud\"\n";
        let tokens = tokenizer.encode(text, true).expect("any text can be written");
        assert_eq!(tokenizer.decode(&tokens, false).expect("these are tokens"), text);
        let turn = tokenizer.encode("<|im_end|>", false).expect("any text can be written");
        assert_eq!((turn.len(), tokenizer.special().eos[0]), (1, turn[0]));
        assert_eq!(tokenizer.token_text(256), " baba");
        let Source::Gguf(metadata) = weights.source() else { panic!("it is a GGUF file") };
        assert!(metadata.vocabulary().expect("it has one").chat_template.is_some());
    }
}

#[test]
fn a_seed_makes_the_same_file_again() {
    let shape = tiny(&LLAMA_8B);
    let format = "q4_k_m".parse().expect("it is in the table");
    assert!(made(&shape, format, 1) == made(&shape, format, 1));
    assert!(made(&shape, format, 1) != made(&shape, format, 2));
}

#[test]
fn shapes_have_names_and_errors_list_them() {
    for shape in SHAPES {
        assert_eq!(shape_named(shape.name).expect("it is in the table").layers, shape.layers);
    }
    let error = shape_named("llama-9b").expect_err("it is not in the table");
    assert!(error.contains("`llama-9b`") && error.contains("llama-8b"), "{error}");
}

#[test]
fn parameters_are_as_many_as_the_models_have() {
    let millions = |shape: &Shape| {
        let tensors = tensors(shape, FILE_FORMATS[0]);
        let elements: usize = tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        elements / 1_000_000
    };
    assert_eq!(SHAPES.map(|shape| millions(&shape)), [134, 1235, 8030, 494]);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let path = Path::new("/does/not/exist/model.gguf");
    let error = write_file(path, &tiny(&LLAMA_8B), FILE_FORMATS[0], 0).expect_err("no folder");
    assert!(format!("{error:#}").contains("/does/not/exist/model.gguf"), "{error:#}");
}
