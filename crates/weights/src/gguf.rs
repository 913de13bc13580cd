//! GGUF: the single-file format of llama.cpp, versions 2 and 3, little-endian.
//!
//! A file is a header, metadata (keys with typed values), a directory of tensors, and the tensors' data. Reading takes
//! the header, metadata and directory out of the file; data stays where it is.

mod metadata;
mod reader;
mod value;
mod vocabulary;
mod writer;

pub use metadata::Metadata;
pub(crate) use reader::{Directory, read};
pub use value::{Array, FromValue, Value};
pub use vocabulary::VocabularyKeys;
pub use writer::Builder;

use types::DataType;

/// Where the data begins, and each tensor, is a multiple of this unless the file says otherwise.
const ALIGNMENT_DEFAULT: u32 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";

/// The element formats by their number in files. Names only, where a format is not supported.
const TENSOR_TYPES: &[(u32, &str, Option<DataType>)] = &[
    (0, "F32", Some(DataType::F32)),
    (1, "F16", Some(DataType::F16)),
    (2, "Q4_0", Some(DataType::Q4_0)),
    (3, "Q4_1", Some(DataType::Q4_1)),
    (6, "Q5_0", Some(DataType::Q5_0)),
    (7, "Q5_1", Some(DataType::Q5_1)),
    (8, "Q8_0", Some(DataType::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", None),
    (11, "Q3_K", None),
    (12, "Q4_K", Some(DataType::Q4_K)),
    (13, "Q5_K", Some(DataType::Q5_K)),
    (14, "Q6_K", Some(DataType::Q6_K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(DataType::BF16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", None),
];

#[cfg(test)]
mod tests;
