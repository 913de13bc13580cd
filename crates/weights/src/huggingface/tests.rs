//! Tests of folders.

use safetensors::tensor::{TensorView, serialize};
use serde_json::json;

use super::*;

/// A safetensors file with one tensor of zeros each.
pub(crate) fn shard(tensors: &[(&str, Dtype, &[usize])]) -> Vec<u8> {
    let zeros = vec![0; 4096];
    let views = tensors.iter().map(|(name, dtype, shape)| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (*name, TensorView::new(*dtype, shape.to_vec(), &zeros[..bytes]).unwrap())
    });
    serialize(views, None).unwrap()
}

fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn config() -> (&'static str, Vec<u8>) {
    ("config.json", br#"{"model_type": "llama"}"#.to_vec())
}

fn index(map: Value) -> (&'static str, Vec<u8>) {
    (INDEX, json!({ "weight_map": map }).to_string().into_bytes())
}

#[test]
fn whole_files() {
    let file =
        shard(&[("b", Dtype::BF16, &[2, 3]), ("a", Dtype::F32, &[4]), ("h", Dtype::F16, &[])]);
    let dir = folder(&[config(), (WHOLE, file)]);
    let weights = Weights::open(dir.path()).unwrap();
    let Source::HuggingFace { config, dir: source_dir } = weights.source() else {
        panic!("a folder")
    };
    assert_eq!((config["model_type"].as_str(), source_dir.as_path()), (Some("llama"), dir.path()));
    let b = weights.tensor("b").unwrap();
    assert_eq!(
        (b.info.shape.as_slice(), b.info.data_type, b.data.len()),
        (&[2, 3][..], DataType::BF16, 12)
    );
    assert_eq!(weights.tensor("a").unwrap().info.data_type, DataType::F32);
    assert_eq!(weights.tensor("h").unwrap().data.len(), 2);
    assert_eq!(weights.tensors().len(), 3);
}

#[test]
fn shards() {
    let files = [
        config(),
        ("1.safetensors", shard(&[("a", Dtype::F32, &[1]), ("b", Dtype::F32, &[2])])),
        ("2.safetensors", shard(&[("c", Dtype::F32, &[3])])),
        index(json!({"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"})),
    ];
    let dir = folder(&files);
    let weights = Weights::open(dir.path()).unwrap();
    for (name, bytes) in [("a", 4), ("b", 8), ("c", 12)] {
        assert_eq!(weights.tensor(name).unwrap().data.len(), bytes);
    }
    assert_eq!(shard_names(&dir.path().join(INDEX)).unwrap(), ["1.safetensors", "2.safetensors"]);
}

#[test]
fn bad_folders_are_errors_that_name_the_file() {
    let a = || shard(&[("a", Dtype::F32, &[1])]);
    let check = |files: &[(&str, Vec<u8>)], expect: &str| {
        let dir = folder(files);
        let error = Weights::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(&[], "no config.json");
    check(&[config()], "neither model.safetensors nor");
    check(&[("config.json", b"{".to_vec())], "config.json");
    check(&[config(), (WHOLE, vec![])], "model.safetensors: not a valid safetensors file");
    check(&[config(), (WHOLE, a()[..20].to_vec())], "not a valid safetensors file");
    check(&[config(), (WHOLE, shard(&[("i", Dtype::I64, &[1])]))], "tensor \"i\" has the type I64");
    check(&[config(), (INDEX, b"{}".to_vec())], "weight_map");
    check(&[config(), index(json!({"a": 1}))], "not a string");
    for escape in ["../a.safetensors", "/a.safetensors", "a.bin", ".."] {
        check(&[config(), index(json!({ "a": escape }))], "not the name of a safetensors file");
    }
    check(&[config(), index(json!({"a": "1.safetensors"}))], "1.safetensors");
    check(
        &[config(), ("1.safetensors", a()), index(json!({"x": "1.safetensors"}))],
        "says that \"x\" is here",
    );
    check(
        &[
            config(),
            ("1.safetensors", a()),
            ("2.safetensors", a()),
            index(json!({"a": "1.safetensors", "b": "2.safetensors"})),
        ],
        "\"b\" is here, but it is not",
    );
    let both = [
        config(),
        ("1.safetensors", shard(&[("a", Dtype::F32, &[1]), ("b", Dtype::F32, &[1])])),
        ("2.safetensors", shard(&[("b", Dtype::F32, &[1]), ("c", Dtype::F32, &[1])])),
        index(json!({"a": "1.safetensors", "c": "2.safetensors"})),
    ];
    check(&both, "tensor \"b\" occurs twice");
}
