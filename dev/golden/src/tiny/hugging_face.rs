//! Tiny models as Hugging Face checkpoints.

use std::path::Path;

use serde_json::Value;
use weights::Weights;

use super::{Dimensions, values::values};
use crate::hugging_face::{FloatFormat, Named, safetensors_file, write_folder};

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
    write_folder(folder, config, &tensors(config), format);
}
