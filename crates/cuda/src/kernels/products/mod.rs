//! Products of a matrix with few rows, and the quantized matrices among those that are multiplied.

mod few_rows;
pub(super) mod quantized;
pub(super) mod tiled;

pub(super) use few_rows::units as few_rows_units;
pub use few_rows::{
    DENSE_ROWS_MAX, FewRows, FewRowsKernels, NextNorm, NormFactor, QUANTIZED_ROWS_MAX, Sink,
    rows_max, square_sums,
};
pub use quantized::{DequantizeKernels, Matrix, QuantizedMatrix, TILE_ROWS, pack_tile, tile_bytes};
pub use tiled::{TILED_ROWS_MAX, Tiled, TiledKernels, TiledScratch};
