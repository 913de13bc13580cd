//! Q4_1: 32 weights, a scale, a minimum and 4 bits each; `weight = scale × quantum + minimum`.
//!
//! Bytes: scale (half), minimum (half), 16 × two quanta.

use kernels::linear::{QuantizedLayout, Scales, UnpackedBlock, Zero};

use super::{half, nibbles};
use crate::Format;

pub(crate) const FORMAT: Format = Format {
    layout: QuantizedLayout { bits: 4, scale_block: 32, scales: Scales::Half, zero: Zero::Minimum },
    unpack,
    dequantise,
};

fn unpack(block: &[u8], _: usize, target: &mut UnpackedBlock) {
    target.scales[0] = half(block, 0);
    target.minimum = half(block, 2);
    nibbles(&block[4..], &mut target.quanta);
}

fn dequantise(block: &[u8], target: &mut [f32]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for index in 0..16 {
        let byte = block[4 + index];
        target[index] = scale * f32::from(byte % 16) + minimum;
        target[index + 16] = scale * f32::from(byte / 16) + minimum;
    }
}
