//! AVX2: as many sums as sixteen registers hold beside their operands.

use std::{
    arch::{asm, x86_64::*},
    hint::black_box,
};

/// Products of 8 bits in a register, two operations each.
const INT8_OPERATIONS: u64 = 2 * 32;

/// The same value, of which the compiler knows nothing: it cannot take a product with it out of a loop. Costs no
/// instruction.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn opaque(mut value: __m256i) -> __m256i {
    // SAFETY: no instruction, so nothing is changed.
    unsafe {
        asm!("/* {} */", inout(ymm_reg) value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// The operations done.
#[target_feature(enable = "avx2,fma")]
pub(super) fn f32(rounds: u64) -> u64 {
    const SUMS: usize = 12;
    // Sums go towards 1 and stay ordinary numbers.
    let (factor, addend) = black_box((_mm256_set1_ps(0.75), _mm256_set1_ps(0.25)));
    let mut sums = [_mm256_setzero_ps(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, addend);
        }
    }
    black_box(sums);
    rounds * SUMS as u64 * 2 * 8
}

/// The operations done: `vpmaddubsw`, `vpmaddwd` with ones, `vpaddd`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn int8(rounds: u64) -> u64 {
    const SUMS: usize = 10;
    let (mut weights, inputs) = black_box((_mm256_set1_epi8(5), _mm256_set1_epi8(3)));
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            weights = opaque(weights);
            let products = _mm256_madd_epi16(_mm256_maddubs_epi16(weights, inputs), ones);
            *sum = _mm256_add_epi32(*sum, products);
        }
    }
    black_box(sums);
    rounds * SUMS as u64 * INT8_OPERATIONS
}

/// The operations done: `vpdpbusd`.
#[target_feature(enable = "avx2,fma,avxvnni")]
pub(super) fn int8_vnni(rounds: u64) -> u64 {
    const SUMS: usize = 12;
    let (weights, inputs) = black_box((_mm256_set1_epi8(5), _mm256_set1_epi8(3)));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, weights, inputs);
        }
    }
    black_box(sums);
    rounds * SUMS as u64 * INT8_OPERATIONS
}

/// The operations done: `vpmaddubsw`, `vpaddw`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn int8_narrow(rounds: u64) -> u64 {
    const SUMS: usize = 12;
    let (mut weights, inputs) = black_box((_mm256_set1_epi8(5), _mm256_set1_epi8(3)));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            weights = opaque(weights);
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(weights, inputs));
        }
    }
    black_box(sums);
    rounds * SUMS as u64 * INT8_OPERATIONS
}
