//! Q5_K: as Q4_K, with a fifth bit for each weight.
//!
//! Bytes: scale (half), minimum (half), 12 of sub-scales and sub-minimums, 32 of fifth bits (sub-block `s` has bit
//! `s`), 4 × 32 of two times four bits.

use kernels::linear::{QuantizedLayout, Scales, UnpackedBlock, Zero};

use super::{half, scale_and_minimum};
use crate::Format;

pub(crate) const FORMAT: Format = Format {
    layout: QuantizedLayout {
        bits: 5,
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
    let fifths = &block[16..48];
    let bytes = &block[48 + part / 2 * 32..][..32];
    for ((quantum, byte), fifth) in target.quanta.iter_mut().zip(bytes).zip(fifths) {
        *quantum = byte >> (part % 2 * 4) & 0xf | (fifth >> part & 1) << 4;
    }
}

fn dequantise(block: &[u8], target: &mut [f32]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for (pair, target) in target.chunks_exact_mut(64).enumerate() {
        let (low_scale, low_minimum) = scale_and_minimum(&block[4..16], 2 * pair);
        let (high_scale, high_minimum) = scale_and_minimum(&block[4..16], 2 * pair + 1);
        for index in 0..32 {
            let byte = u32::from(block[48 + pair * 32 + index]);
            let fifths = u32::from(block[16 + index]);
            let low = byte % 16 + 16 * (fifths >> (2 * pair) & 1);
            let high = byte / 16 + 16 * (fifths >> (2 * pair + 1) & 1);
            target[index] = scale * low_scale * low as f32 - minimum * low_minimum;
            target[index + 32] = scale * high_scale * high as f32 - minimum * high_minimum;
        }
    }
}
