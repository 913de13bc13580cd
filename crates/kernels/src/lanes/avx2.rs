//! Sixteen lanes in two 256-bit registers, with AVX-VNNI's products of 8-bit integers or without.

use std::arch::x86_64::*;

use super::{Dots, LANES, LaneKernel, Lanes};

/// # Safety
/// The CPU must have the features of `Rung::Avx2`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn launch(kernel: impl LaneKernel) {
    kernel.run::<Avx2<false>>();
}

/// # Safety
/// The CPU must have the features of `Rung::AvxVnni`.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn launch_vnni(kernel: impl LaneKernel) {
    kernel.run::<Avx2<true>>();
}

/// Only made and used inside `launch`, or with `VNNI` inside `launch_vnni`, whose conditions make each intrinsic below
/// sound.
#[derive(Clone, Copy)]
struct Avx2<const VNNI: bool>(__m256, __m256);

/// Wraps an intrinsic call. SAFETY: `Avx2` values exist only under `launch`, which requires the features.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: see the macro's description; pointers come from references to arrays of the full width.
        unsafe { $call }
    };
}

impl<const VNNI: bool> Avx2<VNNI> {
    #[inline(always)]
    fn zip(self, other: Self, function: impl Fn(__m256, __m256) -> __m256) -> Self {
        Self(function(self.0, other.0), function(self.1, other.1))
    }

    #[inline(always)]
    fn map(self, function: impl Fn(__m256) -> __m256) -> Self {
        Self(function(self.0), function(self.1))
    }
}

impl<const VNNI: bool> Lanes for Avx2<VNNI> {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        let half = intrinsic!(_mm256_set1_ps(value));
        Self(half, half)
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        intrinsic!(Self(_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))))
    }

    #[inline(always)]
    fn load_bf16_pairs(values: &[u16; 2 * LANES]) -> [Self; 2] {
        intrinsic!({
            let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            let (low, high) = (load(&values[..LANES]), load(&values[LANES..]));
            let firsts = (_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            let seconds = (_mm256_and_si256(low, upper), _mm256_and_si256(high, upper));
            [
                Self(_mm256_castsi256_ps(firsts.0), _mm256_castsi256_ps(firsts.1)),
                Self(_mm256_castsi256_ps(seconds.0), _mm256_castsi256_ps(seconds.1)),
            ]
        })
    }

    #[inline(always)]
    fn load_f16(values: &[u16; LANES]) -> Self {
        let half = |offset: usize| {
            intrinsic!(_mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().add(offset).cast())))
        };
        Self(half(0), half(8))
    }

    #[inline(always)]
    fn load_i8(values: &[u8; LANES]) -> Self {
        let half = |offset: usize| {
            intrinsic!({
                let bytes = _mm_loadl_epi64(values.as_ptr().add(offset).cast());
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
            })
        };
        Self(half(0), half(8))
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; LANES]) {
        intrinsic!({
            _mm256_storeu_ps(values.as_mut_ptr(), self.0);
            _mm256_storeu_ps(values.as_mut_ptr().add(8), self.1);
        });
    }

    #[inline(always)]
    fn store_bf16(self, values: &mut [u16; LANES]) {
        let rounded = |a: __m256| {
            intrinsic!({
                let bits = _mm256_castps_si256(a);
                let upper = _mm256_srli_epi32::<16>(bits);
                // Just below half of the last bit that stays, and the rest where that bit is odd.
                let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
                let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
                let nearest = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
                let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
                let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
                _mm256_blendv_epi8(nearest, quiet, is_nan)
            })
        };
        let (low, high) = (rounded(self.0), rounded(self.1));
        intrinsic!({
            // Packing works on 128-bit halves; the permutation puts the quarters back in order.
            let packed = _mm256_packus_epi32(low, high);
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            _mm256_storeu_si256(values.as_mut_ptr().cast(), packed);
        });
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(_mm256_add_ps(a, b)))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(_mm256_sub_ps(a, b)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(_mm256_mul_ps(a, b)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(_mm256_div_ps(a, b)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(_mm256_max_ps(a, b)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| intrinsic!(_mm256_min_ps(a, b)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(|a| intrinsic!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a)))
    }

    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        intrinsic!(Self(
            _mm256_fmadd_ps(self.0, factor.0, addend.0),
            _mm256_fmadd_ps(self.1, factor.1, addend.1)
        ))
    }

    #[inline(always)]
    fn round(self) -> Self {
        self.map(|a| {
            intrinsic!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
        })
    }

    #[inline(always)]
    fn exp2_integer(self) -> Self {
        self.map(|a| {
            intrinsic!({
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        })
    }

    #[inline(always)]
    fn keep_where_at_least(self, left: Self, right: Self) -> Self {
        let mask = left.zip(right, |a, b| intrinsic!(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b)));
        self.zip(mask, |a, b| intrinsic!(_mm256_and_ps(a, b)))
    }

    #[inline(always)]
    fn swap_neighbours(self) -> Self {
        self.map(|a| intrinsic!(_mm256_permute_ps::<0b10_11_00_01>(a)))
    }

    #[inline(always)]
    fn at_least(self, floor: Self) -> u16 {
        let bits = |a, b| intrinsic!(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b))) as u16;
        bits(self.0, floor.0) | bits(self.1, floor.1) << 8
    }

    #[inline(always)]
    fn to_i8_groups(self) -> [i32; LANES / 4] {
        let mut out = [0; LANES / 4];
        intrinsic!({
            // Packing works on 128-bit halves; the permutation puts the quarters back in order.
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        });
        out
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        intrinsic!({
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        intrinsic!({
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }
}

/// Two registers of integers. Only made and used inside `launch`, like [`Avx2`].
#[derive(Clone, Copy)]
struct Integers(__m256i, __m256i);

impl Integers {
    #[inline(always)]
    fn zip(self, other: Self, function: impl Fn(__m256i, __m256i) -> __m256i) -> Self {
        Self(function(self.0, other.0), function(self.1, other.1))
    }

    #[inline(always)]
    fn map(self, function: impl Fn(__m256i) -> __m256i) -> Self {
        Self(function(self.0), function(self.1))
    }
}

/// The 8-bit multiply-add sums two products into 16 saturating bits. Four-bit weights cannot reach the limit even when
/// a whole block is summed (8 groups × 2 × 15 × 127 = 30,480), five-bit ones in four groups (31,496), six-bit ones in
/// two (32,004). AVX-VNNI sums four products into 32 bits, and whole bytes fit.
impl<const VNNI: bool> Dots for Avx2<VNNI> {
    type Quanta = Integers;
    type Narrow = Integers;
    type Wide = Integers;

    const HALVES_BYTES: bool = !VNNI;
    const ROWS: usize = 4;
    const UNPACK_ROWS: usize = 16;
    const QUERIES: usize = 6;
    const SUMS: usize = 6;

    #[inline(always)]
    fn narrow_groups(bits: usize) -> usize {
        match bits {
            5 if !VNNI => 4,
            6 if !VNNI => 2,
            _ => 8,
        }
    }

    #[inline(always)]
    fn load_quanta(bytes: &[u8; 4 * LANES]) -> Integers {
        let half =
            |offset: usize| intrinsic!(_mm256_loadu_si256(bytes.as_ptr().add(offset).cast()));
        Integers(half(0), half(32))
    }

    #[inline(always)]
    fn store_quanta(quanta: Integers, bytes: &mut [u8; 4 * LANES]) {
        intrinsic!({
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), quanta.0);
            _mm256_storeu_si256(bytes.as_mut_ptr().add(32).cast(), quanta.1);
        });
    }

    #[inline(always)]
    fn bits(quanta: Integers, from: usize, to: usize, mask: u8) -> Integers {
        // The compiler knows the counts and makes constant shifts of these.
        let right = intrinsic!(_mm_cvtsi32_si128(from.saturating_sub(to) as i32));
        let left = intrinsic!(_mm_cvtsi32_si128(to.saturating_sub(from) as i32));
        quanta.map(|a| {
            intrinsic!({
                let moved = _mm256_sll_epi16(_mm256_srl_epi16(a, right), left);
                _mm256_and_si256(moved, _mm256_set1_epi8(mask.cast_signed()))
            })
        })
    }

    #[inline(always)]
    fn or(a: Integers, b: Integers) -> Integers {
        a.zip(b, |a, b| intrinsic!(_mm256_or_si256(a, b)))
    }

    #[inline(always)]
    fn wide(value: i32) -> Integers {
        let half = intrinsic!(_mm256_set1_epi32(value));
        Integers(half, half)
    }

    #[inline(always)]
    fn narrow(wide: Integers) -> Integers {
        if VNNI { wide } else { Self::wide(0) }
    }

    #[inline(always)]
    fn add_products(narrow: Integers, quanta: Integers, inputs: i32) -> Integers {
        intrinsic!({
            let inputs = _mm256_set1_epi32(inputs);
            if VNNI {
                add_products_wide(narrow, quanta, inputs)
            } else {
                add_products(narrow, quanta, inputs)
            }
        })
    }

    #[inline(always)]
    fn add_narrow(wide: Integers, narrow: Integers, shift: usize) -> Integers {
        if VNNI {
            return narrow;
        }
        wide.zip(narrow, |wide, narrow| {
            intrinsic!({
                let factor = _mm256_set1_epi16(1 << shift);
                _mm256_add_epi32(wide, _mm256_madd_epi16(narrow, factor))
            })
        })
    }

    #[inline(always)]
    fn pairs(integers: i32, others: i32) -> Integers {
        let half =
            intrinsic!(_mm256_madd_epi16(_mm256_set1_epi32(integers), _mm256_set1_epi32(others)));
        Integers(half, half)
    }

    #[inline(always)]
    fn to_floats(wide: Integers) -> Self {
        intrinsic!(Self(_mm256_cvtepi32_ps(wide.0), _mm256_cvtepi32_ps(wide.1)))
    }

    #[inline(always)]
    fn prefetch<T>(address: *const T) {
        intrinsic!(_mm_prefetch::<_MM_HINT_T0>(address.cast()));
    }
}

/// Reads sixteen values each time it is called. The compiler would read lines once and keep them between the two times
/// that attention goes through them, in registers that sums need.
///
/// # Panics
/// If there are fewer values.
///
/// # Safety
/// The CPU must have AVX2.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load(values: &[u16]) -> __m256i {
    assert!(values.len() >= LANES);
    let lanes: __m256i;
    // SAFETY: reads the values of which the length was checked.
    unsafe {
        std::arch::asm!(
            "vmovdqu {lanes}, ymmword ptr [{values}]",
            lanes = out(ymm_reg) lanes,
            values = in(reg) values.as_ptr(),
            options(readonly, nostack, preserves_flags)
        );
    }
    lanes
}

/// Two sums of four products each, of 32 bits.
///
/// # Safety
/// The CPU must have AVX-VNNI.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
unsafe fn add_products_wide(sums: Integers, quanta: Integers, inputs: __m256i) -> Integers {
    let Integers(mut first, mut second) = sums;
    // SAFETY: the instructions read and write the registers named, and no memory.
    unsafe {
        std::arch::asm!(
            "{{vex}} vpdpbusd {first}, {p}, {inputs}",
            "{{vex}} vpdpbusd {second}, {q}, {inputs}",
            p = in(ymm_reg) quanta.0,
            q = in(ymm_reg) quanta.1,
            inputs = in(ymm_reg) inputs,
            first = inout(ymm_reg) first,
            second = inout(ymm_reg) second,
            options(nomem, nostack, preserves_flags)
        );
    }
    Integers(first, second)
}

/// Two multiply-adds and two additions, in an order that the compiler does not change: it would take the rows one after
/// another, for which there are not enough registers for weights, instead of group after group.
///
/// # Safety
/// The CPU must have AVX2.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn add_products(sums: Integers, quanta: Integers, inputs: __m256i) -> Integers {
    let Integers(mut first, mut second) = sums;
    // SAFETY: the instructions read and write the registers named, and no memory.
    unsafe {
        std::arch::asm!(
            "vpmaddubsw {a}, {p}, {inputs}",
            "vpmaddubsw {b}, {q}, {inputs}",
            "vpaddw {first}, {first}, {a}",
            "vpaddw {second}, {second}, {b}",
            a = out(ymm_reg) _,
            b = out(ymm_reg) _,
            p = in(ymm_reg) quanta.0,
            q = in(ymm_reg) quanta.1,
            inputs = in(ymm_reg) inputs,
            first = inout(ymm_reg) first,
            second = inout(ymm_reg) second,
            options(nomem, nostack, preserves_flags)
        );
    }
    Integers(first, second)
}
