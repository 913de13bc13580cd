//! Copying weights to a GPU through pinned memory, converted on the way by several threads.

use std::{ops::Range, sync::Arc, thread};

use cuda::{
    DeviceBuffer, Event, Gpu, PinnedBuffer, Stream,
    kernels::products::{QuantizedMatrix, TILE_ROWS, pack_tile, tile_bytes},
};
use half::bf16;
use types::DataType;
use weights::Tensor;

use crate::Error;

/// Pinned memory through which weights pass: one half is filled while the other is copied.
pub(super) struct Staging {
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
        Ok(Self { halves: [half()?, half()?], next: 0 })
    }

    /// The half whose turn it is, once what it held is copied.
    fn half(&mut self) -> Result<&mut (PinnedBuffer<u8>, Event), Error> {
        let half = &mut self.halves[self.next];
        self.next = 1 - self.next;
        // An event that was never recorded is past.
        half.1.wait()?;
        Ok(half)
    }

    /// Copies a tensor's rows as bfloat16.
    pub(super) fn upload_dense(
        &mut self,
        stream: &Stream,
        tensor: &Tensor<'_>,
        columns: usize,
        target: &DeviceBuffer<bf16>,
    ) -> Result<(), Error> {
        let data_type = tensor.info.data_type;
        let row_bytes = data_type.bytes_for(columns).expect("the tensor has whole rows");
        let rows = target.len() / columns;
        let rows_at_once = (STAGING_BYTES / (2 * columns)).max(1);
        for first in (0..rows).step_by(rows_at_once) {
            let count = rows_at_once.min(rows - first);
            let (buffer, copied) = self.half()?;
            let source = &tensor.data[first * row_bytes..(first + count) * row_bytes];
            convert(data_type, source, columns, &mut buffer[..2 * count * columns]);
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
            let (buffer, copied) = self.half()?;
            let (all_records, rest) = buffer.split_at_mut(count * records);
            let all_outers = &mut rest[..count * outers];
            pack(
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

/// Packs as many tiles of a tensor's rows as there is room for, on several threads.
fn pack(
    tensor: &Tensor<'_>,
    matrix: &QuantizedMatrix,
    rows: Range<usize>,
    (all_records, all_outers): (&mut [u8], &mut [u8]),
) {
    let (layout, columns) = (matrix.layout(), matrix.columns());
    let data_type = tensor.info.data_type;
    let row_bytes = data_type.bytes_for(columns).expect("the tensor has whole rows");
    let (records, outers) = tile_bytes(layout, columns);
    let tiles_each = (all_records.len() / records).div_ceil(threads());
    thread::scope(|scope| {
        let mut rest_of_outers = all_outers;
        for (index, own_records) in all_records.chunks_mut(tiles_each * records).enumerate() {
            let tiles = own_records.len() / records;
            let (own_outers, rest) = rest_of_outers.split_at_mut(tiles * outers);
            rest_of_outers = rest;
            let first = rows.start + index * tiles_each * TILE_ROWS;
            let rows_end = rows.end;
            scope.spawn(move || {
                for tile in 0..tiles {
                    let row_first = first + tile * TILE_ROWS;
                    let count = TILE_ROWS.min(rows_end - row_first);
                    let target = (
                        &mut own_records[tile * records..][..records],
                        &mut own_outers[tile * outers..][..outers],
                    );
                    pack_tile(layout, [count, columns], target, |row, block, unpacked| {
                        let row = &tensor.data[(row_first + row) * row_bytes..][..row_bytes];
                        quant::unpack(data_type, row, block, unpacked);
                    });
                }
            });
        }
    });
}

/// Writes rows as bfloat16, little-endian, on several threads.
fn convert(data_type: DataType, source: &[u8], columns: usize, target: &mut [u8]) {
    let rows = target.len() / (2 * columns);
    let row_bytes = source.len() / rows;
    let rows_each = rows.div_ceil(threads());
    thread::scope(|scope| {
        let sources = source.chunks(rows_each * row_bytes);
        for (source, target) in sources.zip(target.chunks_mut(2 * rows_each * columns)) {
            scope.spawn(move || {
                if data_type == DataType::BF16 {
                    target.copy_from_slice(source);
                    return;
                }
                let mut floats = vec![0.0; columns];
                let rows = source.chunks_exact(row_bytes);
                for (source, target) in rows.zip(target.chunks_exact_mut(2 * columns)) {
                    quant::dequantise(data_type, source, &mut floats);
                    for (bytes, &value) in target.as_chunks_mut::<2>().0.iter_mut().zip(&floats) {
                        *bytes = bf16::from_f32(value).to_le_bytes();
                    }
                }
            });
        }
    });
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}
