//! How a weight matrix lies in memory: in panels of 16 outputs, so that one vector register holds the same step of 16
//! outputs and no sum ever runs across lanes.
//!
//! A panel is a stream of records. A quantized record covers 32 inputs: lines of quanta, then scales, then minimums (if
//! the format has them), for 16 outputs each. A line is 64 bytes, `[output][4]`, and holds 4 inputs of each output (a
//! group), which is what an 8-bit dot-product instruction eats:
//!
//! - the low four bits of the quanta take four lines: line `g` has group `g` in its low and group `4 + g` in its high
//!   halves of bytes;
//! - the fifth bits, where quanta have five, take one line: group `g` is bit `4 + g` of its bytes for `g < 4`, and bit
//!   `g - 4` for the others;
//! - the fifth and sixth bits, where quanta have six, take two lines: group `g` lies in line `g / 4`, at bits
//!   `2 (g mod 4)` and the next;
//! - 8-bit quanta take eight lines, one a group.
//!
//! Formats whose scales are themselves small integers (ggml's K formats) keep them so: eight records, 256 inputs, stand
//! behind a header with the half-precision scales (and minimums) of the small ones.
//!
//! A dense record is one input: 16 weights. Of bfloat16 it is two inputs, `[output][2]`, as an instruction for pairs
//! takes them; the last record of an odd number of inputs has zeros for its second.

use device::cpu::{AlignedBuffer, DisjointSlice, Rung, ThreadPool, partition};
use half::{bf16, f16};

use crate::quantize::BLOCK;

/// Outputs in a panel.
pub const PANEL: usize = 16;
/// Bytes of a line: four inputs of each output.
pub(crate) const LINE: usize = 4 * PANEL;
/// Records behind one header, where a layout has headers.
const SUPER_RECORDS: usize = 8;

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
    /// Bits of a quantum: 4, 5, 6 or 8.
    pub bits: usize,
    /// Inputs that share a scale, 32 or 16.
    pub scale_block: usize,
    /// How scales and minimums are stored.
    pub scales: Scales,
    /// What makes a quantum of 0.
    pub zero: Zero,
}

/// How scales and minimums are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// In half precision.
    Half,
    /// As signed bytes, times a half-precision number for each 256 inputs.
    Nested,
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
    /// Lines of quanta in a record: eight groups of quanta take as many as a quantum has bits.
    #[inline(always)]
    pub(crate) const fn lines(self) -> usize {
        self.bits
    }

    /// Scale blocks in a record.
    #[inline(always)]
    pub(crate) const fn parts(self) -> usize {
        BLOCK / self.scale_block
    }

    /// Scales and minimums of a record, 16 outputs each.
    #[inline(always)]
    const fn numbers(self) -> usize {
        match self.zero {
            Zero::Point(_) => self.parts(),
            Zero::Minimum => 2 * self.parts(),
        }
    }

    #[inline(always)]
    pub(crate) const fn record_bytes(self) -> usize {
        let number_bytes = match self.scales {
            Scales::Half => 2,
            Scales::Nested => 1,
        };
        self.lines() * LINE + self.numbers() * PANEL * number_bytes
    }

    /// Bytes before each run of [`Self::records_per_header`] records.
    #[inline(always)]
    pub(crate) const fn header_bytes(self) -> usize {
        match (self.scales, self.zero) {
            (Scales::Half, _) => 0,
            (Scales::Nested, Zero::Point(_)) => 2 * PANEL,
            (Scales::Nested, Zero::Minimum) => 4 * PANEL,
        }
    }

    #[inline(always)]
    pub(crate) const fn records_per_header(self) -> usize {
        match self.scales {
            Scales::Half => 1,
            Scales::Nested => SUPER_RECORDS,
        }
    }

    /// Where header and record of a block begin within a panel.
    #[inline(always)]
    pub(crate) const fn places(self, block: usize) -> (usize, usize) {
        let records = self.records_per_header();
        let run = self.header_bytes() + records * self.record_bytes();
        let header = block / records * run;
        (header, header + self.header_bytes() + block % records * self.record_bytes())
    }

    const fn panel_bytes(self, columns: usize) -> usize {
        let blocks = columns / BLOCK;
        blocks * self.record_bytes() + blocks / self.records_per_header() * self.header_bytes()
    }
}

/// In what form a product reads its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputForm {
    /// Floats as they are.
    Floats,
    /// Rounded to bfloat16.
    Rounded,
    /// Quantized to 8 bits.
    Quantized,
}

impl Layout {
    /// In what form products with such weights read their inputs on a rung.
    pub fn input_form(self, rung: Rung) -> InputForm {
        match self {
            Self::Quantized(_) => InputForm::Quantized,
            Self::Dense(DenseFormat::Bf16) if rung.has_bf16_pairs() => InputForm::Rounded,
            Self::Dense(_) => InputForm::Floats,
        }
    }

    const fn panel_bytes(self, columns: usize) -> usize {
        match self {
            Self::Dense(DenseFormat::F32) => 4 * PANEL * columns,
            Self::Dense(DenseFormat::F16) => 2 * PANEL * columns,
            Self::Dense(DenseFormat::Bf16) => LINE * columns.div_ceil(2),
            Self::Quantized(layout) => layout.panel_bytes(columns),
        }
    }
}

/// 32 weights of one output, as a format's unpacking gives them.
#[derive(Clone, Debug, Default)]
pub struct UnpackedBlock {
    /// Quanta, below `2^bits`.
    pub quanta: [u8; BLOCK],
    /// Scales; the second is used where 16 inputs share one. Whole numbers that fit a signed byte where scales are
    /// nested.
    pub scales: [f32; 2],
    /// The minimum, used where the layout has them; a whole number that fits a signed byte where scales are nested.
    pub minimum: f32,
    /// What nested scales are multiplied with: the same for all blocks behind one header.
    pub outer_scale: f32,
    /// What a nested minimum is multiplied with.
    pub outer_minimum: f32,
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
    /// If `columns` is not a multiple of 32, or of 256 where scales are nested.
    pub fn pack_quantized(
        pool: &ThreadPool,
        [rows, columns]: [usize; 2],
        layout: QuantizedLayout,
        unpack: impl Fn(usize, usize, &mut UnpackedBlock) + Sync,
    ) -> Self {
        assert!(
            columns.is_multiple_of(BLOCK * layout.records_per_header()),
            "{columns} inputs are not whole blocks"
        );
        Self::pack(pool, [rows, columns], Layout::Quantized(layout), |panel, rows, data| {
            let mut unpacked = UnpackedBlock::default();
            for block in 0..columns / BLOCK {
                for output in 0..rows {
                    unpack(panel * PANEL + output, block, &mut unpacked);
                    store_block(layout, data, block, output, &unpacked);
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
                    let index = dense_index(format, input, output);
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
        let panel_bytes = layout.panel_bytes(columns);
        let panels = rows.div_ceil(PANEL);
        let mut data = AlignedBuffer::zeroed_in_huge_pages(panels * panel_bytes);
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
        let bytes = self.layout.panel_bytes(self.columns);
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
                    *target = dense_weight(panel, format, input, output);
                }
            }
            Layout::Quantized(layout) => {
                for (block, target) in target.chunks_exact_mut(BLOCK).enumerate() {
                    let record = Record::new(layout, panel, block);
                    for (input, target) in target.iter_mut().enumerate() {
                        let quantum = f32::from(record.quantum(output, input));
                        let scale = record.scale(output, input / layout.scale_block);
                        *target = match layout.zero {
                            Zero::Point(point) => scale * (quantum - f32::from(point)),
                            Zero::Minimum => scale * quantum + record.minimum(output),
                        };
                    }
                }
            }
        }
    }
}

fn store_block(
    layout: QuantizedLayout,
    panel: &mut [u8],
    block: usize,
    output: usize,
    unpacked: &UnpackedBlock,
) {
    let (header, record) = layout.places(block);
    let minimums = (layout.zero == Zero::Minimum).then_some(unpacked.minimum);
    let numbers = unpacked.scales[..layout.parts()].iter().copied().chain(minimums);
    let quanta = record..record + layout.lines() * LINE;
    for (index, number) in numbers.enumerate() {
        let place = index * PANEL + output;
        match layout.scales {
            Scales::Half => panel[quanta.end + 2 * place..][..2]
                .copy_from_slice(&f16::from_f32(number).to_le_bytes()),
            Scales::Nested => panel[quanta.end + place] = (number as i8).cast_unsigned(),
        }
    }
    if layout.scales == Scales::Nested {
        let outer = [Some(unpacked.outer_scale), minimums.map(|_| unpacked.outer_minimum)];
        for (index, number) in outer.into_iter().flatten().enumerate() {
            panel[header + 2 * (index * PANEL + output)..][..2]
                .copy_from_slice(&f16::from_f32(number).to_le_bytes());
        }
    }
    store_quanta(layout.bits, &mut panel[quanta], output, &unpacked.quanta);
}

/// Stores the quanta of an output, four at a time: where [`places_of`] says of each.
fn store_quanta(bits: usize, lines: &mut [u8], output: usize, quanta: &[u8; BLOCK]) {
    debug_assert!(quanta.iter().all(|&quantum| u32::from(quantum) < 1 << bits), "{quanta:?}");
    let mut groups = [0_u32; BLOCK / 4];
    for (group, four) in groups.iter_mut().zip(quanta.as_chunks::<4>().0) {
        *group = u32::from_le_bytes(*four);
    }
    // Bits of each of four quanta, moved to the lowest ones of their byte.
    let some =
        |group: usize, from: usize, mask: u8| groups[group] >> from & u32::from_le_bytes([mask; 4]);
    let mut store = |line: usize, four: u32| {
        lines[line * LINE + 4 * output..][..4].copy_from_slice(&four.to_le_bytes());
    };
    if bits == 8 {
        groups.into_iter().enumerate().for_each(|(group, four)| store(group, four));
        return;
    }
    for line in 0..4 {
        store(line, some(line, 0, 0xf) | some(line + 4, 0, 0xf) << 4);
    }
    if bits == 5 {
        store(4, (0..8).fold(0, |line, group| line | some(group, 4, 1) << ((4 + group) % 8)));
    }
    if bits == 6 {
        for half in 0..2 {
            let two = |line, index| line | some(4 * half + index, 4, 3) << (2 * index);
            store(4 + half, (0..4).fold(0, two));
        }
    }
}

/// Some bits of a quantum: `count` of them, from bit `from` on, lie in byte `byte` of the quanta from bit `shift` on.
struct Bits {
    byte: usize,
    shift: usize,
    from: usize,
    count: usize,
}

const fn mask(count: usize) -> u8 {
    (0xff_u16 >> (8 - count)) as u8
}

fn places_of(layout: QuantizedLayout, output: usize, input: usize) -> impl Iterator<Item = Bits> {
    let (group, within) = (input / 4, output * 4 + input % 4);
    let at = |line: usize| line * LINE + within;
    let low = Bits { byte: at(group % 4), shift: group / 4 * 4, from: 0, count: 4 };
    let (low, high) = match layout.bits {
        4 => (low, None),
        5 => (low, Some(Bits { byte: at(4), shift: (4 + group) % 8, from: 4, count: 1 })),
        6 => {
            let (byte, shift) = (at(4 + group / 4), 2 * (group % 4));
            (low, Some(Bits { byte, shift, from: 4, count: 2 }))
        }
        _ => (Bits { byte: at(group), shift: 0, from: 0, count: 8 }, None),
    };
    std::iter::once(low).chain(high)
}

/// A record read number by number: the meaning of the layout.
pub(super) struct Record<'a> {
    layout: QuantizedLayout,
    header: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn new(layout: QuantizedLayout, panel: &'a [u8], block: usize) -> Self {
        let (header, record) = layout.places(block);
        Self {
            layout,
            header: &panel[header..][..layout.header_bytes()],
            bytes: &panel[record..][..layout.record_bytes()],
        }
    }

    pub(super) fn quantum(&self, output: usize, input: usize) -> u8 {
        places_of(self.layout, output, input)
            .map(|Bits { byte, shift, from, count }| {
                (self.bytes[byte] >> shift & mask(count)) << from
            })
            .sum()
    }

    pub(super) fn scale(&self, output: usize, part: usize) -> f32 {
        self.number(output, part, 0)
    }

    pub(super) fn minimum(&self, output: usize) -> f32 {
        self.number(output, self.layout.parts(), 1)
    }

    fn number(&self, output: usize, index: usize, outer: usize) -> f32 {
        let half = |bytes: &[u8], place: usize| {
            f16::from_le_bytes([bytes[2 * place], bytes[2 * place + 1]]).to_f32()
        };
        let numbers = &self.bytes[self.layout.lines() * LINE..];
        let place = index * PANEL + output;
        match self.layout.scales {
            Scales::Half => half(numbers, place),
            Scales::Nested => {
                half(self.header, outer * PANEL + output) * f32::from(numbers[place].cast_signed())
            }
        }
    }
}

/// Which of a panel's weights it is.
fn dense_index(format: DenseFormat, input: usize, output: usize) -> usize {
    match format {
        DenseFormat::F32 | DenseFormat::F16 => input * PANEL + output,
        DenseFormat::Bf16 => (input / 2 * PANEL + output) * 2 + input % 2,
    }
}

pub(super) fn dense_weight(panel: &[u8], format: DenseFormat, input: usize, output: usize) -> f32 {
    let index = dense_index(format, input, output);
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
