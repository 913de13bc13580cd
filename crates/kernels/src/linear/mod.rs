//! Matrix products `y = W x + bias` for a batch of rows, with packed weights.
//!
//! Weights come in panels of 16 outputs (see [`PackedMatrix`]); a worker takes a contiguous share of the panels.
//! Dense weights multiply float inputs; quantized weights multiply inputs quantized to 8 bits, with exact integer
//! dot products within a block of 32 and float sums over blocks. The order of additions for one output is the same
//! whatever the number of rows, so that a row's result does not depend on its company.

mod dense;
mod packed;
mod quantized;
mod scalar;

#[cfg(test)]
mod cases;

use std::ops::Range;

use device::cpu::{Cpu, DisjointSlice, Rung, partition};

pub use packed::{
    DenseFormat, Layout, PANEL, PackedMatrix, QuantizedLayout, Scales, UnpackedBlock, Zero,
};

use crate::{
    lanes::launch,
    quantize::{BLOCK, Q8Rows},
};

/// Bytes of inputs that are kept in the second-level cache while panels stream past them.
const ROW_BLOCK_BYTES: usize = 256 * 1024;
/// Row blocks are multiples of as many rows as a kernel takes together at most.
const ROW_TILE: usize = 12;

/// Arguments of [`linear`].
pub struct Linear<'a> {
    /// `[rows][columns]`; read by dense matrices.
    pub input: &'a [f32],
    /// The same quantized; read by quantized matrices.
    pub quantized: Option<&'a Q8Rows>,
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
/// If shapes do not fit, or a quantized matrix comes without quantized inputs.
pub fn linear(cpu: &Cpu, args: Linear<'_>) {
    validate(&args);
    let Linear { input, quantized, rows, segments, output, output_stride, accumulate } = args;
    let columns = segments[0].matrix.columns();
    let output = DisjointSlice::new(output);
    let panels: usize = segments.iter().map(|segment| segment.matrix.panels()).sum();
    let row_block = (ROW_BLOCK_BYTES / columns.max(1)).clamp(ROW_TILE, quantized::ROWS_MAX);
    let row_block = row_block / ROW_TILE * ROW_TILE;
    cpu.pool.run(&|worker| {
        let share = partition(panels, cpu.pool.threads(), worker);
        for start in (0..rows).step_by(row_block) {
            let rows = start..rows.min(start + row_block);
            for (segment, panels) in panels_in(segments, share.clone()) {
                let emit = |panel: usize, row: usize, values: &[f32; PANEL]| {
                    let first = row * output_stride + segment.column + panel * PANEL;
                    let valid = PANEL.min(segment.matrix.rows() - panel * PANEL);
                    // SAFETY: each column of the output belongs to one panel, and each panel to one worker.
                    let target = unsafe { output.part(first..first + valid) };
                    let bias = segment.bias.map(|bias| &bias[panel * PANEL..][..valid]);
                    write(target, values, bias, accumulate);
                };
                let part =
                    Part { matrix: segment.matrix, panels, input, quantized, rows: rows.clone() };
                compute(cpu, part, emit);
            }
        }
    });
}

fn validate(args: &Linear<'_>) {
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
        match matrix.layout() {
            Layout::Dense(_) => {
                assert!(args.input.len() >= args.rows * columns, "linear: input too short");
            }
            Layout::Quantized(_) => {
                let input =
                    args.quantized.expect("linear: quantized weights need quantized inputs");
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

fn write(target: &mut [f32], values: &[f32; PANEL], bias: Option<&[f32]>, accumulate: bool) {
    for (index, (target, value)) in target.iter_mut().zip(values).enumerate() {
        let value = bias.map_or(*value, |bias| value + bias[index]);
        *target = if accumulate { *target + value } else { value };
    }
}

/// Some panels of a matrix against some rows.
struct Part<'a> {
    matrix: &'a PackedMatrix,
    panels: Range<usize>,
    input: &'a [f32],
    quantized: Option<&'a Q8Rows>,
    rows: Range<usize>,
}

/// Computes a part; `emit` takes panel, row and outputs.
fn compute(cpu: &Cpu, part: Part<'_>, mut emit: impl FnMut(usize, usize, &[f32; PANEL])) {
    let Part { matrix, panels, input, quantized, rows } = part;
    let columns = matrix.columns();
    let panels = panels.map(|panel| (panel, matrix.panel(panel)));
    match (matrix.layout(), quantized, cpu.isa.rung()) {
        (Layout::Quantized(layout), Some(input), Rung::Scalar) => {
            for (index, panel) in panels {
                let emit = |row: usize, values: &[f32; PANEL]| emit(index, row, values);
                scalar::quantized(layout, panel, input, rows.clone(), emit);
            }
        }
        (Layout::Quantized(layout), Some(input), _) => {
            launch(cpu.isa, quantized::Part { layout, input, rows, panels, emit: &mut emit });
        }
        (Layout::Dense(format), _, rung) => {
            for (index, panel) in panels {
                let mut emit = |row: usize, values: &[f32; PANEL]| emit(index, row, values);
                let rows = rows.clone();
                if rung == Rung::Scalar {
                    scalar::dense(format, panel, input, columns, rows, emit);
                } else {
                    let emit = &mut emit;
                    let part = dense::Part { format, panel, input, columns, rows, emit };
                    launch(cpu.isa, part);
                }
            }
        }
        (Layout::Quantized(_), None, _) => unreachable!("validated"),
    }
}
