//! Quantized weights with NEON's dot product: 16 products an instruction, up to four rows together.
//!
//! A register holds 4 inputs of 4 outputs; the four inputs of a row that they are multiplied with are picked out of a
//! register of 16. The instruction wants signed bytes: 4-bit quanta are, and 8-bit quanta become so by taking 128
//! from them, which is given back through the sums of the inputs.

use std::{
    arch::{aarch64::*, asm},
    ops::Range,
};

use super::{BLOCK, PANEL, Q8View, QuantizedLayout, SUM_BLOCK, Zero};

/// Outputs in a register.
const WIDTH: usize = 4;
/// Registers that hold a panel's outputs.
const REGISTERS: usize = PANEL / WIDTH;

/// # Safety
/// The CPU must have the features of `Rung::Neon`. `panel` must hold whole records of `layout` for all of
/// `input.width`, and `input` must hold `rows`.
#[target_feature(enable = "neon,dotprod")]
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

#[target_feature(enable = "neon,dotprod")]
unsafe fn all<const BITS: usize, const SCALES: usize, const WIDE: bool, const MINIMUM: bool>(
    layout: QuantizedLayout,
    panel: &[u8],
    input: Q8View<'_>,
    rows: Range<usize>,
    emit: &mut impl FnMut(usize, &[f32; PANEL]),
) {
    let mut row = rows.start;
    // A tile of `$n` rows and `$registers` registers of outputs: four rows take half a panel at a time, so that their
    // sums stay in registers; fewer rows take a whole one, so that there are enough sums to work on at once.
    macro_rules! some {
        ($n:literal, $registers:literal) => {{
            let mut values = [[0.0_f32; PANEL]; $n];
            for first in (0..REGISTERS).step_by($registers) {
                // SAFETY: the caller's condition is passed on; rows `row..row + n` are within `rows`.
                unsafe {
                    tile::<BITS, SCALES, WIDE, MINIMUM, $n, $registers>(
                        layout, panel, input, row, first * WIDTH, &mut values,
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
        some!(4, 2);
    }
    if rows.end - row >= 2 {
        some!(2, 4);
    }
    if rows.end - row >= 1 {
        some!(1, 4);
    }
    debug_assert_eq!(row, rows.end);
}

/// `N` rows by `R` registers of outputs from `first` on.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn tile<
    const BITS: usize,
    const SCALES: usize,
    const WIDE: bool,
    const MINIMUM: bool,
    const N: usize,
    const R: usize,
>(
    layout: QuantizedLayout,
    panel: &[u8],
    input: Q8View<'_>,
    row: usize,
    first: usize,
    output: &mut [[f32; PANEL]; N],
) {
    let blocks = input.width / BLOCK;
    let record_bytes = panel.len() / blocks;
    let quanta_bytes = PANEL * BLOCK * BITS / 8;
    let scale_bytes = PANEL * if WIDE { 4 } else { 2 };
    // What is missing from the quanta as `quanta` gives them.
    let missing = if BITS == 8 { 128 } else { 0 };
    let offset = match layout.zero {
        Zero::Point(point) => missing - i32::from(point),
        Zero::Minimum => missing,
    };
    let mut sums = [[vdupq_n_f32(0.0); R]; N];
    for block in 0..blocks {
        // SAFETY: for all pointers of this loop: the record lies in the panel, and the inputs, scales and sums of
        // `N` rows from `row` on lie in `input`, by the function's condition; outputs from `first` on fill `R`
        // registers.
        unsafe {
            let record = panel.as_ptr().add(block * record_bytes);
            let values = input.values.as_ptr().add(row * input.width + block * BLOCK);
            for part in 0..SCALES {
                let mut dots = [[vdupq_n_s32(0); R]; N];
                if BITS == 8 || !MINIMUM {
                    for (index, dots) in dots.iter_mut().enumerate() {
                        let at = (row + index) * 2 * blocks + 2 * block;
                        let sums = input.sums.as_ptr().add(at);
                        let sum = if SCALES == 1 { *sums + *sums.add(1) } else { *sums.add(part) };
                        *dots = [vdupq_n_s32(offset * sum); R];
                    }
                }
                // The halves and groups are written out, as lanes are constants of the instruction.
                macro_rules! half {
                    ($half:literal) => {
                        if SCALES == 1 || part == $half {
                            let mut inputs = [vdupq_n_s8(0); N];
                            for (index, inputs) in inputs.iter_mut().enumerate() {
                                let at = index * input.width + $half * SUM_BLOCK;
                                *inputs = vld1q_s8(values.add(at));
                            }
                            group!($half, 0, inputs);
                            group!($half, 1, inputs);
                            group!($half, 2, inputs);
                            group!($half, 3, inputs);
                        }
                    };
                }
                macro_rules! group {
                    ($half:literal, $lane:literal, $inputs:ident) => {
                        let quanta = quanta::<BITS, R>(record, $half * 4 + $lane, first);
                        for (dots, inputs) in dots.iter_mut().zip($inputs) {
                            for (dot, quanta) in dots.iter_mut().zip(quanta) {
                                *dot = add_products::<$lane>(*dot, quanta, inputs);
                            }
                        }
                    };
                }
                half!(0);
                half!(1);
                let scale = scales::<WIDE, R>(record.add(quanta_bytes + part * scale_bytes), first);
                for (index, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
                    let input_scale = *input.scales.as_ptr().add((row + index) * blocks + block);
                    for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(scale) {
                        let factor = vmulq_n_f32(scale, input_scale);
                        *sum = vfmaq_f32(*sum, vcvtq_f32_s32(dot), factor);
                    }
                }
            }
            if MINIMUM {
                let pointer = record.add(quanta_bytes + SCALES * scale_bytes);
                let minimum = scales::<WIDE, R>(pointer, first);
                for (index, sums) in sums.iter_mut().enumerate() {
                    let total = *input.scaled_sums.as_ptr().add((row + index) * blocks + block);
                    for (sum, minimum) in sums.iter_mut().zip(minimum) {
                        *sum = vfmaq_n_f32(*sum, minimum, total);
                    }
                }
            }
        }
    }
    for (output, sums) in output.iter_mut().zip(sums) {
        for (output, sum) in output[first..].as_chunks_mut::<WIDTH>().0.iter_mut().zip(sums) {
            // SAFETY: the chunk is as long as the register.
            unsafe { vst1q_f32(output.as_mut_ptr(), sum) };
        }
    }
}

/// The quanta of inputs `4 group..` of the outputs from `first` on as signed bytes: 8-bit quanta with 128 taken off.
///
/// # Safety
/// `record` must point to quanta of that many bits, and outputs from `first` on must fill `R` registers.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn quanta<const BITS: usize, const R: usize>(
    record: *const u8,
    group: usize,
    first: usize,
) -> [int8x16_t; R] {
    let mut quanta = [vdupq_n_s8(0); R];
    for (index, quanta) in quanta.iter_mut().enumerate() {
        let at = |group: usize| (group * PANEL + first + index * WIDTH) * 4;
        // SAFETY: the caller's condition.
        let load = |group: usize| unsafe { vld1q_u8(record.add(at(group))) };
        let bytes = match (BITS, group) {
            (4, 0..4) => vandq_u8(load(group), vdupq_n_u8(0xf)),
            (4, _) => vshrq_n_u8::<4>(load(group - 4)),
            _ => veorq_u8(load(group), vdupq_n_u8(0x80)),
        };
        *quanta = vreinterpretq_s8_u8(bytes);
    }
    quanta
}

/// The scales, or minimums, of the outputs from `first` on.
///
/// # Safety
/// Sixteen must be readable at `pointer`, and outputs from `first` on must fill `R` registers.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn scales<const WIDE: bool, const R: usize>(
    pointer: *const u8,
    first: usize,
) -> [float32x4_t; R] {
    let mut scales = [vdupq_n_f32(0.0); R];
    for (index, scales) in scales.iter_mut().enumerate() {
        let at = first + index * WIDTH;
        // SAFETY: the caller's condition.
        *scales = unsafe {
            if WIDE {
                vld1q_f32(pointer.cast::<f32>().add(at))
            } else {
                vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(pointer.cast::<u16>().add(at))))
            }
        };
    }
    scales
}

/// Adds to each of four sums the products of four quanta with the four inputs in lane `LANE`: `vdotq_laneq_s32`, which
/// Rust does not have in its stable library yet. It is not declared `pure`: calls keep the order in which they are
/// written, which needs few registers at a time.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn add_products<const LANE: u32>(
    mut sums: int32x4_t,
    quanta: int8x16_t,
    inputs: int8x16_t,
) -> int32x4_t {
    // SAFETY: the instruction reads and writes these registers alone, and the function's feature has it.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {quanta:v}.16b, {inputs:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            quanta = in(vreg) quanta,
            inputs = in(vreg) inputs,
            lane = const LANE,
            options(nomem, nostack, preserves_flags),
        );
    }
    sums
}

const _: () = assert!(BLOCK == 2 * SUM_BLOCK && SUM_BLOCK == 4 * 4);
