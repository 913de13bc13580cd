//! Tiny models as Hugging Face checkpoints.

use std::{fs, path::Path};

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use weights::Weights;

use super::{Dimensions, values::values};

/// How elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatFormat {
    /// 32 bits.
    F32,
    /// 16 bits, of IEEE 754.
    F16,
    /// The upper 16 bits of 32.
    Bf16,
}

/// A tensor by its Hugging Face name.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) elements: Vec<f32>,
}

/// All tensors of a model. Which there are follows from its configuration, as its kind of model is documented.
pub(super) fn tensors(config: &Value) -> Vec<Named> {
    let Dimensions { width, layers, heads, kv_heads, head_dim, feed_forward, vocab_size } =
        Dimensions::of(config);
    let kind = config["model_type"].as_str().expect("tiny models have a type");
    let is_on = |field: &str| config[field].as_bool().unwrap_or(false);
    let mut shapes: Vec<(String, Vec<usize>)> =
        vec![("model.embed_tokens.weight".to_owned(), vec![vocab_size, width])];
    for layer in 0..layers {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        for (name, rows) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
            add(&format!("self_attn.{name}.weight"), &[rows, width]);
            if kind == "qwen2" || is_on("attention_bias") {
                add(&format!("self_attn.{name}.bias"), &[rows]);
            }
        }
        add("self_attn.o_proj.weight", &[width, queries]);
        if is_on("attention_bias") {
            add("self_attn.o_proj.bias", &[width]);
        }
        if kind == "qwen3" {
            add("self_attn.q_norm.weight", &[head_dim]);
            add("self_attn.k_norm.weight", &[head_dim]);
        }
        add("mlp.gate_proj.weight", &[feed_forward, width]);
        add("mlp.up_proj.weight", &[feed_forward, width]);
        add("mlp.down_proj.weight", &[width, feed_forward]);
        add("input_layernorm.weight", &[width]);
        add("post_attention_layernorm.weight", &[width]);
    }
    shapes.push(("model.norm.weight".to_owned(), vec![width]));
    if !is_on("tie_word_embeddings") {
        shapes.push(("lm_head.weight".to_owned(), vec![vocab_size, width]));
    }
    shapes
        .into_iter()
        .map(|(name, shape)| {
            let elements = values(&name, shape.iter().product());
            Named { name, shape, elements }
        })
        .collect()
}

/// A checkpoint in memory.
///
/// # Panics
/// If it cannot be read back.
pub fn hugging_face(config: &Value, format: FloatFormat) -> Weights {
    let bytes = safetensors_file(&tensors(config), format);
    Weights::from_safetensors_bytes(config.clone(), bytes).expect("the file is sound")
}

/// A checkpoint as a folder with its tensors in two files and an index.
///
/// # Panics
/// If it cannot be written.
pub fn folder(config: &Value, format: FloatFormat, folder: &Path) {
    let tensors = tensors(config);
    let halves = tensors.split_at(tensors.len() / 2);
    let mut places = serde_json::Map::new();
    for (number, half) in [(1, halves.0), (2, halves.1)] {
        let file = format!("model-{number:05}-of-00002.safetensors");
        fs::write(folder.join(&file), safetensors_file(half, format)).expect("the folder is there");
        places.extend(half.iter().map(|tensor| (tensor.name.clone(), json!(file))));
    }
    let index = json!({"metadata": {}, "weight_map": places});
    for (file, content) in [("config.json", config), ("model.safetensors.index.json", &index)] {
        fs::write(folder.join(file), content.to_string()).expect("the folder is there");
    }
}

fn safetensors_file(tensors: &[Named], format: FloatFormat) -> Vec<u8> {
    let encoded: Vec<Vec<u8>> =
        tensors.iter().map(|tensor| encode(&tensor.elements, format)).collect();
    let dtype = match format {
        FloatFormat::F32 => Dtype::F32,
        FloatFormat::F16 => Dtype::F16,
        FloatFormat::Bf16 => Dtype::BF16,
    };
    let views = tensors.iter().zip(&encoded).map(|(tensor, bytes)| {
        let view = TensorView::new(dtype, tensor.shape.clone(), bytes);
        (&tensor.name, view.expect("the bytes are those of the shape"))
    });
    safetensors::serialize(views, None).expect("names and shapes can be written")
}

fn encode(elements: &[f32], format: FloatFormat) -> Vec<u8> {
    match format {
        FloatFormat::F32 => elements.iter().flat_map(|value| value.to_le_bytes()).collect(),
        FloatFormat::F16 => {
            elements.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
        }
        FloatFormat::Bf16 => {
            elements.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
        }
    }
}
