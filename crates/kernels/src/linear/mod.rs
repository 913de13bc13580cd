//! Matrix products `y = W x + bias` for a batch of rows, with packed weights.
//!
//! Weights come in panels of 16 outputs (see [`PackedMatrix`]); a worker takes a contiguous share of the panels.
//! Dense weights multiply float inputs; bfloat16 weights, where the CPU has products of such pairs, inputs rounded to
//! bfloat16, with float sums. Quantized weights multiply inputs quantized to 8 bits, with exact integer dot products
//! within a block of 32 and float sums over blocks. The order of additions for one output is the same whatever the
//! number of rows, so that a row's result does not depend on its company.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod dense;
mod packed;
pub(crate) mod quantized;
mod scalar;

#[cfg(test)]
mod cases;

use std::ops::Range;

use device::cpu::{Cpu, DisjointSlice, Rung, partition};

pub use packed::{
    DenseFormat, InputForm, Layout, PANEL, PackedMatrix, QuantizedLayout, Scales, UnpackedBlock,
    Zero,
};

use crate::{
    lanes::{Lanes, launch, launch_pairs},
    quantize::{BLOCK, Bf16Rows, Q8Rows},
};

/// Bytes of inputs that are kept in the second-level cache while panels stream past them.
const ROW_BLOCK_BYTES: usize = 512 * 1024;
/// Row blocks are multiples of as many rows as a kernel takes together at most.
const ROW_TILE: usize = 12;

/// Rows of a block with dense weights at least, however wide: so often are weights used that come from memory.
const DENSE_ROWS_MIN: usize = 120;

/// Arguments of [`linear`].
pub struct Linear<'a> {
    /// The rows in each form that a matrix reads.
    pub input: Inputs<'a>,
    /// Rows to compute.
    pub rows: usize,
    /// Matrices applied to the same input, their outputs side by side.
    pub segments: &'a [Segment<'a>],
    /// `[rows][output_stride]`
    pub output: &'a mut [f32],
    /// Values from one output row to the next.
    pub output_stride: usize,
    /// Add to the output instead of replacing it.
    pub accumulate: bool,
}

/// Rows of inputs in several forms: which one a matrix reads says [`Layout::input_form`].
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// `[rows][columns]`
    pub floats: &'a [f32],
    /// The same quantized.
    pub quantized: Option<&'a Q8Rows>,
    /// The same rounded to bfloat16.
    pub rounded: Option<&'a Bf16Rows>,
}

/// One matrix of a product.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    /// The weights.
    pub matrix: &'a PackedMatrix,
    /// `[matrix.rows()]`
    pub bias: Option<&'a [f32]>,
    /// Where its outputs begin in an output row.
    pub column: usize,
}

/// Multiplies.
///
/// # Panics
/// If shapes do not fit, or inputs do not come in the form that a matrix reads.
pub fn linear(cpu: &Cpu, args: Linear<'_>) {
    validate(cpu, &args);
    let Linear { input, rows, segments, output, output_stride, accumulate } = args;
    let columns = segments[0].matrix.columns();
    let output = DisjointSlice::new(output);
    let panels: usize = segments.iter().map(|segment| segment.matrix.panels()).sum();
    let most = segments
        .iter()
        .map(|segment| rows_most(segment.matrix.layout().input_form(cpu.isa.rung()), columns))
        .min();
    let row_block = row_block(rows, most.unwrap_or(ROW_TILE));
    cpu.pool.run(&|worker| {
        let share = partition(panels, cpu.pool.threads(), worker);
        for start in (0..rows).step_by(row_block) {
            let rows = start..rows.min(start + row_block);
            for (segment, panels) in panels_in(segments, share.clone()) {
                // SAFETY: each panel belongs to one worker.
                let target = unsafe { Target::new(segment, &output, output_stride, accumulate) };
                let matrix = segment.matrix;
                let part = Part { matrix, panels, input, rows: rows.clone() };
                compute(cpu, part, &target);
            }
        }
    });
}

fn validate(cpu: &Cpu, args: &Linear<'_>) {
    assert!(!args.segments.is_empty(), "linear: no matrix");
    let columns = args.segments[0].matrix.columns();
    assert!(args.output.len() >= args.rows * args.output_stride, "linear: output too short");
    for segment in args.segments {
        let matrix = segment.matrix;
        assert!(matrix.columns() == columns, "linear: matrices of different widths");
        assert!(
            segment.column + matrix.rows() <= args.output_stride,
            "linear: output rows too short"
        );
        assert!(segment.bias.is_none_or(|bias| bias.len() == matrix.rows()), "linear: bias length");
        match matrix.layout().input_form(cpu.isa.rung()) {
            InputForm::Floats => {
                assert!(args.input.floats.len() >= args.rows * columns, "linear: input too short");
            }
            InputForm::Rounded => {
                let input = args.input.rounded.expect("linear: bf16 weights need rounded inputs");
                assert!(input.width() == columns, "linear: rounded input of another width");
                assert!(input.rows() >= args.rows, "linear: rounded input too short");
            }
            InputForm::Quantized => {
                let input =
                    args.input.quantized.expect("linear: quantized weights need quantized inputs");
                assert!(input.width() == columns, "linear: quantized input of another width");
                assert!(input.rows() >= args.rows, "linear: quantized input too short");
            }
        }
    }
    let mut columns: Vec<Range<usize>> = args
        .segments
        .iter()
        .map(|segment| segment.column..segment.column + segment.matrix.rows())
        .collect();
    columns.sort_by_key(|range| range.start);
    assert!(columns.windows(2).all(|pair| pair[0].end <= pair[1].start), "linear: outputs overlap");
}

/// Of each matrix, the panels in `share` when those of all segments are counted one after another.
fn panels_in<'a>(
    segments: &'a [Segment<'a>],
    share: Range<usize>,
) -> impl Iterator<Item = (&'a Segment<'a>, Range<usize>)> {
    let mut before = 0;
    segments.iter().filter_map(move |segment| {
        let first = before;
        before += segment.matrix.panels();
        let range = share.start.max(first)..share.end.min(before);
        (!range.is_empty()).then(|| (segment, range.start - first..range.end - first))
    })
}

/// Most rows of a block.
fn rows_most(form: InputForm, columns: usize) -> usize {
    let columns = columns.max(1);
    match form {
        InputForm::Quantized => {
            (ROW_BLOCK_BYTES / columns).clamp(ROW_TILE, quantized::rows_max(columns))
        }
        InputForm::Rounded => (ROW_BLOCK_BYTES / (2 * columns)).max(DENSE_ROWS_MIN),
        InputForm::Floats => (ROW_BLOCK_BYTES / (4 * columns)).max(DENSE_ROWS_MIN),
    }
}

/// Rows in a block: blocks of about the same size, of at most `most` rows, in whole tiles.
fn row_block(rows: usize, most: usize) -> usize {
    let most = most / ROW_TILE * ROW_TILE;
    rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(ROW_TILE).min(most)
}

/// Where the outputs of a segment go.
struct Target<'a> {
    output: &'a DisjointSlice<'a, f32>,
    output_stride: usize,
    segment: &'a Segment<'a>,
    accumulate: bool,
}

impl<'a> Target<'a> {
    /// # Safety
    /// No panel is written by two threads at the same time.
    unsafe fn new(
        segment: &'a Segment<'a>,
        output: &'a DisjointSlice<'a, f32>,
        output_stride: usize,
        accumulate: bool,
    ) -> Self {
        Self { output, output_stride, segment, accumulate }
    }

    #[inline(always)]
    fn panel(&self, panel: usize) -> PanelTarget<'a> {
        let Segment { matrix, bias, column } = *self.segment;
        let outputs = panel * PANEL..matrix.rows().min((panel + 1) * PANEL);
        PanelTarget {
            output: self.output,
            output_stride: self.output_stride,
            first: column + outputs.start,
            valid: outputs.len(),
            bias: bias.map(|bias| &bias[outputs]),
            accumulate: self.accumulate,
        }
    }
}

/// Where the outputs of a panel go. Only made by [`Target`], for one thread.
struct PanelTarget<'a> {
    output: &'a DisjointSlice<'a, f32>,
    output_stride: usize,
    first: usize,
    /// Outputs there are: fewer than a panel's in the last one.
    valid: usize,
    bias: Option<&'a [f32]>,
    accumulate: bool,
}

impl PanelTarget<'_> {
    /// Writes the outputs for a row.
    #[inline(always)]
    fn write<L: Lanes>(&self, row: usize, values: L) {
        let first = row * self.output_stride + self.first;
        // SAFETY: each column of the output belongs to one panel, and each panel to one thread.
        let target = unsafe { self.output.part(first..first + self.valid) };
        let values = match self.bias {
            None => values,
            Some(bias) => values.add(L::load_some(bias)),
        };
        let values = if self.accumulate { L::load_some(target).add(values) } else { values };
        values.store_some(target);
    }

    /// The same in plain code.
    fn write_scalar(&self, row: usize, values: &[f32; PANEL]) {
        let first = row * self.output_stride + self.first;
        // SAFETY: as above.
        let target = unsafe { self.output.part(first..first + self.valid) };
        for (index, (target, value)) in target.iter_mut().zip(values).enumerate() {
            let value = self.bias.map_or(*value, |bias| value + bias[index]);
            *target = if self.accumulate { *target + value } else { value };
        }
    }
}

/// Some panels of a matrix against some rows.
struct Part<'a> {
    matrix: &'a PackedMatrix,
    panels: Range<usize>,
    input: Inputs<'a>,
    rows: Range<usize>,
}

/// Computes a part.
fn compute(cpu: &Cpu, part: Part<'_>, target: &Target<'_>) {
    let Part { matrix, panels, input, rows } = part;
    let Inputs { floats, quantized, rounded } = input;
    let numbered = panels.clone().map(|panel| (panel, matrix.panel(panel)));
    match (matrix.layout(), cpu.isa.rung()) {
        (Layout::Quantized(layout), rung) => {
            let input = quantized.expect("validated");
            if rung != Rung::Scalar {
                let panels = numbered;
                return launch(cpu.isa, quantized::Part { layout, input, rows, panels, target });
            }
            for (index, panel) in numbered {
                let target = target.panel(index);
                let emit = |row: usize, values: &[f32; PANEL]| target.write_scalar(row, values);
                scalar::quantized(layout, panel, input, rows.clone(), emit);
            }
        }
        (Layout::Dense(format), Rung::Scalar) => {
            for (index, panel) in numbered {
                let target = target.panel(index);
                let emit = |row: usize, values: &[f32; PANEL]| target.write_scalar(row, values);
                scalar::dense(format, panel, floats, matrix.columns(), rows.clone(), emit);
            }
        }
        (layout @ Layout::Dense(format), rung) => {
            if layout.input_form(rung) == InputForm::Rounded {
                let input = rounded.expect("validated");
                launch_pairs(cpu.isa, dense::Part { matrix, panels, input, rows, target });
            } else {
                let part = dense::Part { matrix, panels, input: floats, rows, target };
                launch(cpu.isa, (part, format));
            }
        }
    }
}
