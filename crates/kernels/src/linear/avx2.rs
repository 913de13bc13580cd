//! Quantized weights with AVX2: each half of a panel in turn, up to four rows together.
//!
//! The 8-bit multiply-add of AVX2 sums two products into 16 saturating bits. Halves of quanta (below 16) cannot
//! reach the limit even when a whole block is summed: 8 groups × 2 × 15 × 127 = 30,480. So 8-bit quanta are taken as
//! two halves.

use std::{arch::x86_64::*, ops::Range};

use super::{BLOCK, PANEL, Q8View, QuantizedLayout, Zero};

const HALF: usize = PANEL / 2;

/// # Safety
/// The CPU must have the features of `Rung::Avx2`. `panel` must hold whole records of `layout` for all of
/// `input.width`, and `input` must hold `rows`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantized(
    layout: QuantizedLayout,
    panel: &[u8],
    input: Q8View<'_>,
    rows: Range<usize>,
    emit: &mut impl FnMut(usize, &[f32; PANEL]),
) {
    let minimum = layout.zero == Zero::Minimum;
    // SAFETY: the caller's condition is passed on.
    unsafe {
        match (layout.bits, layout.scales(), layout.wide_scales, minimum) {
            (4, 1, false, false) => all::<4, 1, false, false>(layout, panel, input, rows, emit),
            (4, 1, false, true) => all::<4, 1, false, true>(layout, panel, input, rows, emit),
            (4, 1, true, true) => all::<4, 1, true, true>(layout, panel, input, rows, emit),
            (8, 1, false, false) => all::<8, 1, false, false>(layout, panel, input, rows, emit),
            (8, 1, false, true) => all::<8, 1, false, true>(layout, panel, input, rows, emit),
            (8, 1, true, true) => all::<8, 1, true, true>(layout, panel, input, rows, emit),
            (8, 2, true, false) => all::<8, 2, true, false>(layout, panel, input, rows, emit),
            _ => unreachable!("no format has this layout: {layout:?}"),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn all<const BITS: usize, const SCALES: usize, const WIDE: bool, const MINIMUM: bool>(
    layout: QuantizedLayout,
    panel: &[u8],
    input: Q8View<'_>,
    rows: Range<usize>,
    emit: &mut impl FnMut(usize, &[f32; PANEL]),
) {
    let mut row = rows.start;
    macro_rules! some {
        ($n:literal) => {{
            let mut values = [[0.0_f32; PANEL]; $n];
            for half in 0..2 {
                // SAFETY: the caller's condition is passed on; rows `row..row + n` are within `rows`.
                unsafe {
                    tile::<BITS, SCALES, WIDE, MINIMUM, $n>(
                        layout, panel, input, row, half, &mut values,
                    );
                }
            }
            for (index, values) in values.iter().enumerate() {
                emit(row + index, values);
            }
            row += $n;
        }};
    }
    while rows.end - row >= 4 {
        some!(4);
    }
    if rows.end - row >= 2 {
        some!(2);
    }
    if rows.end - row >= 1 {
        some!(1);
    }
    debug_assert_eq!(row, rows.end);
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn tile<
    const BITS: usize,
    const SCALES: usize,
    const WIDE: bool,
    const MINIMUM: bool,
    const N: usize,
>(
    layout: QuantizedLayout,
    panel: &[u8],
    input: Q8View<'_>,
    row: usize,
    half: usize,
    output: &mut [[f32; PANEL]; N],
) {
    let blocks = input.width / BLOCK;
    let record_bytes = panel.len() / blocks;
    let quanta_bytes = PANEL * BLOCK * BITS / 8;
    let scale_bytes = PANEL * if WIDE { 4 } else { 2 };
    let point = match layout.zero {
        Zero::Point(point) => -i32::from(point),
        Zero::Minimum => 0,
    };
    let low_bits = _mm256_set1_epi8(0xf);
    let ones = _mm256_set1_epi16(1);
    let zero = _mm256_setzero_si256();
    let mut sums = [_mm256_setzero_ps(); N];
    for block in 0..blocks {
        // SAFETY: for all pointers of this loop: the record lies in the panel, and the inputs, scales and sums of
        // `N` rows from `row` on lie in `input`, by the function's condition.
        unsafe {
            let record = panel.as_ptr().add(block * record_bytes);
            let values = input.values.as_ptr().add(row * input.width + block * BLOCK);
            let four = |index: usize, group: usize| {
                let pointer = values.add(index * input.width + group * 4).cast::<i32>();
                pointer.read_unaligned()
            };
            for part in 0..SCALES {
                // Sums of products with the low and, for 8-bit quanta, the high halves of quanta.
                let mut lows = [zero; N];
                let mut highs = [zero; N];
                let groups = if BITS == 4 { BLOCK / 8 } else { BLOCK / 4 / SCALES };
                for group in part * groups..(part + 1) * groups {
                    let bytes = _mm256_loadu_si256(record.add(group * 64 + half * 32).cast());
                    let low = _mm256_and_si256(bytes, low_bits);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), low_bits);
                    for index in 0..N {
                        let inputs = _mm256_set1_epi32(four(index, group));
                        let products = _mm256_maddubs_epi16(low, inputs);
                        lows[index] = _mm256_add_epi16(lows[index], products);
                        if BITS == 4 {
                            let inputs = _mm256_set1_epi32(four(index, group + 4));
                            let products = _mm256_maddubs_epi16(high, inputs);
                            lows[index] = _mm256_add_epi16(lows[index], products);
                        } else {
                            let products = _mm256_maddubs_epi16(high, inputs);
                            highs[index] = _mm256_add_epi16(highs[index], products);
                        }
                    }
                }
                let scale = scales::<WIDE>(record.add(quanta_bytes + part * scale_bytes), half);
                for index in 0..N {
                    let mut dot = _mm256_madd_epi16(lows[index], ones);
                    if BITS == 8 {
                        let high = _mm256_madd_epi16(highs[index], ones);
                        dot = _mm256_add_epi32(dot, _mm256_slli_epi32::<4>(high));
                    }
                    if !MINIMUM {
                        let at = (row + index) * 2 * blocks + 2 * block;
                        let sums = input.sums.as_ptr().add(at);
                        let sum = if SCALES == 1 { *sums + *sums.add(1) } else { *sums.add(part) };
                        dot = _mm256_add_epi32(dot, _mm256_set1_epi32(point * sum));
                    }
                    let input_scale = *input.scales.as_ptr().add((row + index) * blocks + block);
                    let factor = _mm256_mul_ps(scale, _mm256_set1_ps(input_scale));
                    sums[index] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, sums[index]);
                }
            }
            if MINIMUM {
                let pointer = record.add(quanta_bytes + SCALES * scale_bytes);
                let minimum = scales::<WIDE>(pointer, half);
                for (index, sum) in sums.iter_mut().enumerate() {
                    let at = (row + index) * blocks + block;
                    let total = _mm256_set1_ps(*input.scaled_sums.as_ptr().add(at));
                    *sum = _mm256_fmadd_ps(minimum, total, *sum);
                }
            }
        }
    }
    for (output, sum) in output.iter_mut().zip(sums) {
        // SAFETY: a row of the output is 16 floats, of which this is one half.
        unsafe { _mm256_storeu_ps(output.as_mut_ptr().add(half * HALF), sum) };
    }
}

/// # Safety
/// Sixteen scales must be readable at `pointer`.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn scales<const WIDE: bool>(pointer: *const u8, half: usize) -> __m256 {
    // SAFETY: the caller's condition.
    unsafe {
        if WIDE {
            _mm256_loadu_ps(pointer.cast::<f32>().add(half * HALF))
        } else {
            _mm256_cvtph_ps(_mm_loadu_si128(pointer.cast::<u16>().add(half * HALF).cast()))
        }
    }
}
