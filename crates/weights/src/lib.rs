//! Model files: GGUF and Hugging Face folders, read in place; and where they come from.
//!
//! Nothing in a file is trusted: every count and length is checked against the size of the file before memory is taken
//! for it, so that a truncated or hostile file gets an error, never a panic or a huge allocation.
//!
//! Tensors stay where the file has them (see [`mapping`](crate::Weights::open) for the one condition); dequantizing is
//! not done here.

mod error;
pub mod gguf;
mod huggingface;
mod mapping;
pub mod resolve;
mod tensors;

pub use error::{Error, GgufProblem};
pub use tensors::{Source, Tensor, TensorInfo, Weights};
