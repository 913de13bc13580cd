//! The formats, one file each. Their layouts are ggml's (`ggml-common.h`, `block_q4_0` and so on).

mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;

use half::f16;
use types::DataType;

use crate::Format;

/// The format of a quantized data type.
///
/// # Panics
/// If the data type is not quantized.
pub(crate) fn of(data_type: DataType) -> &'static Format {
    match data_type {
        DataType::Q4_0 => &q4_0::FORMAT,
        DataType::Q4_1 => &q4_1::FORMAT,
        DataType::Q5_0 => &q5_0::FORMAT,
        DataType::Q5_1 => &q5_1::FORMAT,
        DataType::Q8_0 => &q8_0::FORMAT,
        DataType::Q4_K => &q4_k::FORMAT,
        DataType::Q5_K => &q5_k::FORMAT,
        DataType::Q6_K => &q6_k::FORMAT,
        DataType::F32 | DataType::F16 | DataType::BF16 => panic!("{data_type} is not quantized"),
    }
}

/// The half-precision number at `offset`.
fn half(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Sixteen bytes of two quanta each: the low halves are weights 0 to 15, the high halves 16 to 31.
fn nibbles(bytes: &[u8], quanta: &mut [u8; 32]) {
    let (low, high) = quanta.split_at_mut(16);
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (byte & 0xf, byte >> 4);
    }
}

/// Scale and minimum (6 bits each) of sub-block `index` out of the 12 bytes that hold eight pairs: the first four
/// pairs lie in the low 6 bits of bytes 0 to 7; the other four in the halves of bytes 8 to 11 and the top bits of
/// bytes 0 to 7.
fn scale_and_minimum(packed: &[u8], index: usize) -> (f32, f32) {
    let (scale, minimum) = if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let low = packed[index + 4];
        (low & 0xf | packed[index - 4] >> 6 << 4, low >> 4 | packed[index] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}
