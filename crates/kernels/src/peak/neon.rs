//! NEON with the dot-product extension. Each sum needs the one before it, so the compiler can take nothing out of the
//! loops.

use std::{
    arch::{aarch64::*, asm},
    hint::black_box,
};

/// What the longest latency and four instructions a cycle need.
const SUMS: usize = 20;

/// The operations done.
#[target_feature(enable = "neon")]
pub(super) fn f32(rounds: u64) -> u64 {
    // Sums go towards 2 and stay ordinary numbers.
    let (factor, addend) = black_box((vdupq_n_f32(0.5), vdupq_n_f32(1.0)));
    let mut sums = [vdupq_n_f32(0.0); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = vfmaq_f32(addend, *sum, factor);
        }
    }
    black_box(sums);
    rounds * SUMS as u64 * 2 * 4
}

/// The operations done: `sdot`.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn int8(rounds: u64) -> u64 {
    let (weights, inputs) = black_box((vdupq_n_s8(5), vdupq_n_s8(3)));
    let mut sums = [vdupq_n_s32(0); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: the instruction reads and writes these registers alone, and the function's feature has it.
            unsafe {
                asm!(
                    "sdot {sum:v}.4s, {weights:v}.16b, {inputs:v}.16b",
                    sum = inout(vreg) *sum,
                    weights = in(vreg) weights,
                    inputs = in(vreg) inputs,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
        }
    }
    black_box(sums);
    rounds * SUMS as u64 * 2 * 16
}
