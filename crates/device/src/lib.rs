//! The machine that models run on: what a CPU can do, the threads that do it, and the memory they do it in.
//!
//! This crate knows no model and no kernel. It is one of the three crates that may say `unsafe`; every use stands
//! behind a safe function or one whose condition is stated.
#![allow(
    unsafe_code,
    reason = "threads sharing buffers and aligned allocation live here, behind safe interfaces"
)]

pub mod cpu;
