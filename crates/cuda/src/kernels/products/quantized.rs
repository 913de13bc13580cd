//! Quantized matrices in the layout that `quantized.cuh` describes.

use half::{bf16, f16};
use kernels::linear::{QuantizedLayout, Scales, UnpackedBlock, Zero};

use crate::{Address, DeviceBuffer, Error, Gpu, Kernel, Shape, Stream, Unit, kernels::NextModule};

/// Rows of a tile, which are outputs.
pub const TILE_ROWS: usize = 16;
/// Inputs of a record.
pub(super) const STEP: usize = 64;
/// Inputs that an unpacked block has.
const BLOCK: usize = 32;
/// Steps that share outer scales.
const STEPS_PER_OUTER: usize = 4;

/// The weights of a product, `[rows][columns]`: a column for each input, a row for each output. Clones share them.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// bfloat16, row by row.
    Dense(DeviceBuffer<bf16>),
    /// Quantized.
    Quantized(QuantizedMatrix),
}

/// A matrix that is quantized. Clones share its weights.
#[derive(Clone, Debug)]
pub struct QuantizedMatrix {
    layout: QuantizedLayout,
    rows: usize,
    columns: usize,
    bytes: DeviceBuffer<u8>,
}

/// How the records of a layout are divided.
#[derive(Clone, Copy, Debug)]
struct Record {
    layout: QuantizedLayout,
    quanta_bytes: usize,
    /// Words of a lane that hold the highest bits of 5 or 6.
    high_words: usize,
    /// Scales and minimums of a block.
    numbers: usize,
    number_bytes: usize,
    /// Outer scales and minimums of an output.
    outers: usize,
}

impl Record {
    fn new(layout: QuantizedLayout) -> Self {
        let has_minimum = usize::from(layout.zero == Zero::Minimum);
        let is_nested = layout.scales == Scales::Nested;
        let (quanta_bytes, high_words) = match layout.bits {
            4 => (512, 0),
            5 => (512, 1),
            6 => (512, 2),
            8 => (1024, 0),
            bits => panic!("quanta of {bits} bits"),
        };
        Self {
            layout,
            quanta_bytes,
            high_words,
            numbers: BLOCK / layout.scale_block + has_minimum,
            number_bytes: if is_nested { 1 } else { 2 },
            outers: if is_nested { 1 + has_minimum } else { 0 },
        }
    }

    fn bytes(self) -> usize {
        self.quanta_bytes + self.high_words * 128 + 2 * TILE_ROWS * self.numbers * self.number_bytes
    }

    fn outer_bytes(self) -> usize {
        2 * TILE_ROWS * self.outers
    }
}

/// Bytes of the records, and of the outer scales, of a tile of a matrix with so many columns.
pub fn tile_bytes(layout: QuantizedLayout, columns: usize) -> (usize, usize) {
    let (record, steps) = (Record::new(layout), columns.div_ceil(STEP));
    (steps * record.bytes(), steps.div_ceil(STEPS_PER_OUTER) * record.outer_bytes())
}

/// Bytes that a product reads of a record and its outer scales.
pub(super) fn stored_bytes(layout: QuantizedLayout) -> usize {
    let record = Record::new(layout);
    record.bytes() + record.outer_bytes()
}

/// Packs a tile: `unpack(row, block, &mut target)` gives 32 columns of one of its rows, of which there may be fewer
/// than 16.
///
/// # Panics
/// If `records` and `outers` do not have the sizes that [`tile_bytes`] tells.
pub fn pack_tile(
    layout: QuantizedLayout,
    [rows, columns]: [usize; 2],
    (records, outers): (&mut [u8], &mut [u8]),
    mut unpack: impl FnMut(usize, usize, &mut UnpackedBlock),
) {
    assert_eq!((records.len(), outers.len()), tile_bytes(layout, columns), "a tile's bytes");
    records.fill(0);
    outers.fill(0);
    let shape = Record::new(layout);
    let mut unpacked = UnpackedBlock::default();
    for (step, record) in records.chunks_exact_mut(shape.bytes()).enumerate() {
        let outer = &mut outers[step / STEPS_PER_OUTER * shape.outer_bytes()..];
        for (row, part) in (0..rows).flat_map(|row| [(row, 0), (row, 1)]) {
            let block = 2 * step + part;
            if block * BLOCK < columns {
                unpack(row, block, &mut unpacked);
                shape.store(record, outer, (row / 8, row % 8, part), &unpacked);
            }
        }
    }
}

impl Record {
    /// Stores 32 columns of row `8 × half + group` as one of the two parts of a step.
    fn store(
        self,
        record: &mut [u8],
        outer: &mut [u8],
        (half, group, part): (usize, usize, usize),
        block: &UnpackedBlock,
    ) {
        let (quanta, rest) = record.split_at_mut(self.quanta_bytes);
        let (high, numbers) = rest.split_at_mut(self.high_words * 128);
        let word = 2 * half + part;
        let or = |bytes: &mut [u8], word: usize, value: u32| {
            let place = &mut bytes.as_chunks_mut::<4>().0[word];
            *place = (u32::from_le_bytes(*place) | value).to_le_bytes();
        };
        for lane_of_group in 0..4 {
            let lane = 4 * group + lane_of_group;
            for pair in 0..4 {
                let first = if self.layout.scale_block == 32 {
                    8 * lane_of_group + 2 * pair
                } else {
                    4 * lane_of_group + pair / 2 * 16 + pair % 2 * 2
                };
                let quantum = |index: usize| u32::from(block.quanta[first + index]);
                let both = |value: &dyn Fn(u32) -> u32| value(quantum(0)) | value(quantum(1)) << 16;
                if self.layout.bits == 8 {
                    let place = pair / 2 * 128 + 4 * lane + word;
                    or(quanta, place, both(&|q| q ^ 0x80) << (8 * (pair % 2)));
                    continue;
                }
                or(quanta, 4 * lane + word, both(&|q| q & 15) << (4 * pair));
                let bits = both(&|q| q >> 4);
                match self.high_words {
                    0 => {}
                    1 => or(high, lane, bits << (4 * word + pair)),
                    _ => or(high, 2 * lane + half, bits << (2 * (4 * part + pair))),
                }
            }
        }
        let scales = block.scales[..BLOCK / self.layout.scale_block].iter().copied();
        let has_minimum = self.layout.zero == Zero::Minimum;
        let first = (4 * group + word) * self.numbers;
        for (index, number) in scales.chain(has_minimum.then_some(block.minimum)).enumerate() {
            let place = (first + index) * self.number_bytes;
            match self.layout.scales {
                Scales::Half => put_half(numbers, place, number),
                Scales::Nested => numbers[place] = (number as i8).cast_unsigned(),
            }
        }
        let all = [block.outer_scale, block.outer_minimum];
        for (index, &number) in all[..self.outers].iter().enumerate() {
            put_half(outer, 2 * ((2 * group + half) * self.outers + index), number);
        }
    }
}

fn put_half(bytes: &mut [u8], place: usize, value: f32) {
    bytes[place..place + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

impl Matrix {
    /// How its weights are quantized, if they are.
    pub fn layout(&self) -> Option<QuantizedLayout> {
        match self {
            Self::Dense(_) => None,
            Self::Quantized(matrix) => Some(matrix.layout),
        }
    }

    /// Bytes on the GPU.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(buffer) => buffer.bytes(),
            Self::Quantized(matrix) => matrix.bytes.bytes(),
        }
    }

    /// Where the weights are.
    pub(in crate::kernels) fn address(&self) -> Address {
        match self {
            Self::Dense(buffer) => buffer.address(),
            Self::Quantized(matrix) => matrix.bytes.address(),
        }
    }

    /// Whether it has at least this many rows, of exactly this many columns where that is known.
    pub(in crate::kernels) fn holds(&self, rows: usize, columns: usize) -> bool {
        match self {
            Self::Dense(buffer) => buffer.len() >= rows * columns,
            Self::Quantized(matrix) => matrix.rows >= rows && matrix.columns == columns,
        }
    }
}

impl QuantizedMatrix {
    /// Takes memory for a matrix.
    ///
    /// # Panics
    /// If columns are not whole blocks of 32.
    pub fn new(
        gpu: &std::sync::Arc<Gpu>,
        layout: QuantizedLayout,
        [rows, columns]: [usize; 2],
    ) -> Result<Self, Error> {
        assert!(columns.is_multiple_of(BLOCK), "{columns} columns");
        let (records, outers) = tile_bytes(layout, columns);
        let bytes = rows.div_ceil(TILE_ROWS) * (records + outers);
        Ok(Self { layout, rows, columns, bytes: DeviceBuffer::new(gpu, bytes, "weights")? })
    }

    /// How it is quantized.
    pub fn layout(&self) -> QuantizedLayout {
        self.layout
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Where the records and the outer scales of some tiles are, to be filled with what [`pack_tile`] makes.
    pub fn tiles(&self, tiles: std::ops::Range<usize>) -> (DeviceBuffer<u8>, DeviceBuffer<u8>) {
        let (records, outers) = tile_bytes(self.layout, self.columns);
        let outers_first = self.rows.div_ceil(TILE_ROWS) * records;
        let part = |first: usize, bytes: usize| {
            self.bytes.slice(first + tiles.start * bytes..first + tiles.end * bytes)
        };
        (part(0, records), part(outers_first, outers))
    }
}

/// The macros that tell `quantized.cuh` of a layout.
pub(in crate::kernels) fn macros(layout: QuantizedLayout) -> Vec<(&'static str, String)> {
    let zero_point = match layout.zero {
        Zero::Point(point) => i32::from(point),
        Zero::Minimum => -1,
    };
    let nested = u8::from(layout.scales == Scales::Nested);
    vec![
        ("BITS", layout.bits.to_string()),
        ("SCALE_BLOCK", layout.scale_block.to_string()),
        ("NESTED", nested.to_string()),
        ("ZERO_POINT", format!("({zero_point})")),
    ]
}

arguments!(DequantizeArguments {
    weights: Address,
    output: Address,
    rows: i32,
    inputs: i32,
    row_first: i32,
    row_count: i32,
});

/// Makes bfloat16 of quantized weights, one kernel a layout.
#[derive(Debug)]
pub struct DequantizeKernels(Vec<(QuantizedLayout, Kernel<DequantizeArguments>)>);

pub(in crate::kernels) fn units(layouts: &[QuantizedLayout]) -> Vec<Unit> {
    let unit = |&layout: &QuantizedLayout| Unit {
        name: "dequantize",
        source: include_str!("dequantize.cu"),
        macros: macros(layout),
    };
    layouts.iter().map(unit).collect()
}

impl DequantizeKernels {
    pub(in crate::kernels) fn new(
        layouts: &[QuantizedLayout],
        next: &mut NextModule<'_>,
    ) -> Result<Self, Error> {
        let kernels: Result<_, Error> = layouts
            .iter()
            .map(|&layout| Ok((layout, next()?.kernel("dequantize_rows", 0)?)))
            .collect();
        Ok(Self(kernels?))
    }

    /// Writes some rows of a matrix, `[rows][columns]`.
    ///
    /// # Panics
    /// If the first row is not a multiple of 16, a buffer is too small, or the layout is not among those that were
    /// compiled.
    pub fn dequantize(
        &self,
        stream: &Stream,
        matrix: &QuantizedMatrix,
        rows: std::ops::Range<usize>,
        output: &DeviceBuffer<bf16>,
    ) -> Result<(), Error> {
        assert!(rows.start.is_multiple_of(TILE_ROWS) && rows.end <= matrix.rows, "{rows:?}");
        assert!(output.len() >= rows.len() * matrix.columns, "output");
        let (_, kernel) = self
            .0
            .iter()
            .find(|(layout, _)| *layout == matrix.layout)
            .expect("kernels for all layouts of a model were compiled");
        let arguments = DequantizeArguments {
            weights: matrix.bytes.address(),
            output: output.address(),
            rows: matrix.rows as i32,
            inputs: matrix.columns as i32,
            row_first: rows.start as i32,
            row_count: rows.len() as i32,
        };
        let records = rows.len().div_ceil(TILE_ROWS) * matrix.columns.div_ceil(STEP);
        let shape = Shape::row(records.div_ceil(8), 256);
        // SAFETY: the sizes were checked above.
        unsafe { kernel.launch(stream, shape, arguments) }
    }
}

#[cfg(test)]
mod tests;
