//! Tests of the reader and writer: everything written can be read, and nothing hostile gets through.

use proptest::prelude::*;
use types::DataType;

use super::*;
use crate::{Error, GgufProblem, Source, Weights};

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set("general.architecture", "llama").set("llama.block_count", 2_u32);
    builder.tensor_f32("a", &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    builder.tensor("b", DataType::Q4_0, &[1, 64], (0..36).collect());
    builder
}

fn open(bytes: Vec<u8>) -> Result<Weights, Error> {
    Weights::from_gguf_bytes(bytes)
}

/// The problem that reading finds.
fn problem(bytes: Vec<u8>) -> GgufProblem {
    match open(bytes).expect_err("the file is bad") {
        Error::Gguf { problem, .. } => problem,
        error => panic!("{error}"),
    }
}

/// A file by hand: its counts and what follows.
fn raw(version: u32, tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An entry of the directory; `shape` innermost first, as files have it.
fn entry(name: &str, shape: &[u64], number: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((shape.len() as u32).to_le_bytes());
    bytes.extend(shape.iter().flat_map(|length| length.to_le_bytes()));
    bytes.extend(number.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn bytes_may_come_when_the_file_is_written() {
    let mut later = Builder::new();
    later.set("general.architecture", "llama").set("llama.block_count", 2_u32);
    later.tensor_f32("a", &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    later.tensor_later("b", DataType::Q4_0, &[1, 64]);
    let mut bytes = Vec::new();
    let written = later.write_with(&mut bytes, |name, out| {
        assert_eq!(name, "b");
        (0..36).try_for_each(|byte| out.write_all(&[byte]))
    });
    written.unwrap();
    assert_eq!(bytes, builder().to_bytes());
}

#[test]
#[should_panic(expected = "bytes of tensor \"b\"")]
fn a_tensor_gets_all_its_bytes() {
    let mut later = Builder::new();
    later.tensor_later("b", DataType::Q4_0, &[1, 64]);
    let _panics = later.write_with(&mut Vec::new(), |_, out| out.write_all(&[0; 35]));
}

#[test]
fn what_is_written_can_be_read() {
    let weights = open(builder().to_bytes()).unwrap();
    let names: Vec<&str> = weights.tensors().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let a = weights.tensor("a").unwrap();
    assert_eq!(
        (a.info.shape.as_slice(), a.info.elements(), a.info.data_type),
        (&[2, 3][..], 6, DataType::F32)
    );
    assert_eq!(a.data[20..24], 5.0_f32.to_le_bytes());
    let b = weights.tensor("b").unwrap();
    assert_eq!(b.data, (0..36).collect::<Vec<u8>>());
    assert_eq!(weights.bytes(), 24 + 36);
    assert!(weights.tensor("c").is_none());
}

#[test]
fn every_type_of_value_survives() {
    let mut builder = Builder::new();
    builder.set("u8", u8::MAX).set("i8", i8::MIN).set("u16", u16::MAX).set("i16", i16::MIN);
    builder.set("u32", u32::MAX).set("i32", i32::MIN).set("u64", u64::MAX).set("i64", i64::MIN);
    builder.set("f32", 1.5_f32).set("f64", -2.5_f64).set("bool", true).set("str", "é");
    builder
        .set("u8s", vec![1_u8])
        .set("i8s", vec![-1_i8])
        .set("u16s", vec![2_u16])
        .set("i16s", vec![-2_i16]);
    builder
        .set("u32s", vec![3_u32])
        .set("i32s", vec![-3_i32])
        .set("u64s", vec![4_u64])
        .set("i64s", vec![-4_i64]);
    builder.set("f32s", vec![0.5_f32]).set("f64s", vec![0.25_f64]).set("bools", vec![true, false]);
    builder.set("strs", vec![String::new(), "x".to_owned()]);
    builder
        .set("nested", Value::Array(Array::Array(vec![Array::U8(vec![1]), Array::String(vec![])])));
    let weights = open(builder.to_bytes()).unwrap();
    let Source::Gguf(metadata) = weights.source() else { panic!("a GGUF file") };
    assert_eq!(metadata.len(), 25);
    assert_eq!(Builder::with_metadata(metadata).to_bytes().len(), builder.to_bytes().len());
    assert_eq!(
        metadata.get("nested"),
        Some(&Value::Array(Array::Array(vec![Array::U8(vec![1]), Array::String(vec![])])))
    );
    assert_eq!(metadata.get("f64"), Some(&Value::F64(-2.5)));

    assert_eq!(metadata.str("str").unwrap(), Some("é"));
    assert_eq!(metadata.u32("u8").unwrap(), Some(255));
    assert_eq!(metadata.f32("f64").unwrap(), Some(-2.5));
    assert_eq!(metadata.f32("i8").unwrap(), Some(-128.0));
    assert_eq!(metadata.bool("bool").unwrap(), Some(true));
    assert_eq!(metadata.strings("strs").unwrap(), Some(&[String::new(), "x".to_owned()][..]));
    assert_eq!(metadata.f32s("f32s").unwrap(), Some(&[0.5][..]));
    assert_eq!(metadata.u32s("u64s").unwrap(), Some(vec![4]));
    assert_eq!(metadata.u32("missing").unwrap(), None);
    for key in ["i8", "u64", "str", "f32", "u32s"] {
        let error = metadata.u32(key).unwrap_err().to_string();
        assert!(error.contains(&format!("\"{key}\"")), "{error}");
    }
    assert!(metadata.u32s("i32s").is_err());
    assert_eq!(
        metadata.require::<u32>("missing").unwrap_err().to_string(),
        "the file has no metadata \"missing\""
    );
}

#[test]
fn the_vocabulary_is_found_by_its_keys() {
    let mut builder = Builder::new();
    builder.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.tokens", vec!["a".to_owned()]);
    builder.set("tokenizer.ggml.token_type", vec![3_i32]).set("tokenizer.ggml.eos_token_id", 0_u32);
    let weights = open(builder.to_bytes()).unwrap();
    let Source::Gguf(metadata) = weights.source() else { panic!("a GGUF file") };
    let keys = metadata.vocabulary().unwrap();
    assert_eq!(
        (keys.model, keys.tokens, keys.token_types, keys.eos),
        ("gpt2", &["a".to_owned()][..], vec![3], Some(0))
    );
    assert!(Metadata::default().vocabulary().is_err());
}

#[test]
fn files_of_version_2_are_read_and_others_refused() {
    let mut bytes = builder().to_bytes();
    bytes[4] = 2;
    assert!(open(bytes).is_ok());
    assert_eq!(problem(raw(1, 0, 0, &[])), GgufProblem::Version { version: 1 });
    assert_eq!(problem(raw(4, 0, 0, &[])), GgufProblem::Version { version: 4 });
    assert_eq!(problem(raw(3_u32.swap_bytes(), 0, 0, &[])), GgufProblem::BigEndian);
    assert_eq!(problem(b"GGML\x03\0\0\0".to_vec()), GgufProblem::Magic);
    assert_eq!(problem(vec![]), GgufProblem::Magic);
}

#[test]
fn every_truncation_is_an_error() {
    // Without the padding behind the last tensor, which carries nothing.
    let bytes = builder().to_bytes();
    let end = bytes.len() - (64 - 36);
    assert!(open(bytes[..end].to_vec()).is_ok());
    for len in 0..end {
        assert!(open(bytes[..len].to_vec()).is_err(), "{len} bytes");
    }
}

#[test]
fn lies_about_counts_take_no_memory() {
    assert!(matches!(
        problem(raw(3, u64::MAX, 0, &[0; 100])),
        GgufProblem::TooMany { what: "tensors", .. }
    ));
    assert!(matches!(
        problem(raw(3, 0, 1 << 40, &[0; 100])),
        GgufProblem::TooMany { what: "metadata keys", .. }
    ));
    let long_key = (u64::MAX).to_le_bytes();
    assert!(matches!(
        problem(raw(3, 0, 1, &[&long_key[..], &[0; 99]].concat())),
        GgufProblem::TooMany { .. }
    ));
    for (element, name) in
        [(0_u32, "numbers of an array"), (8, "strings of an array"), (9, "arrays of an array")]
    {
        let mut rest = string("k");
        rest.extend(9_u32.to_le_bytes());
        rest.extend(element.to_le_bytes());
        rest.extend((1_u64 << 61).to_le_bytes());
        rest.extend([0; 64]);
        assert!(
            matches!(problem(raw(3, 0, 1, &rest)), GgufProblem::TooMany { what, .. } if what == name)
        );
    }
    let mut value = string("k");
    value.extend(8_u32.to_le_bytes());
    value.extend((u64::MAX).to_le_bytes());
    assert!(matches!(problem(raw(3, 0, 1, &value)), GgufProblem::Truncated { .. }));
}

#[test]
fn deep_nesting_is_refused() {
    let mut rest = string("k");
    rest.extend(9_u32.to_le_bytes());
    for _ in 0..10_000 {
        rest.extend(9_u32.to_le_bytes());
        rest.extend(1_u64.to_le_bytes());
    }
    assert!(matches!(
        problem(raw(3, 0, 1, &rest)),
        GgufProblem::TooMany { what: "nested arrays", .. }
    ));
}

#[test]
fn what_cannot_be_is_refused_with_its_name() {
    let data = [0_u8; 4096];
    let check = |entries: &[Vec<u8>], expect: &str| {
        let rest = [&entries.concat()[..], &data].concat();
        let problem = problem(raw(3, entries.len() as u64, 0, &rest)).to_string();
        assert!(problem.contains(expect), "{problem}");
    };
    check(&[entry("t", &[32], 0, 0), entry("t", &[32], 0, 128)], "tensor \"t\" occurs twice");
    check(&[entry("t", &[32], 10, 0)], "\"t\" has the type 10 (Q2_K)");
    check(&[entry("t", &[32], 4, 0)], "\"t\" has the type 4 (unknown)");
    check(&[entry("t", &[32], u32::MAX, 0)], "(unknown)");
    check(&[entry("t", &[33], 2, 0)], "no whole blocks of Q4_0");
    check(&[entry("t", &[32, 0], 0, 0)], "impossible dimension");
    check(&[entry("t", &[1 << 40, 1 << 40], 0, 0)], "impossible shape");
    check(&[entry("t", &[1 << 62], 0, 0)], "impossible shape");
    check(&[entry("t", &[1, 1, 1, 1, 1], 0, 0)], "5 dimensions of a tensor");
    check(&[entry("t", &[32], 0, 16)], "not a multiple of 32");
    check(&[entry("t", &[32], 0, 1 << 20)], "past the end");
    check(&[entry("t", &[32], 0, u64::MAX - 31)], "past the end");
    check(&[entry(&"n".repeat(2000), &[32], 0, 0)], "bytes of a name");

    let mut twice = string("k");
    twice.extend([7, 0, 0, 0, 1]);
    let twice = twice.repeat(2);
    assert_eq!(problem(raw(3, 0, 2, &twice)).to_string(), "metadata key \"k\" occurs twice");
    let mut unknown = string("k");
    unknown.extend([13, 0, 0, 0, 1]);
    assert_eq!(
        problem(raw(3, 0, 1, &unknown)),
        GgufProblem::ValueType { key: "k".to_owned(), number: 13 }
    );
    let bad_text = [&1_u64.to_le_bytes()[..], &[0xff; 20]].concat();
    assert!(matches!(problem(raw(3, 0, 1, &bad_text)), GgufProblem::NotUtf8 { at: 32, .. }));
}

#[test]
fn the_alignment_is_the_files() {
    for alignment in [1_u32, 8, 64, 4096] {
        let mut builder = builder();
        builder.set("general.alignment", alignment);
        let weights = open(builder.to_bytes()).unwrap();
        assert_eq!(weights.tensor("b").unwrap().data, (0..36).collect::<Vec<u8>>());
    }
    for alignment in [0_u32, 3, 48] {
        let mut builder = builder();
        builder.set("general.alignment", alignment);
        assert_eq!(problem(builder.to_bytes()), GgufProblem::Alignment { alignment });
    }
}

#[test]
fn files_are_mapped_and_can_be_released() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let values: Vec<f32> = (0..200_000).map(|i| i as f32).collect();
    let mut builder = Builder::new();
    builder.tensor_f32("big", &[200, 1000], &values).tensor_f32("after", &[1], &[7.0]);
    builder.write_file(&path).unwrap();
    let weights = Weights::open(&path).unwrap();
    let before = weights.tensor("big").unwrap().data.to_vec();
    weights.release("big");
    weights.release("after");
    weights.release("no such tensor");
    assert_eq!(weights.tensor("big").unwrap().data, before);
    assert_eq!(weights.tensor("after").unwrap().data, 7.0_f32.to_le_bytes());

    std::fs::write(&path, b"GG").unwrap();
    let error = Weights::open(&path).unwrap_err().to_string();
    assert!(error.contains("model.gguf") && error.contains("not a valid GGUF file"), "{error}");
    std::fs::write(&path, b"").unwrap();
    assert!(Weights::open(&path).is_err());
}

proptest! {
    #[test]
    fn any_bytes_after_the_header_are_read_or_refused(
        tensors in 0..4_u64, keys in 0..4_u64, rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        // Whatever comes out, all of it must lie within the file.
        if let Ok(weights) = open(raw(3, tensors, keys, &rest)) {
            for tensor in weights.tensors() {
                prop_assert_eq!(weights.tensor(&tensor.name).unwrap().data.len(), tensor.bytes);
            }
        }
    }

    #[test]
    fn shapes_and_data_survive(
        shapes in proptest::collection::vec((1..4_usize, 1..4_usize, 0..DataType::ALL.len()), 0..6),
        seed in any::<u8>(),
    ) {
        let mut builder = Builder::new();
        let mut expect = Vec::new();
        for (index, (outer, blocks, data_type)) in shapes.into_iter().enumerate() {
            let data_type = DataType::ALL[data_type];
            let shape = [outer, blocks * data_type.block_elements()];
            let bytes = data_type.bytes_for(shape.iter().product()).unwrap();
            let data: Vec<u8> = (0..bytes).map(|at| (at as u8).wrapping_mul(seed).wrapping_add(index as u8)).collect();
            builder.tensor(&index.to_string(), data_type, &shape, data.clone());
            expect.push((shape.to_vec(), data_type, data));
        }
        let weights = open(builder.to_bytes()).unwrap();
        prop_assert_eq!(weights.tensors().len(), expect.len());
        for (index, (shape, data_type, data)) in expect.into_iter().enumerate() {
            let tensor = weights.tensor(&index.to_string()).unwrap();
            prop_assert_eq!((&tensor.info.shape, tensor.info.data_type, tensor.data), (&shape, data_type, &data[..]));
        }
    }
}
