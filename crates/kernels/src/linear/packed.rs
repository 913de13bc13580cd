//! How a weight matrix lies in memory: in panels of 16 outputs, so that one vector register holds the same step of 16
//! outputs and no sum ever runs across lanes.
//!
//! A panel is a stream of records. A quantized record covers 32 inputs: their quanta, then scales, then minimums (if
//! the format has them), for 16 outputs each. Quanta come in groups of 4 inputs: `[group][output][4]` bytes, which
//! is what an 8-bit dot-product instruction eats. With 4-bit quanta, group `g` holds inputs `4 g..` in the low and
//! `16 + 4 g..` in the high half of its bytes. A dense record is one input: 16 weights.

use device::cpu::{AlignedBuffer, DisjointSlice, ThreadPool, partition};
use half::{bf16, f16};

use crate::quantize::BLOCK;

/// Outputs in a panel.
pub const PANEL: usize = 16;

/// How the weights of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Floats, multiplied with float inputs.
    Dense(DenseFormat),
    /// Small integers with scales, multiplied with 8-bit inputs.
    Quantized(QuantizedLayout),
}

/// Formats of dense weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum DenseFormat {
    F32,
    F16,
    Bf16,
}

/// Layout of quantized weights: `weight = scale × (quantum - zero point)`, or `scale × quantum + minimum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizedLayout {
    /// Bits of a quantum, 4 or 8.
    pub bits: usize,
    /// Inputs that share a scale, 32 or 16.
    pub scale_block: usize,
    /// Whether scales and minimums are 32-bit floats; otherwise they are half precision.
    pub wide_scales: bool,
    /// What makes a quantum of 0.
    pub zero: Zero,
}

/// What a quantum of 0 stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zero {
    /// `-scale × point`: the same point for the whole matrix.
    Point(u8),
    /// A minimum of its own for each scale block.
    Minimum,
}

impl QuantizedLayout {
    pub(crate) const fn quanta_bytes(self) -> usize {
        PANEL * BLOCK * self.bits / 8
    }

    pub(crate) const fn scale_bytes(self) -> usize {
        if self.wide_scales { 4 } else { 2 }
    }

    /// Scale blocks in a record.
    pub(crate) const fn scales(self) -> usize {
        BLOCK / self.scale_block
    }

    const fn record_bytes(self) -> usize {
        let kinds = match self.zero {
            Zero::Point(_) => 1,
            Zero::Minimum => 2,
        };
        self.quanta_bytes() + kinds * self.scales() * PANEL * self.scale_bytes()
    }
}

impl Layout {
    /// Inputs in a record.
    const fn record_inputs(self) -> usize {
        match self {
            Self::Dense(_) => 1,
            Self::Quantized(_) => BLOCK,
        }
    }

    const fn record_bytes(self) -> usize {
        match self {
            Self::Dense(DenseFormat::F32) => 4 * PANEL,
            Self::Dense(DenseFormat::F16 | DenseFormat::Bf16) => 2 * PANEL,
            Self::Quantized(layout) => layout.record_bytes(),
        }
    }
}

/// 32 weights of one output, as a format's unpacking gives them.
#[derive(Clone, Debug, Default)]
pub struct UnpackedBlock {
    /// Quanta, below `2^bits`.
    pub quanta: [u8; BLOCK],
    /// Scales; the second is used where 16 inputs share one.
    pub scales: [f32; 2],
    /// Minimums, used where the layout has them.
    pub minimums: [f32; 2],
}

/// A matrix of `rows` outputs by `columns` inputs.
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    layout: Layout,
    data: AlignedBuffer<u8>,
}

impl PackedMatrix {
    /// Packs quantized weights: `unpack(row, block, &mut target)` gives 32 inputs of an output at a time.
    ///
    /// # Panics
    /// If `columns` is not a multiple of 32.
    pub fn pack_quantized(
        pool: &ThreadPool,
        [rows, columns]: [usize; 2],
        layout: QuantizedLayout,
        unpack: impl Fn(usize, usize, &mut UnpackedBlock) + Sync,
    ) -> Self {
        assert!(columns.is_multiple_of(BLOCK), "{columns} inputs are not whole blocks");
        Self::pack(pool, [rows, columns], Layout::Quantized(layout), |panel, rows, data| {
            let mut block = UnpackedBlock::default();
            for (index, record) in data.chunks_exact_mut(layout.record_bytes()).enumerate() {
                for output in 0..rows {
                    unpack(panel * PANEL + output, index, &mut block);
                    store_block(layout, record, output, &block);
                }
            }
        })
    }

    /// Packs dense weights: `read(row, &mut target)` gives all inputs of an output as floats.
    pub fn pack_dense(
        pool: &ThreadPool,
        [rows, columns]: [usize; 2],
        format: DenseFormat,
        read: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        Self::pack(pool, [rows, columns], Layout::Dense(format), |panel, rows, data| {
            let mut values = vec![0.0; columns];
            for output in 0..rows {
                read(panel * PANEL + output, &mut values);
                for (input, &value) in values.iter().enumerate() {
                    let index = input * PANEL + output;
                    match format {
                        DenseFormat::F32 => {
                            data[4 * index..][..4].copy_from_slice(&value.to_le_bytes())
                        }
                        DenseFormat::F16 => data[2 * index..][..2]
                            .copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                        DenseFormat::Bf16 => data[2 * index..][..2]
                            .copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                    }
                }
            }
        })
    }

    fn pack(
        pool: &ThreadPool,
        [rows, columns]: [usize; 2],
        layout: Layout,
        fill: impl Fn(usize, usize, &mut [u8]) + Sync,
    ) -> Self {
        let panel_bytes = columns / layout.record_inputs() * layout.record_bytes();
        let panels = rows.div_ceil(PANEL);
        let mut data = AlignedBuffer::zeroed(panels * panel_bytes);
        let target = DisjointSlice::new(&mut data);
        pool.run(&|worker| {
            for panel in partition(panels, pool.threads(), worker) {
                // SAFETY: workers have different panels.
                let bytes = unsafe { target.part(panel * panel_bytes..(panel + 1) * panel_bytes) };
                fill(panel, PANEL.min(rows - panel * PANEL), bytes);
            }
        });
        Self { rows, columns, layout, data }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How the weights are stored.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    pub(crate) fn panel(&self, panel: usize) -> &[u8] {
        let bytes = self.columns / self.layout.record_inputs() * self.layout.record_bytes();
        &self.data[panel * bytes..(panel + 1) * bytes]
    }

    /// The weights of one output as floats: how an embedding is looked up.
    ///
    /// # Panics
    /// If there is no such row or `target` is not one row long.
    pub fn dequantise_row(&self, row: usize, target: &mut [f32]) {
        assert!(row < self.rows && target.len() == self.columns, "dequantise_row: shape");
        let (panel, output) = (self.panel(row / PANEL), row % PANEL);
        match self.layout {
            Layout::Dense(format) => {
                for (input, target) in target.iter_mut().enumerate() {
                    *target = dense_weight(panel, format, input * PANEL + output);
                }
            }
            Layout::Quantized(layout) => {
                let records = panel.chunks_exact(layout.record_bytes());
                for (record, target) in records.zip(target.chunks_exact_mut(BLOCK)) {
                    for (input, target) in target.iter_mut().enumerate() {
                        let part = input / layout.scale_block;
                        let quantum = f32::from(quantum(layout, record, output, input));
                        let scale = scale(layout, record, output, part);
                        *target = match layout.zero {
                            Zero::Point(point) => scale * (quantum - f32::from(point)),
                            Zero::Minimum => {
                                scale * quantum + minimum(layout, record, output, part)
                            }
                        };
                    }
                }
            }
        }
    }
}

fn store_block(layout: QuantizedLayout, record: &mut [u8], output: usize, block: &UnpackedBlock) {
    for (input, &quantum) in block.quanta.iter().enumerate() {
        debug_assert!(u32::from(quantum) < 1 << layout.bits, "quantum {quantum} out of range");
        let (index, shift) = quantum_place(layout, output, input);
        record[index] |= quantum << shift;
    }
    let mut write = |index: usize, value: f32| {
        let start = layout.quanta_bytes() + index * layout.scale_bytes();
        if layout.wide_scales {
            record[start..start + 4].copy_from_slice(&value.to_le_bytes());
        } else {
            record[start..start + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        }
    };
    for part in 0..layout.scales() {
        write(part * PANEL + output, block.scales[part]);
        if layout.zero == Zero::Minimum {
            write((layout.scales() + part) * PANEL + output, block.minimums[part]);
        }
    }
}

/// Byte of a record and bit within it at which a quantum begins.
fn quantum_place(layout: QuantizedLayout, output: usize, input: usize) -> (usize, usize) {
    let in_group = |input: usize| input / 4 * PANEL * 4 + output * 4 + input % 4;
    match layout.bits {
        4 => (in_group(input % 16), input / 16 * 4),
        _ => (in_group(input), 0),
    }
}

pub(super) fn quantum(layout: QuantizedLayout, record: &[u8], output: usize, input: usize) -> u8 {
    let (index, shift) = quantum_place(layout, output, input);
    if layout.bits == 4 { record[index] >> shift & 0xf } else { record[index] }
}

pub(super) fn scale(layout: QuantizedLayout, record: &[u8], output: usize, part: usize) -> f32 {
    read_scale(layout, record, part * PANEL + output)
}

pub(super) fn minimum(layout: QuantizedLayout, record: &[u8], output: usize, part: usize) -> f32 {
    read_scale(layout, record, (layout.scales() + part) * PANEL + output)
}

fn read_scale(layout: QuantizedLayout, record: &[u8], index: usize) -> f32 {
    let bytes = &record[layout.quanta_bytes() + index * layout.scale_bytes()..];
    if layout.wide_scales {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    } else {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

pub(super) fn dense_weight(panel: &[u8], format: DenseFormat, index: usize) -> f32 {
    let two = |index: usize| [panel[2 * index], panel[2 * index + 1]];
    match format {
        DenseFormat::F32 => {
            let bytes = &panel[4 * index..4 * index + 4];
            f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        }
        DenseFormat::F16 => f16::from_le_bytes(two(index)).to_f32(),
        DenseFormat::Bf16 => bf16::from_le_bytes(two(index)).to_f32(),
    }
}
