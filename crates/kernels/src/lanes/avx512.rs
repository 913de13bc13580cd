//! Sixteen lanes in one 512-bit register.

use std::arch::x86_64::*;

use super::{LANES, LaneKernel, Lanes};

/// # Safety
/// The CPU must have the features of `Rung::Avx512`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn launch(kernel: impl LaneKernel) {
    kernel.run::<Avx512>();
}

/// Only made and used inside `launch`, whose condition makes each intrinsic below sound.
#[derive(Clone, Copy)]
struct Avx512(__m512);

/// Wraps an intrinsic call. SAFETY: `Avx512` values exist only under `launch`, which requires the features.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: see the macro's description; pointers come from references to arrays of the full width.
        unsafe { $call }
    };
}

impl Lanes for Avx512 {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(intrinsic!(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        Self(intrinsic!(_mm512_loadu_ps(values.as_ptr())))
    }

    #[inline(always)]
    fn load_bf16(values: &[u16; LANES]) -> Self {
        Self(intrinsic!({
            let bits = _mm256_loadu_si256(values.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        }))
    }

    #[inline(always)]
    fn load_f16(values: &[u16; LANES]) -> Self {
        Self(intrinsic!(_mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast()))))
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        intrinsic!(_mm512_storeu_ps(values.as_mut_ptr(), self.0));
    }

    #[inline(always)]
    fn store_bf16(self, values: &mut [u16; LANES]) {
        intrinsic!({
            let bits = _mm512_castps_si512(self.0);
            let upper = _mm512_srli_epi32::<16>(bits);
            // Just below half of the last bit that stays, and the rest where that bit is odd.
            let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let nearest = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            let quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let rounded = _mm512_mask_blend_epi32(is_nan, nearest, quiet);
            _mm256_storeu_si256(values.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(rounded));
        });
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_sub_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_mul_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_div_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(intrinsic!(_mm512_abs_ps(self.0)))
    }

    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        Self(intrinsic!(_mm512_fmadd_ps(self.0, factor.0, addend.0)))
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self(intrinsic!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
            self.0
        )))
    }

    #[inline(always)]
    fn exp2_integer(self) -> Self {
        Self(intrinsic!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }))
    }

    #[inline(always)]
    fn keep_where_at_least(self, left: Self, right: Self) -> Self {
        Self(intrinsic!({
            let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(left.0, right.0);
            _mm512_maskz_mov_ps(mask, self.0)
        }))
    }

    #[inline(always)]
    fn swap_neighbours(self) -> Self {
        Self(intrinsic!(_mm512_permute_ps::<0b10_11_00_01>(self.0)))
    }

    #[inline(always)]
    fn at_least(self, floor: Self) -> u16 {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, floor.0))
    }

    #[inline(always)]
    fn to_i8(self) -> [i8; LANES] {
        let mut out = [0; LANES];
        intrinsic!({
            let narrow = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(self.0));
            _mm_storeu_si128(out.as_mut_ptr().cast(), narrow);
        });
        out
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        intrinsic!(_mm512_reduce_add_ps(self.0))
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        intrinsic!(_mm512_reduce_max_ps(self.0))
    }
}
