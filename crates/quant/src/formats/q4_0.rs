//! Q4_0: 32 weights, a scale and 4 bits each; `weight = scale × (quantum - 8)`.
//!
//! Bytes: scale (half), 16 × two quanta.

use kernels::linear::{QuantizedLayout, Scales, UnpackedBlock, Zero};

use super::{half, nibbles};
use crate::Format;

pub(crate) const FORMAT: Format = Format {
    layout: QuantizedLayout {
        bits: 4,
        scale_block: 32,
        scales: Scales::Half,
        zero: Zero::Point(8),
    },
    unpack,
    dequantise,
};

fn unpack(block: &[u8], _: usize, target: &mut UnpackedBlock) {
    target.scales[0] = half(block, 0);
    nibbles(&block[2..], &mut target.quanta);
}

fn dequantise(block: &[u8], target: &mut [f32]) {
    let scale = half(block, 0);
    for index in 0..16 {
        let byte = block[2 + index];
        target[index] = scale * (f32::from(byte % 16) - 8.0);
        target[index + 16] = scale * (f32::from(byte / 16) - 8.0);
    }
}
