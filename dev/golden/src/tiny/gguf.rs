//! Tiny models as GGUF files: those that transformers knows, converted as its checkpoints are converted for llama.cpp,
//! and llamas in quantized formats.

use std::f64::consts::TAU;

use serde_json::Value;
use types::DataType;
use weights::{Weights, gguf::Builder};

use super::{Dimensions, blocks::blocks, hugging_face::tensors};
use crate::conversion::{gguf_name, is_reordered, neighbours_of_halves};

/// The GGUF file of a tiny model, in 32-bit floats.
///
/// # Panics
/// If it cannot be read back.
pub fn gguf_of(config: &Value) -> Weights {
    let mut builder = header(config);
    let dimensions = Dimensions::of(config);
    let is_llama = config["model_type"] == "llama";
    for mut tensor in tensors(config) {
        if is_llama && is_reordered(&tensor.name) {
            let row = tensor.shape.get(1).copied().unwrap_or(1);
            tensor.elements = neighbours_of_halves(&tensor.elements, row, dimensions.head_dim);
        }
        builder.tensor_f32(&gguf_name(&tensor.name), &tensor.shape, &tensor.elements);
    }
    if let Some(factors) = rope_factors(config) {
        builder.tensor_f32("rope_freqs.weight", &[factors.len()], &factors);
    }
    Weights::from_gguf_bytes(builder.to_bytes()).expect("the file is sound")
}

/// A llama whose matrices are random blocks of a format; or the same numbers as 32-bit floats, if `dequantised`.
///
/// # Panics
/// If it cannot be read back.
pub fn quantized_gguf(data_type: DataType, dequantised: bool) -> Weights {
    // Blocks of up to 256 weights lie along a row.
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 317, "rope_theta": 10000.0,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    });
    let mut builder = header(&config);
    for tensor in tensors(&config) {
        let name = gguf_name(&tensor.name);
        if tensor.shape.len() == 1 {
            builder.tensor_f32(&name, &tensor.shape, &tensor.elements);
            continue;
        }
        let bytes = blocks(&name, data_type, tensor.elements.len());
        if dequantised {
            let mut elements = tensor.elements;
            quant::dequantise(data_type, &bytes, &mut elements);
            builder.tensor_f32(&name, &tensor.shape, &elements);
        } else {
            builder.tensor(&name, data_type, &tensor.shape, bytes);
        }
    }
    Weights::from_gguf_bytes(builder.to_bytes()).expect("the file is sound")
}

/// A file with a model's metadata and no tensors.
fn header(config: &Value) -> Builder {
    let dimensions = Dimensions::of(config);
    let architecture = config["model_type"].as_str().expect("tiny models have a type");
    let number = |field: &str| config[field].as_f64();
    let mut builder = Builder::new();
    builder.set("general.architecture", architecture);
    let mut set = |key: &str, value: usize| {
        builder.set(&format!("{architecture}.{key}"), value as u32);
    };
    set("embedding_length", dimensions.width);
    set("block_count", dimensions.layers);
    set("attention.head_count", dimensions.heads);
    set("attention.head_count_kv", dimensions.kv_heads);
    set("attention.key_length", dimensions.head_dim);
    set("feed_forward_length", dimensions.feed_forward);
    set("context_length", number("max_position_embeddings").unwrap_or(0.0) as usize);
    let mut set = |key: &str, value: Option<f64>| {
        if let Some(value) = value {
            builder.set(&format!("{architecture}.{key}"), value as f32);
        }
    };
    set("attention.layer_norm_rms_epsilon", number("rms_norm_eps"));
    set("rope.freq_base", number("rope_theta"));
    if config["rope_scaling"]["type"] == "linear" {
        set("rope.scaling.factor", config["rope_scaling"]["factor"].as_f64());
        builder.set(&format!("{architecture}.rope.scaling.type"), "linear");
    }
    builder
}

/// How much each frequency of Llama 3.1's scaling is divided: files carry the result, not the parameters.
fn rope_factors(config: &Value) -> Option<Vec<f32>> {
    let scaling = &config["rope_scaling"];
    if scaling["rope_type"] != "llama3" {
        return None;
    }
    let number = |value: &Value| value.as_f64().expect("the scaling is whole");
    let (theta, factor) = (number(&config["rope_theta"]), number(&scaling["factor"]));
    let (low, high) = (number(&scaling["low_freq_factor"]), number(&scaling["high_freq_factor"]));
    let context = number(&scaling["original_max_position_embeddings"]);
    let head_dim = Dimensions::of(config).head_dim;
    let factors = (0..head_dim / 2).map(|pair| {
        let wavelength = TAU * theta.powf(2.0 * pair as f64 / head_dim as f64);
        let divide_by = if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        divide_by as f32
    });
    Some(factors.collect())
}
