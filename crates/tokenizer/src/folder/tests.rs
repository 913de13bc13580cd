//! Tests of folders, with small files of both kinds.

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::Tokenizer;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    fn write(&self, name: &str, value: &Value) {
        fs::write(self.0.path().join(name), value.to_string()).unwrap();
    }

    fn open(&self) -> Result<Tokenizer, Error> {
        Tokenizer::from_folder(self.0.path())
    }
}

fn added(id: u32, text: &str, special: bool) -> Value {
    json!({"id": id, "content": text, "special": special, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
}

fn byte_level() -> Value {
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "added_tokens": [added(5, "<|end|>", true), added(6, "<tool>", false)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ã": 4}, "merges": ["a b"]},
    })
}

fn sentence_piece() -> Value {
    json!({
        "version": "1.0",
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "▁": 3, "a": 4, "▁a": 5}, "merges": ["▁ a"]},
    })
}

#[test]
fn byte_level_folders() {
    let folder = Folder::new();
    folder.write("tokenizer.json", &byte_level());
    folder.write(
        "tokenizer_config.json",
        &json!({"eos_token": {"content": "<|end|>"}, "bos_token": null}),
    );
    folder.write("generation_config.json", &json!({"eos_token_id": [5, 3, 999]}));
    let tokenizer = folder.open().unwrap();
    // Not cut off, as the file's truncation would have it.
    assert_eq!(tokenizer.encode("ab ab<|end|><tool>", true).unwrap(), [3, 2, 3, 5, 6]);
    assert_eq!(tokenizer.decode(&[3, 2, 3, 5, 6], true).unwrap(), "ab ab<tool>");
    assert_eq!(tokenizer.token_bytes(4), [0xc3]);
    let special = tokenizer.special();
    assert_eq!(
        (special.bos, &special.eos[..], special.eos_text.as_deref()),
        (None, &[5, 3][..], Some("<|end|>"))
    );
}

#[test]
fn sentence_piece_folders() {
    let folder = Folder::new();
    folder.write("tokenizer.json", &sentence_piece());
    folder.write("tokenizer_config.json", &json!({"bos_token": "<s>"}));
    folder.write("config.json", &json!({"eos_token_id": 4}));
    let tokenizer = folder.open().unwrap();
    assert_eq!(tokenizer.encode("a a\n", true).unwrap(), [1, 5, 5, 2]);
    assert_eq!(tokenizer.decode(&[5, 5, 2], false).unwrap(), "a a\n");
    assert_eq!(tokenizer.special().bos, Some(1));
    assert_eq!(tokenizer.special().eos, [4]);
}

#[test]
fn decoding_is_as_the_files_decoder_does_it() {
    for (json, ids) in [
        (byte_level(), vec![2, 3, 5, 2, 6]),
        (sentence_piece(), vec![1, 5, 3, 2, 4]),
        (sentence_piece(), vec![5, 4, 3]),
    ] {
        let folder = Folder::new();
        folder.write("tokenizer.json", &json);
        let reference =
            tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
        for skip in [false, true] {
            let text = folder.open().unwrap().decode(&ids, skip).unwrap();
            // The reference strips the space of a text before it takes out special tokens' bytes, token by token; here
            // a text is stripped once, at its beginning.
            assert_eq!(text, reference.decode(&ids, skip).unwrap(), "{ids:?} {skip}");
        }
    }
}

#[test]
fn bad_folders_are_errors() {
    let folder = Folder::new();
    assert!(matches!(folder.open(), Err(Error::Read { .. })));
    folder.write("tokenizer.json", &json!({"model": 1}));
    assert!(matches!(folder.open(), Err(Error::File { .. })));
    let mut unknown = byte_level();
    unknown["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    folder.write("tokenizer.json", &unknown);
    assert!(matches!(folder.open(), Err(Error::UnknownDecoder { .. })));
    unknown["decoder"] = Value::Null;
    folder.write("tokenizer.json", &unknown);
    assert!(matches!(folder.open(), Err(Error::UnknownDecoder { .. })));
    let mut huge = byte_level();
    huge["model"]["vocab"]["x"] = json!(u32::MAX);
    folder.write("tokenizer.json", &huge);
    assert!(folder.open().unwrap_err().to_string().contains("over the limit"));
}
