//! Quantized weights with AVX-512 VNNI: 64 products an instruction, up to eight rows together, so that a record is read
//! and its quanta are taken apart once for all of them.

use std::{arch::x86_64::*, ops::Range};

use super::{BLOCK, PANEL, Q8View, QuantizedLayout, ROW_TILE, SUM_BLOCK, Zero};

/// # Safety
/// The CPU must have the features of `Rung::Avx512`. `panel` must hold whole records of `layout` for all of
/// `input.width`, and `input` must hold `rows`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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
            // SAFETY: the caller's condition is passed on; rows `row..row + n` are within `rows`.
            unsafe {
                tile::<BITS, SCALES, WIDE, MINIMUM, $n>(layout, panel, input, row, &mut values);
            }
            for (index, values) in values.iter().enumerate() {
                emit(row + index, values);
            }
            row += $n;
        }};
    }
    while rows.end - row >= ROW_TILE {
        some!(8);
    }
    if rows.end - row >= 4 {
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

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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
    let low_bits = _mm512_set1_epi8(0xf);
    let mut sums = [_mm512_setzero_ps(); N];
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
                let mut dots = [_mm512_setzero_si512(); N];
                if !MINIMUM {
                    for (index, dot) in dots.iter_mut().enumerate() {
                        let at = (row + index) * 2 * blocks + 2 * block;
                        let sums = input.sums.as_ptr().add(at);
                        let sum = if SCALES == 1 { *sums + *sums.add(1) } else { *sums.add(part) };
                        *dot = _mm512_set1_epi32(point * sum);
                    }
                }
                if BITS == 4 {
                    for group in 0..BLOCK / 8 {
                        let bytes = _mm512_loadu_si512(record.add(group * 64).cast());
                        let low = _mm512_and_si512(bytes, low_bits);
                        let high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low_bits);
                        for (index, dot) in dots.iter_mut().enumerate() {
                            let inputs = _mm512_set1_epi32(four(index, group));
                            *dot = _mm512_dpbusd_epi32(*dot, low, inputs);
                        }
                        for (index, dot) in dots.iter_mut().enumerate() {
                            let inputs = _mm512_set1_epi32(four(index, group + 4));
                            *dot = _mm512_dpbusd_epi32(*dot, high, inputs);
                        }
                    }
                } else {
                    let groups = BLOCK / 4 / SCALES;
                    for group in part * groups..(part + 1) * groups {
                        let bytes = _mm512_loadu_si512(record.add(group * 64).cast());
                        for (index, dot) in dots.iter_mut().enumerate() {
                            let inputs = _mm512_set1_epi32(four(index, group));
                            *dot = _mm512_dpbusd_epi32(*dot, bytes, inputs);
                        }
                    }
                }
                let scale = scales::<WIDE>(record.add(quanta_bytes + part * scale_bytes));
                for (index, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                    let input_scale = *input.scales.as_ptr().add((row + index) * blocks + block);
                    let factor = _mm512_mul_ps(scale, _mm512_set1_ps(input_scale));
                    *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), factor, *sum);
                }
            }
            if MINIMUM {
                let minimum = scales::<WIDE>(record.add(quanta_bytes + SCALES * scale_bytes));
                for (index, sum) in sums.iter_mut().enumerate() {
                    let at = (row + index) * blocks + block;
                    let total = _mm512_set1_ps(*input.scaled_sums.as_ptr().add(at));
                    *sum = _mm512_fmadd_ps(minimum, total, *sum);
                }
            }
        }
    }
    for (output, sum) in output.iter_mut().zip(sums) {
        // SAFETY: a row of the output is 16 floats.
        unsafe { _mm512_storeu_ps(output.as_mut_ptr(), sum) };
    }
}

/// # Safety
/// Sixteen scales must be readable at `pointer`.
#[target_feature(enable = "avx512f,f16c")]
#[inline]
unsafe fn scales<const WIDE: bool>(pointer: *const u8) -> __m512 {
    // SAFETY: the caller's condition.
    unsafe {
        if WIDE {
            _mm512_loadu_ps(pointer.cast())
        } else {
            _mm512_cvtph_ps(_mm256_loadu_si256(pointer.cast()))
        }
    }
}

const _: () = assert!(ROW_TILE == 8 && BLOCK == 2 * SUM_BLOCK);
