//! The computations a model is made of, one folder a family: its formula and arguments (`mod.rs`), its meaning in plain
//! code (`scalar.rs`), the faster rungs, and the cases in which every rung is compared with the meaning (`cases.rs`).
//!
//! Kernels know no model and no weight format: matrices come packed. Results depend on the rung, never on the number of
//! threads, on the other rows of a batch or on how a sequence is cut into chunks.
#![allow(
    unsafe_code,
    reason = "vector intrinsics and threads writing disjoint parts of one buffer"
)]

mod lanes;

pub mod attention;
pub mod linear;
pub mod peak;
pub mod quantize;
pub mod rmsnorm;
pub mod rope;
pub mod silu_mul;
pub mod vocabulary;

#[cfg(test)]
mod testing;
