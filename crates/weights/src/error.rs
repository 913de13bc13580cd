//! What can go wrong with model files.

use std::path::PathBuf;

use types::{Fault, FaultKind};

use crate::resolve::Attempt;

/// Why a model file could not be found, fetched or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A tensor could not be read from its file.
    #[error("cannot read tensor \"{name}\": {source}")]
    Tensor {
        /// Its name.
        name: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A GGUF file is not valid.
    #[error("{}not a valid GGUF file: {problem}", place(path.as_ref()))]
    Gguf {
        /// The file; none for bytes in memory.
        path: Option<PathBuf>,
        /// What is wrong with it.
        problem: GgufProblem,
    },
    /// A metadata key that is needed is missing.
    #[error("the file has no metadata \"{key}\"")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value is not of the type it should be.
    #[error("the metadata \"{key}\" is {found}, not {wanted}")]
    WrongType {
        /// The key.
        key: String,
        /// What was asked for.
        wanted: &'static str,
        /// What the file has.
        found: &'static str,
    },
    /// A file of a Hugging Face folder is not valid.
    #[error("{}: {problem}", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// What was named is not a model file, folder, hub id or alias.
    #[error("\"{name}\" is not a model: {problem}")]
    UnknownModel {
        /// The name as given.
        name: String,
        /// Why it is none.
        problem: String,
    },
    /// No source had the model.
    #[error("cannot get \"{name}\"; tried:{}", attempts.iter().map(|a| format!("\n  - {a}")).collect::<String>())]
    NoSource {
        /// The name as given.
        name: String,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// A download is not the file it should be.
    #[error("checksum of {what} is {found}, expected {expected}")]
    Checksum {
        /// What was downloaded.
        what: String,
        /// SHA-256 expected, in hexadecimal.
        expected: String,
        /// SHA-256 found, in hexadecimal.
        found: String,
    },
    /// A download ended early or went wrong.
    #[error("cannot download {what}: {problem}")]
    Download {
        /// What was being downloaded.
        what: String,
        /// What went wrong.
        problem: String,
    },
}

/// What is wrong with a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufProblem {
    /// It does not begin with the magic bytes.
    #[error("it does not begin with \"GGUF\"")]
    Magic,
    /// It is written for machines of the other byte order.
    #[error("it is big-endian; only little-endian files are supported")]
    BigEndian,
    /// Its version is not known.
    #[error("version {version} is not supported (supported: 2 and 3)")]
    Version {
        /// The version.
        version: u32,
    },
    /// It ends in the middle of something.
    #[error("it ends within {what}, at byte {at} of {size}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where.
        at: usize,
        /// Size of the file.
        size: usize,
    },
    /// It states more of something than it could hold, or than is allowed.
    #[error("it states {count} {what}, more than the {max} that are possible here")]
    TooMany {
        /// What it counts.
        what: &'static str,
        /// How many it states.
        count: u64,
        /// How many are possible.
        max: u64,
    },
    /// A text is not UTF-8.
    #[error("{what} at byte {at} is not UTF-8")]
    NotUtf8 {
        /// What the text is.
        what: &'static str,
        /// Where it begins.
        at: usize,
    },
    /// The type of a metadata value is not known.
    #[error("metadata \"{key}\" has the unknown value type {number}")]
    ValueType {
        /// The key.
        key: String,
        /// The number of the type.
        number: u32,
    },
    /// Something is there twice.
    #[error("{what} \"{name}\" occurs twice")]
    Duplicate {
        /// What it is.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The alignment is not a power of two.
    #[error("its alignment is {alignment}, not a power of two")]
    Alignment {
        /// The alignment.
        alignment: u32,
    },
    /// The format of a tensor's elements is not supported.
    #[error("tensor \"{tensor}\" has the type {number} ({name}), which is not supported")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The number of the type.
        number: u32,
        /// The name of the type.
        name: &'static str,
    },
    /// A tensor's place or shape cannot be.
    #[error("tensor \"{tensor}\" {problem}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What cannot be.
        problem: String,
    },
}

fn place(path: Option<&PathBuf>) -> String {
    path.map(|path| format!("{}: ", path.display())).unwrap_or_default()
}

impl From<GgufProblem> for Error {
    fn from(problem: GgufProblem) -> Self {
        Self::Gguf { path: None, problem }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::UnknownModel { .. } => FaultKind::NotFound,
            _ => FaultKind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}
