//! Copying weights to a GPU through pinned memory, converted on the way by several threads.

use std::{ops::Range, sync::Arc, thread};

use cuda::{
    DeviceBuffer, Event, Gpu, PinnedBuffer, Stream,
    kernels::products::{QuantizedMatrix, TILE_ROWS, pack_tile, tile_bytes},
};
use device::cpu::ThreadPool;
use half::bf16;
use types::DataType;
use weights::Tensor;

use crate::Error;

/// Pinned memory through which weights pass: one half is filled while the other is copied.
pub(super) struct Staging {
    pool: ThreadPool,
    halves: [(PinnedBuffer<u8>, Event); 2],
    next: usize,
}

/// Bytes of a half.
const STAGING_BYTES: usize = 32 << 20;
/// More threads than this are not faster than the link to the device.
const THREADS_MAX: usize = 16;

impl Staging {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self, Error> {
        let half = || Ok::<_, Error>((PinnedBuffer::zeroed(gpu, STAGING_BYTES)?, Event::new(gpu)?));
        let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        Ok(Self { pool: ThreadPool::new(threads), halves: [half()?, half()?], next: 0 })
    }

    /// The half whose turn it is, once what it held is copied, and who is to fill it.
    fn half(&mut self) -> Result<(&ThreadPool, &mut (PinnedBuffer<u8>, Event)), Error> {
        let half = &mut self.halves[self.next];
        self.next = 1 - self.next;
        // An event that was never recorded is past.
        half.1.wait()?;
        Ok((&self.pool, half))
    }

    /// Copies a tensor's rows as bfloat16.
    pub(super) fn upload_dense(
        &mut self,
        stream: &Stream,
        tensor: &Tensor<'_>,
        columns: usize,
        target: &DeviceBuffer<bf16>,
    ) -> Result<(), Error> {
        let rows = target.len() / columns;
        let rows_at_once = (STAGING_BYTES / (2 * columns)).max(1);
        for first in (0..rows).step_by(rows_at_once) {
            let count = rows_at_once.min(rows - first);
            let (pool, (buffer, copied)) = self.half()?;
            let rows = &mut buffer[..2 * count * columns];
            read_dense(pool, tensor, (first, columns), rows)?;
            let part = target.slice(first * columns..(first + count) * columns);
            stream.upload(buffer, 0, &part.cast())?;
            copied.record(stream)?;
        }
        Ok(())
    }

    /// Copies a tensor to some rows of a quantized matrix, of which the first is a multiple of 16.
    pub(super) fn upload_quantized(
        &mut self,
        stream: &Stream,
        tensor: &Tensor<'_>,
        matrix: &QuantizedMatrix,
        rows: Range<usize>,
    ) -> Result<(), Error> {
        let (records, outers) = tile_bytes(matrix.layout(), matrix.columns());
        let tiles = rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS);
        let tiles_at_once = (STAGING_BYTES / (records + outers)).max(1);
        for first in tiles.clone().step_by(tiles_at_once) {
            let count = tiles_at_once.min(tiles.end - first);
            let (pool, (buffer, copied)) = self.half()?;
            let (all_records, rest) = buffer.split_at_mut(count * records);
            let all_outers = &mut rest[..count * outers];
            pack(
                pool,
                tensor,
                matrix,
                first * TILE_ROWS - rows.start..rows.len(),
                (all_records, all_outers),
            );
            let (to_records, to_outers) = matrix.tiles(first..first + count);
            stream.upload(buffer, 0, &to_records)?;
            stream.upload(buffer, count * records, &to_outers)?;
            copied.record(stream)?;
        }
        Ok(())
    }
}

/// Packs as many tiles of a tensor's rows as there is room for, on all threads.
fn pack(
    pool: &ThreadPool,
    tensor: &Tensor<'_>,
    matrix: &QuantizedMatrix,
    rows: Range<usize>,
    (records, outers): (&mut [u8], &mut [u8]),
) {
    let (layout, columns) = (matrix.layout(), matrix.columns());
    let data_type = tensor.info.data_type;
    let row_bytes = data_type.bytes_for(columns).expect("the tensor has whole rows");
    let (tile_records, tile_outers) = tile_bytes(layout, columns);
    let mut outers = outers.chunks_mut(tile_outers.max(1));
    // Formats without outer scales have none for any tile.
    let mut tiles: Vec<_> = records
        .chunks_mut(tile_records)
        .map(|records| (records, outers.next().unwrap_or_default()))
        .collect();
    pool.for_each(&mut tiles, |tile, (records, outers)| {
        let first = rows.start + tile * TILE_ROWS;
        let count = TILE_ROWS.min(rows.end - first);
        pack_tile(layout, [count, columns], (records, outers), |row, block, unpacked| {
            let row = &tensor.data[(first + row) * row_bytes..][..row_bytes];
            quant::unpack(data_type, row, block, unpacked);
        });
    });
}

/// Reads rows from row `first` on as bfloat16, little-endian, on all threads.
fn read_dense(
    pool: &ThreadPool,
    tensor: &Tensor<'_>,
    (first, columns): (usize, usize),
    target: &mut [u8],
) -> Result<(), Error> {
    let data_type = tensor.info.data_type;
    let row_bytes = data_type.bytes_for(columns).expect("the tensor has whole rows");
    let rows_each = (target.len() / (2 * columns)).div_ceil(pool.threads());
    let mut parts: Vec<_> =
        target.chunks_mut(2 * rows_each * columns).map(|target| (target, Ok(()))).collect();
    pool.for_each(&mut parts, |part, (target, result)| {
        let first = first + part * rows_each;
        if data_type == DataType::BF16 {
            *result = tensor.copy_to(first * row_bytes, target);
            return;
        }
        let mut floats = vec![0.0; columns];
        let rows = tensor.data[first * row_bytes..].chunks_exact(row_bytes);
        for (source, target) in rows.zip(target.chunks_exact_mut(2 * columns)) {
            quant::dequantise(data_type, source, &mut floats);
            for (bytes, &value) in target.as_chunks_mut::<2>().0.iter_mut().zip(&floats) {
                *bytes = bf16::from_f32(value).to_le_bytes();
            }
        }
    });
    for (_, result) in parts {
        result.map_err(models::Error::from)?;
    }
    Ok(())
}
