//! AVX-512 VNNI: products and exact sums in one instruction. Each sum needs the one before it, so the compiler can take
//! nothing out of the loops.

use std::{arch::x86_64::*, hint::black_box};

/// Twice what the longest latency and two instructions a cycle need.
const SUMS: usize = 20;

/// The operations done.
#[target_feature(enable = "avx512f")]
pub(super) fn f32(rounds: u64) -> u64 {
    // Sums go towards 1 and stay ordinary numbers.
    let (factor, addend) = black_box((_mm512_set1_ps(0.75), _mm512_set1_ps(0.25)));
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, addend);
        }
    }
    black_box(sums);
    rounds * SUMS as u64 * 2 * 16
}

/// The operations done: `vdpbf16ps`.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn bf16(rounds: u64) -> u64 {
    let [ones, halves] = black_box([1.0, 0.5].map(|value| {
        let values = _mm512_set1_ps(value);
        _mm512_cvtne2ps_pbh(values, values)
    }));
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, ones, halves);
        }
    }
    black_box(sums);
    rounds * SUMS as u64 * 2 * 32
}

/// The operations done: `vpdpbusd`.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn int8(rounds: u64) -> u64 {
    let (weights, inputs) = black_box((_mm512_set1_epi8(5), _mm512_set1_epi8(3)));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, weights, inputs);
        }
    }
    black_box(sums);
    rounds * SUMS as u64 * 2 * 64
}
