//! A Hugging Face folder in bfloat16 made of a GGUF file: the same model as other programs would keep it.

use std::{path::Path, sync::OnceLock};

use models::{DecoderSpec, RopeScaling};
use serde_json::{Value, json};
use weights::Weights;

use crate::{
    conversion::{halves_of_neighbours, hugging_face_name, is_reordered},
    hugging_face::{FloatFormat, Named, write_folder},
    smollm2_file,
};

/// The real model as such a folder, if this machine has it. It is made once by a process, and takes 270 MB until the
/// process ends.
///
/// # Panics
/// If it cannot be made.
pub fn smollm2_bfloat16() -> Option<&'static Weights> {
    static WEIGHTS: OnceLock<Weights> = OnceLock::new();
    let file = smollm2_file()?;
    Some(WEIGHTS.get_or_init(|| {
        let gguf = Weights::open(&file).expect("the file is a model");
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        write_bfloat16(&gguf, folder.path());
        // Files that are mapped stay readable when their names are gone, so the folder need not outlive this.
        Weights::open(folder.path()).expect("the folder is a model")
    }))
}

/// Writes a GGUF file's model, which is of the llama architecture, as a Hugging Face folder with its weights rounded to
/// bfloat16.
///
/// # Panics
/// If it is another architecture, has scaled rotary frequencies, or cannot be written.
pub fn write_bfloat16(gguf: &Weights, folder: &Path) {
    let spec = models::describe(gguf).expect("the file describes its model");
    let tensors: Vec<Named> = gguf.tensors().map(|info| named(gguf, &info.name, &spec)).collect();
    write_folder(folder, &config(gguf, &spec), &tensors, FloatFormat::Bf16);
}

/// What the folder says about the model.
fn config(gguf: &Weights, spec: &DecoderSpec) -> Value {
    assert_eq!(spec.architecture, "llama", "others have their fields and rows otherwise");
    assert_eq!(spec.rope.scaling, RopeScaling::None, "it would have to be written");
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "intermediate_size": spec.feed_forward,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.context_max,
        "rms_norm_eps": spec.norm_epsilon,
        "rope_theta": spec.rope.theta,
        "attention_bias": spec.qkv_bias,
        "tie_word_embeddings": gguf.tensor("output.weight").is_none(),
    })
}

/// A tensor of the GGUF file with the name and the order of rows that the folder has.
fn named(gguf: &Weights, gguf_name: &str, spec: &DecoderSpec) -> Named {
    let tensor = gguf.tensor(gguf_name).expect("the name is from the file");
    let shape = tensor.info.shape.clone();
    let mut elements = vec![0.0; tensor.info.elements()];
    quant::dequantise(tensor.info.data_type, tensor.data, &mut elements);
    let name = hugging_face_name(gguf_name);
    if is_reordered(&name) {
        let row = shape.get(1).copied().unwrap_or(1);
        elements = halves_of_neighbours(&elements, row, spec.head_dim);
    }
    Named { name, shape, elements }
}
