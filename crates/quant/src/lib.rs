//! Quantization formats as plug-ins: one file a format says what its bytes mean (`dequantise`, the oracle) and how
//! 32 of its weights are handed to the kernels (`unpack`). Nothing outside this crate knows a format by more than
//! its name.

mod formats;

use device::cpu::ThreadPool;
use half::{bf16, f16};
use kernels::linear::{DenseFormat, PackedMatrix, QuantizedLayout, UnpackedBlock};
use types::DataType;

/// Why a matrix cannot be packed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The bytes are not a matrix of this shape and format.
    #[error("a {rows} × {columns} matrix of {data_type} does not take {bytes} bytes")]
    Size {
        /// Format of the weights.
        data_type: DataType,
        /// Outputs.
        rows: usize,
        /// Inputs.
        columns: usize,
        /// Bytes given.
        bytes: usize,
    },
}

/// A quantized format.
struct Format {
    /// How the kernels hold it.
    layout: QuantizedLayout,
    /// Weights `32 × part ..` of a stored block, as quanta with scales.
    unpack: fn(block: &[u8], part: usize, target: &mut UnpackedBlock),
    /// All weights of a stored block as floats, by the format's definition.
    dequantise: fn(block: &[u8], target: &mut [f32]),
}

/// Weights handed to the kernels at a time.
const UNPACKED: usize = 32;

/// How kernels hold a format's weights, if it is quantized.
pub fn layout(data_type: DataType) -> Option<QuantizedLayout> {
    match data_type {
        DataType::F32 | DataType::F16 | DataType::BF16 => None,
        _ => Some(formats::of(data_type).layout),
    }
}

/// Weights `32 × block ..` of a row of a quantized format.
///
/// # Panics
/// If the format is not quantized, or the row has no such weights.
pub fn unpack(data_type: DataType, row: &[u8], block: usize, target: &mut UnpackedBlock) {
    let format = formats::of(data_type);
    let parts = data_type.block_elements() / UNPACKED;
    let start = block / parts * data_type.block_bytes();
    (format.unpack)(&row[start..start + data_type.block_bytes()], block % parts, target);
}

/// Packs `rows × columns` weights, given row by row in `data_type`, keeping their precision: quantized formats stay
/// quantized, floats stay floats of their width.
pub fn pack(
    pool: &ThreadPool,
    data_type: DataType,
    [rows, columns]: [usize; 2],
    bytes: &[u8],
) -> Result<PackedMatrix, Error> {
    let row_bytes = row_bytes(data_type, [rows, columns], bytes)?;
    let dense = |format| {
        PackedMatrix::pack_dense(pool, [rows, columns], format, |row, target| {
            dequantise(data_type, &bytes[row * row_bytes..][..row_bytes], target);
        })
    };
    Ok(match data_type {
        DataType::F32 => dense(DenseFormat::F32),
        DataType::F16 => dense(DenseFormat::F16),
        DataType::BF16 => dense(DenseFormat::Bf16),
        _ => {
            let layout = formats::of(data_type).layout;
            PackedMatrix::pack_quantized(pool, [rows, columns], layout, |row, block, target| {
                unpack(data_type, &bytes[row * row_bytes..][..row_bytes], block, target);
            })
        }
    })
}

/// Packs the same weights as 32-bit floats, for the reference path.
pub fn pack_as_f32(
    pool: &ThreadPool,
    data_type: DataType,
    [rows, columns]: [usize; 2],
    bytes: &[u8],
) -> Result<PackedMatrix, Error> {
    let row_bytes = row_bytes(data_type, [rows, columns], bytes)?;
    Ok(PackedMatrix::pack_dense(pool, [rows, columns], DenseFormat::F32, |row, target| {
        dequantise(data_type, &bytes[row * row_bytes..][..row_bytes], target);
    }))
}

fn row_bytes(
    data_type: DataType,
    [rows, columns]: [usize; 2],
    bytes: &[u8],
) -> Result<usize, Error> {
    data_type
        .bytes_for(columns)
        .filter(|row_bytes| row_bytes.checked_mul(rows) == Some(bytes.len()))
        .ok_or(Error::Size { data_type, rows, columns, bytes: bytes.len() })
}

/// Weights as floats.
///
/// # Panics
/// If `bytes` is not exactly what `target.len()` weights take.
pub fn dequantise(data_type: DataType, bytes: &[u8], target: &mut [f32]) {
    assert_eq!(
        data_type.bytes_for(target.len()),
        Some(bytes.len()),
        "{} weights of {data_type} in {} bytes",
        target.len(),
        bytes.len()
    );
    match data_type {
        DataType::F32 => {
            for (target, bytes) in target.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *target = f32::from_le_bytes(*bytes);
            }
        }
        DataType::F16 => {
            for (target, bytes) in target.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *target = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        DataType::BF16 => {
            for (target, bytes) in target.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *target = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        _ => {
            let format = formats::of(data_type);
            let blocks = bytes.chunks_exact(data_type.block_bytes());
            for (block, target) in blocks.zip(target.chunks_exact_mut(data_type.block_elements())) {
                (format.dequantise)(block, target);
            }
        }
    }
}

#[cfg(test)]
mod tests;
