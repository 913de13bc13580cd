//! Sixteen lanes in one 512-bit register.

use std::arch::{asm, x86_64::*};

use super::{Dots, LANES, LaneKernel, Lanes, PairDots, PairKernel};
use crate::{
    linear::{PANEL, Zero, avx512::tile, quantized::Unpacked},
    quantize::Q8Block,
};

/// # Safety
/// The CPU must have the features of `Rung::Avx512`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn launch(kernel: impl LaneKernel) {
    kernel.run::<Avx512>();
}

/// # Safety
/// The CPU must have the features of `Rung::Avx512Bf16`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn launch_pairs(kernel: impl PairKernel) {
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
    fn load_bf16_pairs(values: &[u16; 2 * LANES]) -> [Self; 2] {
        intrinsic!({
            let pairs = _mm512_loadu_si512(values.as_ptr().cast());
            let seconds = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            let firsts = _mm512_slli_epi32::<16>(pairs);
            [Self(_mm512_castsi512_ps(firsts)), Self(_mm512_castsi512_ps(seconds))]
        })
    }

    #[inline(always)]
    fn load_f16(values: &[u16; LANES]) -> Self {
        Self(intrinsic!(_mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast()))))
    }

    #[inline(always)]
    fn load_i8(values: &[u8; LANES]) -> Self {
        Self(intrinsic!({
            let bytes = _mm_loadu_si128(values.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        }))
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
    fn min(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_min_ps(self.0, other.0)))
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
    fn to_i8_groups(self) -> [i32; LANES / 4] {
        let mut out = [0; LANES / 4];
        intrinsic!({
            let narrow = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(self.0));
            _mm_storeu_si128(out.as_mut_ptr().cast(), narrow);
        });
        out
    }

    #[inline(always)]
    fn to_i8_block(low: Self, high: Self) -> ([i32; 2 * LANES / 4], [i16; 2]) {
        let mut groups = [0; 2 * LANES / 4];
        let sums = intrinsic!({
            let [low, high] =
                [low, high].map(|lanes| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(lanes.0)));
            let bytes = _mm256_set_m128i(high, low);
            _mm256_storeu_si256(groups.as_mut_ptr().cast(), bytes);
            // Sums of eight bytes without their sign, which adds 128 to each.
            let unsigned = _mm256_xor_si256(bytes, _mm256_set1_epi8(i8::MIN));
            let eights = _mm256_sad_epu8(unsigned, _mm256_setzero_si256());
            let sixteens = _mm256_add_epi64(eights, _mm256_unpackhi_epi64(eights, eights));
            let (low, high) =
                (_mm256_castsi256_si128(sixteens), _mm256_extracti128_si256::<1>(sixteens));
            [low, high].map(|sum| (_mm_cvtsi128_si32(sum) - 128 * LANES as i32) as i16)
        });
        (groups, sums)
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

/// Sixteen sums, or their weights. Only made and used inside `launch`, like [`Avx512`].
#[derive(Clone, Copy)]
struct Integers(__m512i);

/// The dot-product instruction of VNNI sums four products into 32 bits.
impl Dots for Avx512 {
    type Quanta = Integers;
    type Narrow = Integers;
    type Wide = Integers;

    const HALVES_BYTES: bool = false;
    const ROWS: usize = 12;
    const UNPACK_ROWS: usize = 48;
    const QUERIES: usize = 12;
    const SUMS: usize = 24;

    #[inline(always)]
    fn narrow_groups(_: usize) -> usize {
        8
    }

    #[inline(always)]
    fn load_quanta(bytes: &[u8; 4 * LANES]) -> Integers {
        Integers(intrinsic!(_mm512_loadu_si512(bytes.as_ptr().cast())))
    }

    #[inline(always)]
    fn store_quanta(quanta: Integers, bytes: &mut [u8; 4 * LANES]) {
        intrinsic!(_mm512_storeu_si512(bytes.as_mut_ptr().cast(), quanta.0));
    }

    #[inline(always)]
    fn bits(quanta: Integers, from: usize, to: usize, mask: u8) -> Integers {
        // The compiler knows the counts and makes constant shifts of these.
        Integers(intrinsic!({
            let right = _mm_cvtsi32_si128(from.saturating_sub(to) as i32);
            let left = _mm_cvtsi32_si128(to.saturating_sub(from) as i32);
            let moved = _mm512_sll_epi16(_mm512_srl_epi16(quanta.0, right), left);
            _mm512_and_si512(moved, _mm512_set1_epi8(mask.cast_signed()))
        }))
    }

    #[inline(always)]
    fn or(a: Integers, b: Integers) -> Integers {
        Integers(intrinsic!(_mm512_or_si512(a.0, b.0)))
    }

    #[inline(always)]
    fn wide(value: i32) -> Integers {
        Integers(intrinsic!(_mm512_set1_epi32(value)))
    }

    #[inline(always)]
    fn narrow(wide: Integers) -> Integers {
        wide
    }

    #[inline(always)]
    fn add_products(narrow: Integers, quanta: Integers, inputs: i32) -> Integers {
        intrinsic!(add_products(narrow, quanta, _mm512_set1_epi32(inputs)))
    }

    #[inline(always)]
    fn add_narrow(_: Integers, narrow: Integers, _: usize) -> Integers {
        narrow
    }

    #[inline(always)]
    fn pairs(integers: i32, others: i32) -> Integers {
        Integers(intrinsic!(_mm512_madd_epi16(
            _mm512_set1_epi32(integers),
            _mm512_set1_epi32(others)
        )))
    }

    #[inline(always)]
    fn tile<const N: usize>(
        weights: &[Unpacked],
        quads: [&[Q8Block]; 3],
        zero: Zero,
        sums: &mut [[f32; PANEL]; N],
    ) -> bool {
        let Some(sums) = sums.as_mut_slice().as_mut_array() else { return false };
        intrinsic!(tile(weights, quads, zero, sums));
        true
    }

    #[inline(always)]
    fn to_floats(wide: Integers) -> Self {
        Self(intrinsic!(_mm512_cvtepi32_ps(wide.0)))
    }

    #[inline(always)]
    fn prefetch<T>(address: *const T) {
        intrinsic!(_mm_prefetch::<_MM_HINT_T0>(address.cast()));
    }
}

impl PairDots for Avx512 {
    type Pairs = Integers;

    #[inline(always)]
    fn load_pairs(values: &[u16; 2 * LANES]) -> Integers {
        Integers(intrinsic!(_mm512_loadu_si512(values.as_ptr().cast())))
    }

    #[inline(always)]
    fn firsts(pairs: Integers) -> Integers {
        Integers(intrinsic!(_mm512_and_si512(pairs.0, _mm512_set1_epi32(0xffff))))
    }

    #[inline(always)]
    fn add_pairs(self, pairs: Integers, factors: i32) -> Self {
        intrinsic!(add_pairs(self, pairs, _mm512_set1_epi32(factors)))
    }

    #[inline(always)]
    fn store_bf16_pairs(self, pairs: &mut [i32; LANES / 2]) {
        intrinsic!({
            let nearest = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0));
            _mm256_storeu_si256(pairs.as_mut_ptr().cast(), nearest);
        });
    }

    #[inline(always)]
    fn exp2_to_0(first: Self, second: Self) -> Integers {
        Integers(intrinsic!({
            let nearest = _mm512_cvtne2ps_pbh(second.exp2_to_0().0, first.exp2_to_0().0);
            std::mem::transmute::<__m512bh, __m512i>(nearest)
        }))
    }

    #[inline(always)]
    fn store_pairs(pairs: Integers, target: &mut [i32; LANES]) {
        intrinsic!(_mm512_storeu_si512(target.as_mut_ptr().cast(), pairs.0));
    }
}

impl Avx512 {
    /// 2 to the power of lanes that are not above 0, within 7 millionths; where it is less than 2^-126, no more than
    /// that, and 0 from -127 down.
    #[inline(always)]
    fn exp2_to_0(self) -> Self {
        // Added to a small float, this leaves the nearest integer in its lowest bits.
        let integers = Self::splat(1.5 * (1 << 23) as f32);
        let bounded = self.max(Self::splat(-127.0));
        let shifted = bounded.add(integers);
        let rest = bounded.sub(shifted.sub(integers));
        // 1 at 0, and between -1/2 and 1/2 through (2^x - 1) / x at the nodes of Chebyshev.
        let mut power = Self::splat(0.009_656_711);
        for coefficient in [0.055_838_283, 0.240_225_3, 0.693_136_75, 1.0] {
            power = power.fma(rest, Self::splat(coefficient));
        }
        // The sum of exponents is at least 0. Where it is 0, so is the bfloat16 value that is made of this.
        Self(intrinsic!({
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted.0));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power.0), exponent))
        }))
    }
}

/// The multiply-add, in an order that the compiler does not change: it would take the rows one after another, so that
/// each instruction waits for the one before it.
///
/// # Safety
/// The CPU must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
unsafe fn add_products(sums: Integers, quanta: Integers, inputs: __m512i) -> Integers {
    let Integers(mut sums) = sums;
    // SAFETY: the instruction reads and writes the registers named, and no memory.
    unsafe {
        asm!(
            "vpdpbusd {sums}, {quanta}, {inputs}",
            sums = inout(zmm_reg) sums,
            quanta = in(zmm_reg) quanta.0,
            inputs = in(zmm_reg) inputs,
            options(nomem, nostack, preserves_flags)
        );
    }
    Integers(sums)
}

/// The multiply-add of pairs, likewise in the order written.
///
/// # Safety
/// The CPU must have AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
unsafe fn add_pairs(sums: Avx512, pairs: Integers, factors: __m512i) -> Avx512 {
    let Avx512(mut sums) = sums;
    // SAFETY: the instruction reads and writes the registers named, and no memory.
    unsafe {
        asm!(
            "vdpbf16ps {sums}, {pairs}, {factors}",
            sums = inout(zmm_reg) sums,
            pairs = in(zmm_reg) pairs.0,
            factors = in(zmm_reg) factors,
            options(nomem, nostack, preserves_flags)
        );
    }
    Avx512(sums)
}
