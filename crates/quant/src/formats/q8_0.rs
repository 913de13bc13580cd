//! Q8_0: 32 weights, a scale and 8 bits each; `weight = scale × integer`.
//!
//! Bytes: scale (half), 32 signed integers. The kernels take unsigned quanta, so that zero is at 128.

use kernels::linear::{QuantizedLayout, Scales, UnpackedBlock, Zero};

use super::half;
use crate::Format;

pub(crate) const FORMAT: Format = Format {
    layout: QuantizedLayout {
        bits: 8,
        scale_block: 32,
        scales: Scales::Half,
        zero: Zero::Point(128),
    },
    unpack,
    dequantise,
};

fn unpack(block: &[u8], _: usize, target: &mut UnpackedBlock) {
    target.scales[0] = half(block, 0);
    for (quantum, byte) in target.quanta.iter_mut().zip(&block[2..]) {
        *quantum = byte ^ 0x80;
    }
}

fn dequantise(block: &[u8], target: &mut [f32]) {
    let scale = half(block, 0);
    for (target, byte) in target.iter_mut().zip(&block[2..]) {
        *target = scale * f32::from(byte.cast_signed());
    }
}
