//! Random matrices in quantized formats: any bytes are valid quanta, only the scales must be chosen.

use half::f16;
use types::DataType;

use super::values::stream;

/// Scales of a block, by the place of their bytes in it; chosen so that weights lie around 0, at most about 1/4 off.
fn scales(data_type: DataType) -> &'static [(usize, f32)] {
    match data_type {
        DataType::Q4_0 => &[(0, 1.0 / 64.0)],
        DataType::Q4_1 => &[(0, 1.0 / 64.0), (2, -1.0 / 8.0)],
        DataType::Q5_0 => &[(0, 1.0 / 128.0)],
        DataType::Q5_1 => &[(0, 1.0 / 128.0), (2, -1.0 / 8.0)],
        DataType::Q8_0 => &[(0, 1.0 / 1024.0)],
        // The scales within these are random too; the second number scales minima that are subtracted.
        DataType::Q4_K => &[(0, 1.0 / 4096.0), (2, 1.0 / 512.0)],
        DataType::Q5_K => &[(0, 1.0 / 8192.0), (2, 1.0 / 512.0)],
        DataType::Q6_K => &[(208, 1.0 / 16384.0)],
        DataType::F32 | DataType::F16 | DataType::BF16 => &[],
    }
}

/// A matrix of random blocks.
///
/// # Panics
/// If the elements are no whole number of blocks.
pub(super) fn blocks(name: &str, data_type: DataType, elements: usize) -> Vec<u8> {
    let count = data_type.bytes_for(elements).expect("rows are whole blocks");
    let mut bytes: Vec<u8> = stream(name).take(count).map(|mixed| (mixed >> 56) as u8).collect();
    for block in bytes.chunks_exact_mut(data_type.block_bytes()) {
        for &(place, scale) in scales(data_type) {
            block[place..place + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        }
    }
    bytes
}
