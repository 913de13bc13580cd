//! Sixteen float lanes: the vocabulary in which the float kernels are written once and compiled for every rung.
//!
//! A family's `lanes.rs` holds one body, generic over [`Lanes`]; [`launch`] compiles it for the rung in use. All rungs
//! work on sixteen lanes in the same order, so that a kernel's result does not depend on how many rows it is given.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use device::cpu::{Isa, Rung};

use crate::{
    linear::{PANEL, Zero, quantized::Unpacked},
    quantize::Q8Block,
};

/// How many lanes there are.
pub(crate) const LANES: usize = 16;

/// Below this `exp` is 0.
const EXP_LOWEST: f32 = -87.0;

/// Sixteen floats. Every method must be inlined into a function compiled for the rung.
pub(crate) trait Lanes: Copy {
    fn splat(value: f32) -> Self;
    fn load(values: &[f32; LANES]) -> Self;
    /// Reads sixteen pairs of bfloat16 values: the first of all pairs, and the second.
    fn load_bf16_pairs(values: &[u16; 2 * LANES]) -> [Self; 2];
    /// Reads IEEE half-precision values.
    fn load_f16(values: &[u16; LANES]) -> Self;
    /// Reads signed bytes.
    fn load_i8(values: &[u8; LANES]) -> Self;
    fn store(self, values: &mut [f32; LANES]);
    /// Writes the nearest bfloat16 values, ties to even; NaN stays NaN with its sign and upper bits, made quiet.
    fn store_bf16(self, values: &mut [u16; LANES]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// The larger of each; `other` where `self` is no number.
    fn max(self, other: Self) -> Self;
    /// The smaller of each.
    fn min(self, other: Self) -> Self;
    fn abs(self) -> Self;
    /// `self * factor + addend`, rounded once.
    fn fma(self, factor: Self, addend: Self) -> Self;
    /// The nearest integer, ties to even.
    fn round(self) -> Self;
    /// `2^self` for lanes that hold integers in `-126..=127`.
    fn exp2_integer(self) -> Self;
    /// `self` where `left >= right`, else 0.
    fn keep_where_at_least(self, left: Self, right: Self) -> Self;
    /// Every even lane exchanged with the odd one after it.
    fn swap_neighbours(self) -> Self;
    /// One bit a lane, the first lane's lowest: whether `self >= floor`.
    fn at_least(self, floor: Self) -> u16;
    /// The nearest 8-bit integers, ties to even, four in each number, the first in the lowest byte; lanes must lie in
    /// `-128..=127`.
    fn to_i8_groups(self) -> [i32; LANES / 4];
    /// The lanes of both as 8-bit integers, in groups as above, and the sums of each.
    #[inline(always)]
    fn to_i8_block(low: Self, high: Self) -> ([i32; 2 * LANES / 4], [i16; 2]) {
        let mut groups = [0; 2 * LANES / 4];
        let (low, high) = (low.round(), high.round());
        let (low_groups, high_groups) = groups.split_at_mut(LANES / 4);
        low_groups.copy_from_slice(&low.to_i8_groups());
        high_groups.copy_from_slice(&high.to_i8_groups());
        (groups, [low, high].map(|lanes| lanes.sum() as i16))
    }
    /// Sum of all lanes: halves are added until one lane is left.
    fn sum(self) -> f32;
    /// Largest of all lanes.
    fn largest(self) -> f32;

    /// e to the power of each lane, within 2 units in the last place; 0 below about -87 and for NaN, exactly 1 at 0.
    #[inline(always)]
    fn exp(self) -> Self {
        const HIGHEST: f32 = 88.0;
        let bounded = self.max(Self::splat(EXP_LOWEST)).min(Self::splat(HIGHEST));
        bounded.exp_bounded().keep_where_at_least(self, Self::splat(EXP_LOWEST))
    }

    /// The same for lanes of which none is above 88.
    #[inline(always)]
    fn exp_to_88(self) -> Self {
        let lowest = Self::splat(EXP_LOWEST);
        self.max(lowest).exp_bounded().keep_where_at_least(self, lowest)
    }

    /// The same for lanes of -87 to 88.
    #[inline(always)]
    fn exp_bounded(self) -> Self {
        // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts keeps r exact (Cody and Waite).
        let n = self.mul(Self::splat(std::f32::consts::LOG2_E)).round();
        let r = n.fma(Self::splat(-0.693_359_4), self);
        let r = n.fma(Self::splat(2.121_944_4e-4), r);
        // The Taylor series to the seventh power leaves less than 1e-8 on this range.
        let mut p = Self::splat(1.0 / 5040.0);
        for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = p.fma(r, Self::splat(coefficient));
        }
        p.mul(n.exp2_integer())
    }

    /// Reads half-precision values from their bytes.
    #[inline(always)]
    fn load_f16_bytes(bytes: &[u8; 2 * LANES]) -> Self {
        let (values, _) = bytes.as_chunks::<2>();
        Self::load_f16(&std::array::from_fn(|lane| u16::from_le_bytes(values[lane])))
    }

    /// Reads up to sixteen values; lanes beyond are 0.
    #[inline(always)]
    fn load_some(values: &[f32]) -> Self {
        match values.first_chunk() {
            Some(full) => Self::load(full),
            None => {
                let mut padded = [0.0; LANES];
                padded[..values.len()].copy_from_slice(values);
                Self::load(&padded)
            }
        }
    }

    /// Writes as many lanes as `values` has room for.
    #[inline(always)]
    fn store_some(self, values: &mut [f32]) {
        match values.first_chunk_mut() {
            Some(full) => self.store(full),
            None => {
                let mut padded = [0.0; LANES];
                self.store(&mut padded);
                let len = values.len();
                values.copy_from_slice(&padded[..len]);
            }
        }
    }
}

/// Products of 8-bit integers: sixteen sums, each of the products of four weights and four inputs at a time.
///
/// Weights are unsigned; inputs are signed and above -128. Sums are gathered in [`Self::Narrow`], which holds a few
/// groups without overflow, and then added to [`Self::Wide`]. Where the instruction set sums in 32 bits at once the two
/// are the same.
pub(crate) trait Dots: Lanes {
    /// Four weights for each of sixteen sums.
    type Quanta: Copy;
    /// Sums of a few groups.
    type Narrow: Copy;
    /// Sums in 32 bits.
    type Wide: Copy;

    /// Whether products with 8-bit weights do not fit, so that their halves are multiplied one after the other.
    const HALVES_BYTES: bool;
    /// Rows to multiply with a weight while it is in a register: as many as registers allow, a multiple of 4.
    const ROWS: usize;
    /// Rows from which it pays to unpack weights first.
    const UNPACK_ROWS: usize;
    /// Queries of attention to take together, at most.
    const QUERIES: usize;
    /// Sums of sixteen floats that registers hold, with room for what is added to them.
    const SUMS: usize;

    /// How many groups of weights below `2^bits` narrow sums hold.
    fn narrow_groups(bits: usize) -> usize;
    fn load_quanta(bytes: &[u8; 4 * LANES]) -> Self::Quanta;
    fn store_quanta(quanta: Self::Quanta, bytes: &mut [u8; 4 * LANES]);
    /// Bits `from ..` of each byte, moved to bit `to`, of which those in `mask` are kept.
    fn bits(quanta: Self::Quanta, from: usize, to: usize, mask: u8) -> Self::Quanta;
    fn or(a: Self::Quanta, b: Self::Quanta) -> Self::Quanta;
    fn wide(value: i32) -> Self::Wide;
    /// Narrow sums that `add_narrow` will bring back to `wide`.
    fn narrow(wide: Self::Wide) -> Self::Narrow;
    /// Adds the products with four inputs, the first in the lowest byte.
    fn add_products(narrow: Self::Narrow, quanta: Self::Quanta, inputs: i32) -> Self::Narrow;
    /// `wide + narrow × 2^shift`
    fn add_narrow(wide: Self::Wide, narrow: Self::Narrow, shift: usize) -> Self::Wide;
    /// Sums of the products of two integers with two others, both pairs of 16 bits in one number.
    fn pairs(integers: i32, others: i32) -> Self::Wide;
    fn to_floats(wide: Self::Wide) -> Self;
    /// Adds the products of three quads of rows with unpacked weights, which have one scale a block, to the sums of the
    /// rows: if the instruction set has a way of its own for as many rows. The additions are those of the general way.
    #[inline(always)]
    fn tile<const N: usize>(
        _weights: &[Unpacked],
        _quads: [&[Q8Block]; 3],
        _zero: Zero,
        _sums: &mut [[f32; PANEL]; N],
    ) -> bool {
        false
    }
    /// Asks for the cache line at an address, which need not be part of any object, to be fetched.
    fn prefetch<T>(address: *const T);
}

/// Products of bfloat16 values, two at a time.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only x86-64 has a rung that multiplies pairs")
)]
pub(crate) trait PairDots: Lanes {
    /// Sixteen pairs.
    type Pairs: Copy;

    fn load_pairs(values: &[u16; 2 * LANES]) -> Self::Pairs;
    /// The pairs with zero for the second of each.
    fn firsts(pairs: Self::Pairs) -> Self::Pairs;
    /// Adds to each lane the products of a pair with two factors, bfloat16 values of which the first is lowest.
    fn add_pairs(self, pairs: Self::Pairs, factors: i32) -> Self;
    /// Writes the nearest bfloat16 values, ties to even, as pairs of neighbours.
    fn store_bf16_pairs(self, pairs: &mut [i32; LANES / 2]);
    /// 2 to the power of lanes that are not above 0, as the nearest bfloat16 values but for 7 millionths; the pairs of
    /// neighbours of `first` and then those of `second`. Exactly 0 from -127 down and for what is no number.
    fn exp2_to_0(first: Self, second: Self) -> Self::Pairs;
    fn store_pairs(pairs: Self::Pairs, target: &mut [i32; LANES]);
}

/// A kernel body for rungs with [`PairDots`]. `run` must be `#[inline(always)]`.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only x86-64 has a rung that multiplies pairs")
)]
pub(crate) trait PairKernel {
    fn run<L: Lanes + Dots + PairDots>(self);
}

/// Runs a body compiled for the rung in use.
///
/// # Panics
/// If that has no products of pairs.
pub(crate) fn launch_pairs(isa: Isa, kernel: impl PairKernel) {
    match isa.rung() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` with this rung proves that the CPU has its features.
        Rung::Avx512Bf16 => unsafe { avx512::launch_pairs(kernel) },
        _ => {
            drop(kernel);
            unreachable!("the caller asks the rung")
        }
    }
}

/// A kernel body written in lanes. `run` must be `#[inline(always)]`.
pub(crate) trait LaneKernel {
    fn run<L: Lanes + Dots>(self);
}

/// Runs a body compiled for the rung in use. [`Rung::Scalar`] is not handled here: families have a `scalar.rs`.
pub(crate) fn launch(isa: Isa, kernel: impl LaneKernel) {
    match isa.rung() {
        Rung::Scalar => unreachable!("families dispatch the scalar rung to their scalar module"),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` with this rung proves that the CPU has its features.
        Rung::Avx2 => unsafe { avx2::launch(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Rung::AvxVnni => unsafe { avx2::launch_vnni(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Rung::Avx512 | Rung::Avx512Bf16 => unsafe { avx512::launch(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Rung::Neon => unsafe { neon::launch(kernel) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::pair;

    /// Sums of products with the largest weights and inputs, for each width of weights.
    #[inline(always)]
    fn check_dots<L: Lanes + Dots>(failures: &mut Vec<String>) {
        for bits in [4, 5, 6, 8] {
            let passes: &[usize] = if bits == 8 && L::HALVES_BYTES { &[0, 4] } else { &[0] };
            let largest = ((1_u32 << bits) - 1) as u8;
            let weights: [u8; 64] =
                std::array::from_fn(|index| if index < 32 { largest } else { index as u8 % 16 });
            let inputs = [-127_i8, 127, 127, 127];
            let group = i32::from_le_bytes(inputs.map(i8::cast_unsigned));
            let count = L::narrow_groups(bits).min(8);
            let mut wide = L::wide(-1000);
            for &pass in passes {
                let quanta = L::load_quanta(&weights);
                let quanta = if passes.len() == 2 { L::bits(quanta, pass, 0, 15) } else { quanta };
                let mut narrow = L::narrow(wide);
                for _ in 0..count {
                    narrow = L::add_products(narrow, quanta, group);
                }
                wide = L::add_narrow(wide, narrow, pass);
            }
            let mut out = [0.0; LANES];
            L::to_floats(L::pairs(pair([-128, 7]), pair([2032, -5]))).store(&mut out);
            if out != [-260_131.0; LANES] {
                failures.push(format!("pairs: {out:?}"));
            }
            L::to_floats(wide).store(&mut out);
            for (lane, (got, weights)) in out.iter().zip(weights.as_chunks::<4>().0).enumerate() {
                let products = weights.iter().zip(inputs);
                let dot: i32 = products.map(|(&a, b)| i32::from(a) * i32::from(b)).sum();
                let want = (dot * count as i32 - 1000) as f32;
                if *got != want {
                    failures.push(format!("{bits} bits, lane {lane}: {got}, expected {want}"));
                }
            }
        }
        let bytes: [u8; 64] = std::array::from_fn(|index| (index * 37) as u8);
        let mut out = [0; 64];
        for (from, to, mask) in [(4, 0, 0xf), (0, 4, 0x10), (6, 4, 0x30), (2, 2, 0xff)] {
            L::store_quanta(L::bits(L::load_quanta(&bytes), from, to, mask), &mut out);
            for (got, byte) in out.iter().zip(bytes) {
                let moved = if from > to { byte >> (from - to) } else { byte << (to - from) };
                // Bits of a neighbour may come in where nothing is masked off.
                if mask != 0xff && *got != moved & mask || from == to && *got != byte {
                    failures.push(format!("bits {from} to {to} of {byte} are {got}"));
                }
            }
        }
    }

    struct CheckAgainstScalar<'a> {
        failures: &'a mut Vec<String>,
    }

    impl LaneKernel for CheckAgainstScalar<'_> {
        #[inline(always)]
        fn run<L: Lanes + Dots>(self) {
            check_dots::<L>(self.failures);
            let mut check = |name: &str, input: f32, got: f32, want: f32, relative: f32| {
                if (got - want).abs() > relative * want.abs() {
                    self.failures.push(format!("{name}({input}) = {got}, expected {want}"));
                }
            };
            let mut out = [0.0_f32; LANES];
            for step in 0..4000 {
                let input = (step as f32 - 2000.0) / 22.0;
                L::splat(input).exp().store(&mut out);
                let want = if input < -87.0 { 0.0 } else { input.min(88.0).exp() };
                check("exp", input, out[7], want, 3e-7);
                L::splat(input).round().store(&mut out);
                check("round", input, out[3], input.round_ties_even(), 0.0);
                let bits = half::bf16::from_f32(input);
                L::load_bf16_pairs(&[bits.to_bits(); 2 * LANES])[1].store(&mut out);
                check("bf16", input, out[15], bits.to_f32(), 0.0);
                L::splat(input.min(88.0)).exp_to_88().store(&mut out);
                check("exp_to_88", input, out[2], want, 3e-7);
                let bits = half::f16::from_f32(input);
                L::load_f16(&[bits.to_bits(); LANES]).store(&mut out);
                check("f16", input, out[15], bits.to_f32(), 0.0);
            }
            L::splat(f32::NEG_INFINITY).exp().store(&mut out);
            check("exp", f32::NEG_INFINITY, out[0], 0.0, 0.0);
            L::splat(0.0).exp().store(&mut out);
            check("exp", 0.0, out[0], 1.0, 0.0);
            L::splat(f32::NAN).exp().store(&mut out);
            check("exp", f32::NAN, out[0], 0.0, 0.0);
            L::splat(f32::NAN).exp_to_88().store(&mut out);
            check("exp_to_88", f32::NAN, out[0], 0.0, 0.0);
            let ramp: [f32; LANES] = std::array::from_fn(|lane| lane as f32 - 7.0);
            check("sum", 0.0, L::load(&ramp).sum(), 8.0, 0.0);
            check("largest", 0.0, L::load(&ramp).largest(), 8.0, 0.0);
            let (groups, sums) = L::to_i8_block(L::load(&ramp), L::splat(-127.0));
            let wanted: Vec<i32> = L::load(&ramp)
                .to_i8_groups()
                .into_iter()
                .chain(L::splat(-127.0).to_i8_groups())
                .collect();
            let is_same = groups[..] == wanted && sums == [8, -127 * 16];
            check("to_i8_block", 0.0, f32::from(u8::from(is_same)), 1.0, 0.0);
            for (group, values) in L::load(&ramp).to_i8_groups().into_iter().enumerate() {
                for (index, value) in values.to_le_bytes().into_iter().enumerate() {
                    let lane = group * 4 + index;
                    check("to_i8", ramp[lane], f32::from(value.cast_signed()), ramp[lane], 0.0);
                }
            }
            let bytes: [u8; LANES] = std::array::from_fn(|lane| (lane * 17) as u8);
            L::load_i8(&bytes).store(&mut out);
            for (lane, byte) in bytes.into_iter().enumerate() {
                let want = f32::from(byte.cast_signed());
                check("load_i8", f32::from(byte), out[lane], want, 0.0);
            }
            L::load(&ramp).keep_where_at_least(L::load(&ramp), L::splat(2.0)).store(&mut out);
            for lane in 0..LANES {
                check(
                    "keep",
                    ramp[lane],
                    out[lane],
                    if ramp[lane] >= 2.0 { ramp[lane] } else { 0.0 },
                    0.0,
                );
            }
            check(
                "at_least",
                2.0,
                f32::from(L::load(&ramp).at_least(L::splat(2.0))),
                65_024.0,
                0.0,
            );
            let not_a_number = L::splat(f32::NAN).at_least(L::splat(f32::NEG_INFINITY));
            check("at_least", f32::NAN, f32::from(not_a_number), 0.0, 0.0);
            let pairs: [u16; 2 * LANES] =
                std::array::from_fn(|at| half::bf16::from_f32(at as f32 - 9.0).to_bits());
            for (second, lanes) in L::load_bf16_pairs(&pairs).into_iter().enumerate() {
                lanes.store(&mut out);
                for (lane, got) in out.into_iter().enumerate() {
                    let want = (2 * lane + second) as f32 - 9.0;
                    check("load_bf16_pairs", want, got, want, 0.0);
                }
            }
            L::load(&ramp).swap_neighbours().store(&mut out);
            check("swap_neighbours", ramp[8], out[8], ramp[9], 0.0);
            check("swap_neighbours", ramp[15], out[15], ramp[14], 0.0);
            L::load(&ramp).abs().store(&mut out);
            check("abs", ramp[0], out[0], 7.0, 0.0);
            L::load_some(&ramp[..5]).store(&mut out);
            check("load_some", 0.0, out[5], 0.0, 0.0);
            check("load_some", 0.0, out[4], ramp[4], 0.0);
        }
    }

    struct StoreBf16<'a> {
        values: &'a [f32; LANES],
        stored: &'a mut [u16; LANES],
    }

    impl LaneKernel for StoreBf16<'_> {
        #[inline(always)]
        fn run<L: Lanes>(self) {
            L::load(self.values).store_bf16(self.stored);
        }
    }

    /// Every upper half of a float, with lower halves around the tie.
    #[test]
    fn bf16_is_stored_as_plain_code_rounds_it() {
        for &rung in &Rung::ALL[1..] {
            let isa = Isa::detect().capped(rung);
            if isa.rung() != rung {
                eprintln!("skipped: this CPU has no {rung}");
                continue;
            }
            for lower in [0, 1, 0x4000, 0x7fff, 0x8000, 0x8001, 0xffff] {
                for first in (0..=u16::MAX).step_by(LANES) {
                    let values: [f32; LANES] = std::array::from_fn(|lane| {
                        f32::from_bits((u32::from(first) + lane as u32) << 16 | lower)
                    });
                    let want = values.map(|value| half::bf16::from_f32(value).to_bits());
                    let mut stored = [0; LANES];
                    launch(isa, StoreBf16 { values: &values, stored: &mut stored });
                    assert_eq!(stored, want, "{rung}: {values:?}");
                }
            }
        }
    }

    struct CheckPairs<'a> {
        failures: &'a mut Vec<String>,
    }

    impl PairKernel for CheckPairs<'_> {
        #[inline(always)]
        fn run<L: Lanes + Dots + PairDots>(self) {
            let mut check = |name: &str, got: [f32; LANES], want: [f32; LANES]| {
                if got != want {
                    self.failures.push(format!("{name}: {got:?}, expected {want:?}"));
                }
            };
            let mut out = [0.0; LANES];
            // Ties among them, which go to even.
            let values: [f32; LANES] = std::array::from_fn(|lane| {
                (256.0 + lane as f32 / 2.0) * 2.0_f32.powi(-(lane as i32))
            });
            let rounded = values.map(|value| half::bf16::from_f32(value).to_f32());
            let element = |pairs: &[i32], at: usize| {
                f32::from_bits((pairs[at / 2] >> (16 * (at % 2))).cast_unsigned() << 16)
            };
            let mut pairs = [0; LANES / 2];
            L::load(&values).store_bf16_pairs(&mut pairs);
            check("store_bf16_pairs", std::array::from_fn(|at| element(&pairs, at)), rounded);
            let mut powers = [0; LANES];
            for step in 0..16_000 {
                let exponents = [0, 1].map(|half| {
                    std::array::from_fn(|lane| {
                        -((step + 16_000 * half) as f32 + lane as f32 / 16.0) / 250.0
                    })
                });
                let [first, second] = exponents;
                L::store_pairs(L::exp2_to_0(L::load(&first), L::load(&second)), &mut powers);
                for (at, exponent) in exponents.as_flattened().iter().enumerate() {
                    let (got, want) = (element(&powers, at), exponent.exp2());
                    // Half a unit in the last of eight places, and the error before that.
                    let is_near = (got - want).abs() <= want * (1.0 / 256.0 + 1e-5);
                    let is_nothing = got == 0.0 && *exponent < -125.9;
                    check(
                        "exp2_to_0",
                        [f32::from(u8::from(is_near || is_nothing)); LANES],
                        [1.0; LANES],
                    );
                }
            }
            let lowest = [f32::NEG_INFINITY, f32::NAN, -127.0, -1e30];
            let lowest = std::array::from_fn(|lane| lowest[lane % 4]);
            L::store_pairs(L::exp2_to_0(L::load(&lowest), L::splat(0.0)), &mut powers);
            check("powers of 0", std::array::from_fn(|at| element(&powers, at)), [0.0; LANES]);
            check(
                "powers of 1",
                std::array::from_fn(|at| element(&powers, LANES + at)),
                [1.0; LANES],
            );
            let integers: [u16; 2 * LANES] =
                std::array::from_fn(|at| half::bf16::from_f32(at as f32 - 9.0).to_bits());
            let factors = i32::from(half::bf16::from_f32(3.0).to_bits())
                | i32::from(half::bf16::from_f32(-5.0).to_bits()) << 16;
            let line = L::load_pairs(&integers);
            L::splat(7.0).add_pairs(line, factors).store(&mut out);
            let first = |lane: usize| 7.0 + 3.0 * (2.0 * lane as f32 - 9.0);
            check(
                "add_pairs",
                out,
                std::array::from_fn(|lane| first(lane) - 5.0 * (2.0 * lane as f32 - 8.0)),
            );
            L::splat(7.0).add_pairs(L::firsts(line), factors).store(&mut out);
            check("firsts", out, std::array::from_fn(first));
        }
    }

    #[test]
    fn pairs_are_multiplied_as_plain_floats_are() {
        let isa = Isa::detect();
        if !isa.rung().has_bf16_pairs() {
            eprintln!("skipped: this CPU has no products of bfloat16 pairs");
            return;
        }
        let mut failures = Vec::new();
        launch_pairs(isa, CheckPairs { failures: &mut failures });
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[test]
    fn every_rung_computes_what_plain_floats_do() {
        for &rung in &Rung::ALL[1..] {
            let isa = Isa::detect().capped(rung);
            if isa.rung() != rung {
                eprintln!("skipped: this CPU has no {rung}");
                continue;
            }
            let mut failures = Vec::new();
            launch(isa, CheckAgainstScalar { failures: &mut failures });
            assert!(failures.is_empty(), "{rung}: {}", failures.join("\n"));
        }
    }
}
