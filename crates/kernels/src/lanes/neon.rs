//! Sixteen lanes in four 128-bit registers.

use std::arch::aarch64::*;

use super::{LANES, LaneKernel, Lanes};

/// Registers that hold the lanes, and lanes in each.
const REGISTERS: usize = 4;
const WIDTH: usize = LANES / REGISTERS;

/// # Safety
/// The CPU must have the features of `Rung::Neon`.
#[target_feature(enable = "neon")]
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
    fn load_bf16(values: &[u16; LANES]) -> Self {
        Self::widened(values, |bits| intrinsic!(vreinterpretq_f32_u32(vshll_n_u16::<16>(bits))))
    }

    #[inline(always)]
    fn load_f16(values: &[u16; LANES]) -> Self {
        Self::widened(values, |bits| intrinsic!(vcvt_f32_f16(vreinterpret_f16_u16(bits))))
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        for (index, quarter) in self.0.into_iter().enumerate() {
            intrinsic!(vst1q_f32(values.as_mut_ptr().add(index * WIDTH), quarter));
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
    fn to_i8(self) -> [i8; LANES] {
        let mut out = [0; LANES];
        intrinsic!({
            let words = |low, high| {
                let low = vqmovn_s32(vcvtnq_s32_f32(low));
                vqmovn_s16(vqmovn_high_s32(low, vcvtnq_s32_f32(high)))
            };
            let [a, b, c, d] = self.0;
            vst1q_s8(out.as_mut_ptr(), vcombine_s8(words(a, b), words(c, d)));
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
