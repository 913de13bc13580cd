//! Q5_0: 32 weights, a scale and 5 bits each; `weight = scale × (quantum - 16)`.
//!
//! Bytes: scale (half), 4 of fifth bits (weight `i` has bit `i`), 16 × two times four bits.

use kernels::linear::{QuantizedLayout, Scales, UnpackedBlock, Zero};

use super::{half, nibbles};
use crate::Format;

pub(crate) const FORMAT: Format = Format {
    layout: QuantizedLayout {
        bits: 5,
        scale_block: 32,
        scales: Scales::Half,
        zero: Zero::Point(16),
    },
    unpack,
    dequantise,
};

fn unpack(block: &[u8], _: usize, target: &mut UnpackedBlock) {
    target.scales[0] = half(block, 0);
    nibbles(&block[6..], &mut target.quanta);
    add_fifth_bits(&block[2..6], &mut target.quanta);
}

/// Sets bit 4 of each quantum from its bit in four bytes.
pub(super) fn add_fifth_bits(bits: &[u8], quanta: &mut [u8; 32]) {
    for (index, quantum) in quanta.iter_mut().enumerate() {
        *quantum |= (bits[index / 8] >> (index % 8) & 1) << 4;
    }
}

fn dequantise(block: &[u8], target: &mut [f32]) {
    let scale = half(block, 0);
    let fifths = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for index in 0..16 {
        let byte = u32::from(block[6 + index]);
        let low = byte % 16 + 16 * (fifths >> index & 1);
        let high = byte / 16 + 16 * (fifths >> (index + 16) & 1);
        target[index] = scale * (low as f32 - 16.0);
        target[index + 16] = scale * (high as f32 - 16.0);
    }
}
