//! How text is cut into words before merging, by the names that GGUF files use.
//!
//! The patterns are part of the models: with another, the same text becomes other tokens than in training.

use tokenizers::{
    NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    normalizers::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use crate::Error;

/// GPT-2's pattern.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3_CJK: &str = "[一-龥぀-ゟ゠-ヿ]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// One step of cutting.
enum Cut {
    /// Matches of a pattern are pieces of their own.
    Pattern(&'static str),
    /// Each digit is a piece of its own.
    SingleDigits,
}

/// A way of cutting, with what goes along with it.
struct Scheme {
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// Text is brought to Unicode's composed form first.
    composes: bool,
    /// A piece that is a token is that token, whatever the merges say.
    ignores_merges: bool,
    adds_bos: bool,
}

const PLAIN: Scheme =
    Scheme { names: &[], cuts: &[], composes: false, ignores_merges: false, adds_bos: false };

const SCHEMES: &[Scheme] = &[
    Scheme {
        names: &["gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jina-en", "roberta-bpe"],
        cuts: &[Cut::Pattern(GPT2)],
        ..PLAIN
    },
    Scheme {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        cuts: &[Cut::SingleDigits, Cut::Pattern(GPT2)],
        ..PLAIN
    },
    Scheme {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "smaug-bpe"],
        cuts: &[Cut::Pattern(LLAMA3)],
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    Scheme { names: &["dbrx"], cuts: &[Cut::Pattern(LLAMA3)], ..PLAIN },
    Scheme {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        cuts: &[Cut::Pattern(QWEN2)],
        composes: true,
        ..PLAIN
    },
    Scheme { names: &["stablelm2"], cuts: &[Cut::Pattern(QWEN2)], ..PLAIN },
    Scheme {
        names: &["tekken"],
        cuts: &[Cut::Pattern(TEKKEN)],
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    Scheme { names: &["gpt-4o"], cuts: &[Cut::Pattern(GPT4O)], ..PLAIN },
    Scheme {
        names: &["deepseek-coder"],
        cuts: &[
            Cut::Pattern(r"[\r\n]"),
            Cut::Pattern(r"\s?\p{L}+"),
            Cut::Pattern(r"\s?\p{P}+"),
            Cut::Pattern("[一-龥ࠀ-一가-퟿]+"),
            Cut::SingleDigits,
        ],
        ..PLAIN
    },
    Scheme {
        names: &["deepseek-v3"],
        cuts: &[Cut::Pattern(r"\p{N}{1,3}"), Cut::Pattern(DEEPSEEK3_CJK), Cut::Pattern(DEEPSEEK3)],
        ..PLAIN
    },
    Scheme {
        names: &["default"],
        cuts: &[
            Cut::Pattern(r"[\p{P}\$\+<=>\^~\|]+"),
            Cut::Pattern(GPT2),
            Cut::Pattern(r"\p{N}+"),
            Cut::Pattern("[0-9][0-9][0-9]"),
        ],
        ..PLAIN
    },
];

/// What a pre-tokenizer's name stands for.
pub(super) struct PreTokenizer {
    pub(super) pre_tokenizer: PreTokenizerWrapper,
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) ignores_merges: bool,
    pub(super) adds_bos: bool,
}

/// The pre-tokenizer with this name.
pub(super) fn by_name(name: &str) -> Result<PreTokenizer, Error> {
    let scheme = SCHEMES.iter().find(|scheme| scheme.names.contains(&name)).ok_or_else(|| {
        let supported: Vec<&str> =
            SCHEMES.iter().flat_map(|scheme| scheme.names).copied().collect();
        Error::UnknownPreTokenizer { name: name.to_owned(), supported: supported.join(", ") }
    })?;
    let mut steps = scheme.cuts.iter().map(cut).collect::<Result<Vec<_>, _>>()?;
    // Last, bytes become characters.
    steps.push(ByteLevel::new(false, true, false).into());
    Ok(PreTokenizer {
        pre_tokenizer: Sequence::new(steps).into(),
        normalizer: scheme.composes.then(|| NFC.into()),
        ignores_merges: scheme.ignores_merges,
        adds_bos: scheme.adds_bos,
    })
}

fn cut(cut: &Cut) -> Result<PreTokenizerWrapper, Error> {
    Ok(match cut {
        Cut::SingleDigits => Digits::new(true).into(),
        Cut::Pattern(pattern) => {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|source| Error::Tokenizers {
                    action: "compiling a pre-tokenizer's pattern",
                    source,
                })?
                .into()
        }
    })
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::*;

    fn check(name: &str, text: &str, expect: &[&str]) {
        let mut cut = PreTokenizedString::from(text);
        by_name(name).unwrap().pre_tokenizer.pre_tokenize(&mut cut).unwrap();
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let pieces: Vec<&str> =
            splits.into_iter().map(|(_, (start, end), _)| &text[start..end]).collect();
        assert_eq!(pieces, expect, "{name}");
    }

    #[test]
    fn every_scheme_loses_nothing() {
        let text = "Hello  world's 12345 été 日本語\r\n\n\t<tag> a_b! ٣٤ 👩‍👦 \u{3000} x ";
        for name in SCHEMES.iter().flat_map(|scheme| scheme.names) {
            let mut cut = PreTokenizedString::from(text);
            by_name(name).unwrap().pre_tokenizer.pre_tokenize(&mut cut).unwrap();
            let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let joined: String =
                splits.into_iter().map(|(_, (start, end), _)| &text[start..end]).collect();
            assert_eq!(joined, text, "{name}");
        }
    }

    #[test]
    fn schemes_cut_as_their_models_learned() {
        check("gpt-2", "It's 123  times", &["It", "'s", " 123", " ", " times"]);
        check("smollm", "It's 12  times", &["It", "'s", " ", "1", "2", " ", " times"]);
        check("llama-bpe", "IT'S 12345\n\n x", &["IT", "'S", " ", "123", "45", "\n\n", " x"]);
        check("qwen2", "it's 123\n", &["it", "'s", " ", "1", "2", "3", "\n"]);
        check("tekken", "helloWorld 12", &["hello", "World", " ", "1", "2"]);
        check("gpt-4o", "helloWorld's 1234", &["hello", "World's", " ", "123", "4"]);
        check("deepseek-v3", "a1234日本 b", &["a", "123", "4", "日本", " b"]);
        check("deepseek-coder", "ab, 12\n", &["ab", ",", " ", "1", "2", "\n"]);
    }

    #[test]
    fn unknown_names_are_refused() {
        let error = by_name("klingon").err().unwrap().to_string();
        assert!(error.contains("\"klingon\"") && error.contains("smollm"), "{error}");
    }
}
