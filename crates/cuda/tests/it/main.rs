//! Kernels against their meaning in plain code, on the GPU of this machine; without one these tests say that they are
//! skipped. The sources compile for every architecture wherever the run-time compiler is found.
#![allow(clippy::unwrap_used, reason = "a test fails where something does not work")]

mod attention;
mod compile;
mod copy;
mod faults;
mod few_rows;
mod matmul;
mod rows;
mod sample;
mod support;
