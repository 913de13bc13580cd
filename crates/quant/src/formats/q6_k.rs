//! Q6_K: 256 weights in sixteen sub-blocks of 16, each with a signed 8-bit scale;
//! `weight = scale × sub-scale × (quantum - 32)`.
//!
//! Bytes: 128 of low four bits, 64 of high two bits, 16 sub-scales, scale (half). Each half of the block (128
//! weights) has 64 bytes of low bits and 32 of high bits; quarter `q` of it takes low bits from bytes `32 × (q mod
//! 2)..`, their low half if `q < 2` and their high half otherwise, and bits `2 q` and `2 q + 1` of the high ones.

use kernels::linear::{QuantizedLayout, Scales, UnpackedBlock, Zero};

use super::half;
use crate::Format;

pub(crate) const FORMAT: Format = Format {
    layout: QuantizedLayout {
        bits: 6,
        scale_block: 16,
        scales: Scales::Nested,
        zero: Zero::Point(32),
    },
    unpack,
    dequantise,
};

fn unpack(block: &[u8], part: usize, target: &mut UnpackedBlock) {
    let (half_block, quarter) = (part / 4, part % 4);
    let low = &block[half_block * 64 + quarter % 2 * 32..][..32];
    let high = &block[128 + half_block * 32..][..32];
    for ((quantum, low), high) in target.quanta.iter_mut().zip(low).zip(high) {
        *quantum = low >> (quarter / 2 * 4) & 0xf | (high >> (2 * quarter) & 3) << 4;
    }
    for (index, scale) in target.scales.iter_mut().enumerate() {
        *scale = f32::from(block[192 + part * 2 + index].cast_signed());
    }
    target.outer_scale = half(block, 208);
}

fn dequantise(block: &[u8], target: &mut [f32]) {
    let scale = half(block, 208);
    for (index, target) in target.iter_mut().enumerate() {
        let (half_block, within) = (index / 128, index % 128);
        let low = block[half_block * 64 + within % 64];
        let low = if within < 64 { low % 16 } else { low / 16 };
        let high = block[128 + half_block * 32 + within % 32] >> (within / 32 * 2) & 3;
        let sub_scale = block[192 + index / 16].cast_signed();
        let quantum = f32::from(low) + 16.0 * f32::from(high);
        *target = scale * f32::from(sub_scale) * (quantum - 32.0);
    }
}
