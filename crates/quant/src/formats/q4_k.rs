//! Q4_K: 256 weights in eight sub-blocks of 32, each with a 6-bit scale and minimum;
//! `weight = scale × sub-scale × quantum - minimum × sub-minimum`.
//!
//! Bytes: scale (half), minimum (half), 12 of sub-scales and sub-minimums, 4 × 32 of two quanta: the low halves of
//! each 32 bytes are one sub-block, the high halves the next.

use kernels::linear::{QuantizedLayout, Scales, UnpackedBlock, Zero};

use super::{half, scale_and_minimum};
use crate::Format;

pub(crate) const FORMAT: Format = Format {
    layout: QuantizedLayout {
        bits: 4,
        scale_block: 32,
        scales: Scales::Nested,
        zero: Zero::Minimum,
    },
    unpack,
    dequantise,
};

fn unpack(block: &[u8], part: usize, target: &mut UnpackedBlock) {
    let (scale, minimum) = scale_and_minimum(&block[4..16], part);
    (target.scales[0], target.minimum) = (scale, minimum);
    (target.outer_scale, target.outer_minimum) = (half(block, 0), -half(block, 2));
    let bytes = &block[16 + part / 2 * 32..][..32];
    for (quantum, byte) in target.quanta.iter_mut().zip(bytes) {
        *quantum = byte >> (part % 2 * 4) & 0xf;
    }
}

fn dequantise(block: &[u8], target: &mut [f32]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for (pair, target) in target.chunks_exact_mut(64).enumerate() {
        let (low_scale, low_minimum) = scale_and_minimum(&block[4..16], 2 * pair);
        let (high_scale, high_minimum) = scale_and_minimum(&block[4..16], 2 * pair + 1);
        for index in 0..32 {
            let byte = block[16 + pair * 32 + index];
            target[index] = scale * low_scale * f32::from(byte % 16) - minimum * low_minimum;
            target[index + 32] = scale * high_scale * f32::from(byte / 16) - minimum * high_minimum;
        }
    }
}
