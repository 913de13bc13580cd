//! What can go wrong with a tokenizer.

use std::path::PathBuf;

use types::{Fault, FaultKind, TokenId};

/// Why a tokenizer could not be built or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the model folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the model folder is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The kind of vocabulary is not known.
    #[error("tokenizer model \"{model}\" is not supported (supported: gpt2, llama)")]
    UnknownModel {
        /// The name in the file.
        model: String,
    },
    /// The pre-tokenizer is not known, so that tokens would silently be wrong.
    #[error("pre-tokenizer \"{name}\" is not supported (supported: {supported})")]
    UnknownPreTokenizer {
        /// The name in the file.
        name: String,
        /// The names that are known.
        supported: String,
    },
    /// A vocabulary contradicts itself.
    #[error("the vocabulary is not valid: {problem}")]
    Vocabulary {
        /// What is wrong.
        problem: String,
    },
    /// The way in which tokens become text is not known.
    #[error("the tokenizer's decoder is not supported: {decoder}")]
    UnknownDecoder {
        /// The decoder as the file states it.
        decoder: String,
    },
    /// The `tokenizers` crate refused.
    #[error("{action}: {source}")]
    Tokenizers {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: tokenizers::Error,
    },
    /// A token id that the vocabulary does not have.
    #[error("token id {id} is not in the vocabulary, which has {vocab_size} tokens")]
    UnknownToken {
        /// The id.
        id: TokenId,
        /// Ids are below this.
        vocab_size: usize,
    },
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::UnknownToken { .. } => FaultKind::Invalid,
            Error::Tokenizers { .. } => FaultKind::Internal,
            Error::Read { .. }
            | Error::File { .. }
            | Error::UnknownModel { .. }
            | Error::UnknownPreTokenizer { .. }
            | Error::Vocabulary { .. }
            | Error::UnknownDecoder { .. } => FaultKind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}
