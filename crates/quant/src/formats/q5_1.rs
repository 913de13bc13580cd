//! Q5_1: 32 weights, a scale, a minimum and 5 bits each; `weight = scale × quantum + minimum`.
//!
//! Bytes: scale (half), minimum (half), 4 of fifth bits (weight `i` has bit `i`), 16 × two times four bits.

use kernels::linear::{QuantizedLayout, Scales, UnpackedBlock, Zero};

use super::{half, nibbles, q5_0::add_fifth_bits};
use crate::Format;

pub(crate) const FORMAT: Format = Format {
    layout: QuantizedLayout { bits: 5, scale_block: 32, scales: Scales::Half, zero: Zero::Minimum },
    unpack,
    dequantise,
};

fn unpack(block: &[u8], _: usize, target: &mut UnpackedBlock) {
    target.scales[0] = half(block, 0);
    target.minimum = half(block, 2);
    nibbles(&block[8..], &mut target.quanta);
    add_fifth_bits(&block[4..8], &mut target.quanta);
}

fn dequantise(block: &[u8], target: &mut [f32]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    let fifths = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for index in 0..16 {
        let byte = u32::from(block[8 + index]);
        let low = byte % 16 + 16 * (fifths >> index & 1);
        let high = byte / 16 + 16 * (fifths >> (index + 16) & 1);
        target[index] = scale * low as f32 + minimum;
        target[index + 16] = scale * high as f32 + minimum;
    }
}
