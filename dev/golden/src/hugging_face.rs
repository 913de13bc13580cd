//! Hugging Face checkpoints written: safetensors files, and folders of them.

use std::{fs, path::Path};

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

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
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) elements: Vec<f32>,
}

/// Writes a folder with a configuration, tensors in two files, and their index.
///
/// # Panics
/// If it cannot be written.
pub(crate) fn write_folder(folder: &Path, config: &Value, tensors: &[Named], format: FloatFormat) {
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

/// A safetensors file.
///
/// # Panics
/// If a tensor's elements are not those of its shape.
pub(crate) fn safetensors_file(tensors: &[Named], format: FloatFormat) -> Vec<u8> {
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
