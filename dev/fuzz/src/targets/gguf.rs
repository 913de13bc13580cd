//! GGUF files, and the tokenizers made of their vocabularies.

use tokenizer::{TokenKind, Tokenizer, Vocabulary};
use types::DataType;
use weights::{
    Source, Weights,
    gguf::{Array, Builder, Metadata, Value},
};

use crate::Target;

/// The target.
pub const TARGET: Target = Target {
    name: "gguf",
    feed,
    corpus,
    dictionary: &[
        b"GGUF",
        b"general.alignment",
        b"tokenizer.ggml.model",
        b"tokenizer.ggml.tokens",
        b"tokenizer.ggml.merges",
        b"tokenizer.ggml.scores",
        b"tokenizer.ggml.token_type",
        b"gpt2",
        b"llama",
        b"smollm",
        b"default",
        b"<0x41>",
        "▁".as_bytes(),
        "Ġ".as_bytes(),
    ],
    memory_bytes_max: 32 << 20,
};

fn feed(input: &[u8]) {
    let Ok(weights) = Weights::from_gguf_bytes(input.to_vec()) else { return };
    for info in weights.tensors() {
        let tensor = weights.tensor(&info.name).expect("every tensor listed is there");
        assert_eq!(tensor.data.len(), info.bytes);
        assert_eq!(info.data_type.bytes_for(info.elements()), Some(info.bytes));
        weights.release(&info.name);
    }
    let Source::Gguf(metadata) = weights.source() else { unreachable!("it is a GGUF file") };
    // What can be read can be written.
    assert!(Weights::from_gguf_bytes(Builder::with_metadata(metadata).to_bytes()).is_ok());
    if let Some(tokenizer) = vocabulary(metadata).and_then(|v| Tokenizer::from_vocabulary(v).ok()) {
        if let Ok(ids) = tokenizer.encode("Hello, 42 wörlds\n<s>", true) {
            // Ids of added tokens are always those of the vocabulary.
            let text = tokenizer.decode(&ids, false);
            assert!(text.is_ok(), "{text:?}");
        }
        for id in 0..tokenizer.vocab_size() as u32 + 1 {
            assert!(tokenizer.token_bytes(id).len() <= input.len());
        }
    }
}

fn vocabulary(metadata: &Metadata) -> Option<Vocabulary> {
    let keys = metadata.vocabulary().ok()?;
    let kinds = keys.token_types.iter().map(|number| TokenKind::from_number(*number));
    Some(Vocabulary {
        model: keys.model.to_owned(),
        pre: keys.pre.map(str::to_owned),
        tokens: keys.tokens.to_vec(),
        scores: keys.scores.to_vec(),
        kinds: kinds.collect::<Option<_>>()?,
        merges: keys.merges.to_vec(),
        bos: keys.bos,
        eos: keys.eos,
        eot: keys.eot,
        unk: keys.unk,
        pad: keys.pad,
        add_bos: keys.add_bos,
        add_eos: keys.add_eos,
        add_space_prefix: keys.add_space_prefix,
    })
}

fn corpus() -> Vec<Vec<u8>> {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
    let mut values = Builder::new();
    values.set("a", u8::MAX).set("b", -1_i64).set("c", 0.5_f32).set("d", true).set("e", "text");
    values.set("f", vec![1_u32, 2]).set("g", texts(&["x", "yy"])).set("general.alignment", 64_u32);
    values
        .set("h", Value::Array(Array::Array(vec![Array::F64(vec![1.0]), Array::Bool(vec![true])])));
    values.tensor_f32("norm", &[4], &[1.0; 4]);
    values.tensor("block", DataType::Q4_K, &[1, 256], vec![3; 144]);
    values.tensor("half", DataType::BF16, &[2, 1, 2], vec![0; 8]);

    let mut byte_level = Builder::new();
    byte_level.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", "smollm");
    byte_level.set(
        "tokenizer.ggml.tokens",
        texts(&["<s>", "H", "e", "l", "o", "Ġ", "4", "He", "ll", "Hell"]),
    );
    byte_level.set("tokenizer.ggml.token_type", vec![3_i32, 1, 1, 1, 1, 1, 1, 1, 4, 1]);
    byte_level.set("tokenizer.ggml.merges", texts(&["H e", "l l", "He ll"]));
    byte_level.set("tokenizer.ggml.bos_token_id", 0_u32).set("tokenizer.ggml.add_bos_token", true);

    let mut sentence_piece = Builder::new();
    sentence_piece.set("tokenizer.ggml.model", "llama");
    sentence_piece.set(
        "tokenizer.ggml.tokens",
        texts(&["<unk>", "<s>", "<0x0A>", "▁", "H", "e", "▁H", "▁He", "l"]),
    );
    sentence_piece
        .set("tokenizer.ggml.scores", vec![0.0_f32, 0.0, 0.0, -5.0, -4.0, -3.0, -1.0, -2.0, -6.0]);
    sentence_piece.set("tokenizer.ggml.token_type", vec![2_i32, 3, 6, 1, 1, 1, 1, 1, 1]);
    sentence_piece
        .set("tokenizer.ggml.unknown_token_id", 0_u32)
        .set("tokenizer.ggml.eos_token_id", 1_u32);

    [Builder::new(), values, byte_level, sentence_piece].map(|builder| builder.to_bytes()).into()
}
