//! NVIDIA GPUs: memory, streams, graphs, run-time compilation, matrix products and the kernels.
//!
//! Nothing of NVIDIA's is needed to build this; its libraries are found when a GPU is opened. Kernels are CUDA C++ text
//! in this crate and are compiled for the very GPU at hand. This crate knows no model and no request.
//!
//! A kernel may be put into a stream only with buffers that are large enough and live until it is done: the functions
//! in [`kernels`] check the first with their arguments' shapes, and whoever owns the stream sees to the second.
#![allow(
    unsafe_code,
    reason = "every call of a driver is foreign; each stands behind a checked function or states its condition"
)]

mod compile;
mod error;
mod gpu;
pub mod kernels;
mod launch;
mod libraries;
mod matmul;
mod memory;
mod stream;

pub use compile::{Compiler, Unit};
pub use error::Error;
pub use gpu::{Gpu, Properties};
pub use launch::{Arguments, Kernel, Module, Shape};
pub use matmul::{Multiplier, Operands, OutputType, Product};
pub use memory::{Address, DeviceBuffer, PinnedBuffer, Plain};
pub use stream::{Event, Graph, Stream};
