//! Sixteen lanes in four 128-bit registers.

use std::arch::{aarch64::*, asm};

use super::{Dots, LANES, LaneKernel, Lanes};

/// Registers that hold the lanes, and lanes in each.
const REGISTERS: usize = 4;
const WIDTH: usize = LANES / REGISTERS;

/// # Safety
/// The CPU must have the features of `Rung::Neon`.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn launch(kernel: impl LaneKernel) {
    kernel.run::<Neon>();
}

/// Only made and used inside `launch`, whose condition makes each intrinsic below sound.
#[derive(Clone, Copy)]
struct Neon([float32x4_t; REGISTERS]);

/// Wraps an intrinsic call. SAFETY: `Neon` values exist only under `launch`, which requires the feature.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: see the macro's description; pointers come from references to arrays of the full width.
        unsafe { $call }
    };
}

impl Neon {
    #[inline(always)]
    fn map(self, function: impl Fn(float32x4_t) -> float32x4_t) -> Self {
        Self(self.0.map(function))
    }

    #[inline(always)]
    fn zip(self, other: Self, function: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([function(a, e), function(b, f), function(c, g), function(d, h)])
    }

    /// Combines the registers into one: the first two with the last two, and what is left.
    #[inline(always)]
    fn halved(self, function: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> float32x4_t {
        let [a, b, c, d] = self.0;
        function(function(a, c), function(b, d))
    }

    /// Reads registers of 16-bit values and widens each.
    #[inline(always)]
    fn widened(values: &[u16; LANES], function: impl Fn(uint16x4_t) -> float32x4_t) -> Self {
        let quarter =
            |index: usize| function(intrinsic!(vld1_u16(values.as_ptr().add(index * WIDTH))));
        Self([quarter(0), quarter(1), quarter(2), quarter(3)])
    }
}

impl Lanes for Neon {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([intrinsic!(vdupq_n_f32(value)); REGISTERS])
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        let quarter = |index: usize| intrinsic!(vld1q_f32(values.as_ptr().add(index * WIDTH)));
        Self([quarter(0), quarter(1), quarter(2), quarter(3)])
    }

    #[inline(always)]
    fn load_bf16_pairs(values: &[u16; 2 * LANES]) -> [Self; 2] {
        let pairs: [uint32x4_t; REGISTERS] = std::array::from_fn(|index| {
            intrinsic!(vreinterpretq_u32_u16(vld1q_u16(values.as_ptr().add(2 * index * 4))))
        });
        let firsts = pairs.map(|pairs| intrinsic!(vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs))));
        let seconds = pairs.map(|pairs| {
            intrinsic!(vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff_0000))))
        });
        [Self(firsts), Self(seconds)]
    }

    #[inline(always)]
    fn load_f16(values: &[u16; LANES]) -> Self {
        Self::widened(values, |bits| intrinsic!(vcvt_f32_f16(vreinterpret_f16_u16(bits))))
    }

    #[inline(always)]
    fn load_i8(values: &[u8; LANES]) -> Self {
        intrinsic!({
            let bytes = vld1q_s8(values.as_ptr().cast());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            Self([
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ])
        })
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        for (index, quarter) in self.0.into_iter().enumerate() {
            intrinsic!(vst1q_f32(values.as_mut_ptr().add(index * WIDTH), quarter));
        }
    }

    #[inline(always)]
    fn store_bf16(self, values: &mut [u16; LANES]) {
        for (index, quarter) in self.0.into_iter().enumerate() {
            intrinsic!({
                let bits = vreinterpretq_u32_f32(quarter);
                let upper = vshrq_n_u32::<16>(bits);
                // Just below half of the last bit that stays, and the rest where that bit is odd.
                let odd = vandq_u32(upper, vdupq_n_u32(1));
                let half = vaddq_u32(odd, vdupq_n_u32(0x7fff));
                let nearest = vshrq_n_u32::<16>(vaddq_u32(bits, half));
                let quiet = vorrq_u32(upper, vdupq_n_u32(0x40));
                let is_number = vceqq_f32(quarter, quarter);
                let rounded = vmovn_u32(vbslq_u32(is_number, nearest, quiet));
                vst1_u16(values.as_mut_ptr().add(index * WIDTH), rounded);
            });
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(vaddq_f32(a, b)))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(vsubq_f32(a, b)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(vmulq_f32(a, b)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(vdivq_f32(a, b)))
    }

    /// The number of a pair that has one that is none, as `f32::max`.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(vmaxnmq_f32(a, b)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(vminnmq_f32(a, b)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(|a| intrinsic!(vabsq_f32(a)))
    }

    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) = (addend.0, self.0, factor.0);
        intrinsic!(Self([
            vfmaq_f32(a, e, i),
            vfmaq_f32(b, f, j),
            vfmaq_f32(c, g, k),
            vfmaq_f32(d, h, l)
        ]))
    }

    #[inline(always)]
    fn round(self) -> Self {
        self.map(|a| intrinsic!(vrndnq_f32(a)))
    }

    #[inline(always)]
    fn exp2_integer(self) -> Self {
        self.map(|a| {
            intrinsic!({
                let biased = vaddq_s32(vcvtnq_s32_f32(a), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
            })
        })
    }

    #[inline(always)]
    fn keep_where_at_least(self, left: Self, right: Self) -> Self {
        let mask = left.zip(right, |a, b| intrinsic!(vreinterpretq_f32_u32(vcgeq_f32(a, b))));
        self.zip(mask, |a, b| {
            intrinsic!({
                let bits = vandq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b));
                vreinterpretq_f32_u32(bits)
            })
        })
    }

    #[inline(always)]
    fn swap_neighbours(self) -> Self {
        self.map(|a| intrinsic!(vrev64q_f32(a)))
    }

    #[inline(always)]
    fn at_least(self, floor: Self) -> u16 {
        const LANE_BITS: [u32; WIDTH] = [1, 2, 4, 8];
        let bits = |a, b| -> u16 {
            intrinsic!(vaddvq_u32(vandq_u32(vcgeq_f32(a, b), vld1q_u32(LANE_BITS.as_ptr())))) as u16
        };
        let ([a, b, c, d], [e, f, g, h]) = (self.0, floor.0);
        bits(a, e) | bits(b, f) << 4 | bits(c, g) << 8 | bits(d, h) << 12
    }

    #[inline(always)]
    fn to_i8_groups(self) -> [i32; LANES / 4] {
        let mut out = [0; LANES / 4];
        intrinsic!({
            let words = |low, high| {
                let low = vqmovn_s32(vcvtnq_s32_f32(low));
                vqmovn_s16(vqmovn_high_s32(low, vcvtnq_s32_f32(high)))
            };
            let [a, b, c, d] = self.0;
            vst1q_s8(out.as_mut_ptr().cast(), vcombine_s8(words(a, b), words(c, d)));
        });
        out
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let four = self.halved(|a, b| intrinsic!(vaddq_f32(a, b)));
        intrinsic!({
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        })
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        intrinsic!(vmaxnmvq_f32(self.halved(|a, b| vmaxnmq_f32(a, b))))
    }
}

/// Sixteen sums. Only made and used inside `launch`, like [`Neon`].
#[derive(Clone, Copy)]
struct Sums([int32x4_t; REGISTERS]);

/// The weights of sixteen sums. Only made and used inside `launch`, like [`Neon`].
#[derive(Clone, Copy)]
struct Quanta([uint8x16_t; REGISTERS]);

/// The dot-product instruction sums four products into 32 bits. It takes both factors signed, so that bytes are halved.
impl Dots for Neon {
    type Quanta = Quanta;
    type Narrow = Sums;
    type Wide = Sums;

    const HALVES_BYTES: bool = true;
    const ROWS: usize = 4;
    const UNPACK_ROWS: usize = 16;
    const QUERIES: usize = 6;
    const SUMS: usize = 6;

    #[inline(always)]
    fn narrow_groups(_: usize) -> usize {
        8
    }

    #[inline(always)]
    fn load_quanta(bytes: &[u8; 4 * LANES]) -> Quanta {
        let quarter = |index: usize| intrinsic!(vld1q_u8(bytes.as_ptr().add(index * LANES)));
        Quanta([quarter(0), quarter(1), quarter(2), quarter(3)])
    }

    #[inline(always)]
    fn store_quanta(quanta: Quanta, bytes: &mut [u8; 4 * LANES]) {
        for (index, quarter) in quanta.0.into_iter().enumerate() {
            intrinsic!(vst1q_u8(bytes.as_mut_ptr().add(index * LANES), quarter));
        }
    }

    #[inline(always)]
    fn bits(quanta: Quanta, from: usize, to: usize, mask: u8) -> Quanta {
        let left = to as i8 - from as i8;
        Quanta(
            quanta.0.map(|a| intrinsic!(vandq_u8(vshlq_u8(a, vdupq_n_s8(left)), vdupq_n_u8(mask)))),
        )
    }

    #[inline(always)]
    fn or(a: Quanta, b: Quanta) -> Quanta {
        let ([a, b, c, d], [e, f, g, h]) = (a.0, b.0);
        intrinsic!(Quanta([vorrq_u8(a, e), vorrq_u8(b, f), vorrq_u8(c, g), vorrq_u8(d, h)]))
    }

    #[inline(always)]
    fn wide(value: i32) -> Sums {
        Sums([intrinsic!(vdupq_n_s32(value)); REGISTERS])
    }

    #[inline(always)]
    fn narrow(_: Sums) -> Sums {
        Self::wide(0)
    }

    #[inline(always)]
    fn add_products(narrow: Sums, quanta: Quanta, inputs: i32) -> Sums {
        let inputs = intrinsic!(vreinterpretq_s8_s32(vdupq_n_s32(inputs)));
        let ([a, b, c, d], [p, q, r, s]) = (narrow.0, quanta.0);
        intrinsic!(Sums([
            add_products(a, p, inputs),
            add_products(b, q, inputs),
            add_products(c, r, inputs),
            add_products(d, s, inputs)
        ]))
    }

    #[inline(always)]
    fn add_narrow(wide: Sums, narrow: Sums, shift: usize) -> Sums {
        let shift = intrinsic!(vdupq_n_s32(shift as i32));
        let ([a, b, c, d], [e, f, g, h]) = (wide.0, narrow.0);
        let add = |a, b| intrinsic!(vaddq_s32(a, vshlq_s32(b, shift)));
        Sums([add(a, e), add(b, f), add(c, g), add(d, h)])
    }

    #[inline(always)]
    fn pairs(integers: i32, others: i32) -> Sums {
        let [a, b] = [integers, others].map(i32::to_le_bytes);
        let integer = |bytes: [u8; 4], index: usize| {
            i32::from(i16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]))
        };
        Self::wide(integer(a, 0) * integer(b, 0) + integer(a, 1) * integer(b, 1))
    }

    #[inline(always)]
    fn to_floats(wide: Sums) -> Self {
        Self(wide.0.map(|a| intrinsic!(vcvtq_f32_s32(a))))
    }

    #[inline(always)]
    fn prefetch<T>(address: *const T) {
        // SAFETY: the instruction is a hint that cannot fail, whatever the address.
        unsafe {
            asm!("prfm pldl1keep, [{address}]", address = in(reg) address.cast::<u8>(),
                options(readonly, nostack, preserves_flags));
        }
    }
}

/// Adds to each of four sums the products of four quanta with four inputs: `vdotq_s32`, which Rust does not have in its
/// stable library yet. It is not declared `pure`: calls keep the order in which they are written, which needs few
/// registers at a time.
///
/// # Safety
/// The CPU must have the dot-product extension.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn add_products(mut sums: int32x4_t, quanta: uint8x16_t, inputs: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes these registers alone.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {quanta:v}.16b, {inputs:v}.16b",
            sums = inout(vreg) sums,
            quanta = in(vreg) quanta,
            inputs = in(vreg) inputs,
            options(nomem, nostack, preserves_flags),
        );
    }
    sums
}
