//! Matrix products `y = W x + bias` for a batch of rows, with packed weights.
//!
//! Weights come in panels of 16 outputs (see [`PackedMatrix`]); a worker takes a contiguous share of the panels.
//! Dense weights multiply float inputs; quantized weights multiply inputs quantized to 8 bits, with exact integer
//! dot products within a block of 32 and float sums over blocks. The order of additions for one output is the same
//! whatever the number of rows, so that a row's result does not depend on its company.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dense;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packed;
mod scalar;

#[cfg(test)]
mod cases;

use std::ops::Range;

use device::cpu::{Cpu, DisjointSlice, Isa, Rung, partition};

pub use packed::{DenseFormat, Layout, PANEL, PackedMatrix, QuantizedLayout, UnpackedBlock, Zero};

use crate::{
    lanes::launch,
    quantize::{BLOCK, Q8Rows, SUM_BLOCK},
};

/// Bytes of inputs that are kept in the second-level cache while panels stream past them.
const ROW_BLOCK_BYTES: usize = 384 * 1024;
/// Rows that the kernels take together at most; row blocks are multiples of it.
const ROW_TILE: usize = 8;

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

/// Quantized inputs as the inner loops read them.
#[derive(Clone, Copy)]
struct Q8View<'a> {
    width: usize,
    values: &'a [i8],
    scales: &'a [f32],
    sums: &'a [i32],
    scaled_sums: &'a [f32],
}

impl<'a> Q8View<'a> {
    fn new(rows: &'a Q8Rows) -> Self {
        Self {
            width: rows.width(),
            values: &rows.values,
            scales: &rows.scales,
            sums: &rows.sums,
            scaled_sums: &rows.scaled_sums,
        }
    }
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
    let row_block = (ROW_BLOCK_BYTES / columns.max(1)).next_multiple_of(ROW_TILE).max(ROW_TILE);
    cpu.pool.run(&|worker| {
        let share = partition(panels, cpu.pool.threads(), worker);
        for start in (0..rows).step_by(row_block) {
            let rows = start..rows.min(start + row_block);
            for (segment, panel) in panels_in(segments, share.clone()) {
                let columns = segment.column + panel * PANEL;
                let valid = PANEL.min(segment.matrix.rows() - panel * PANEL);
                let emit = |row: usize, values: &[f32; PANEL]| {
                    let first = row * output_stride + columns;
                    // SAFETY: each column of the output belongs to one panel, and each panel to one worker.
                    let target = unsafe { output.part(first..first + valid) };
                    let bias = segment.bias.map(|bias| &bias[panel * PANEL..][..valid]);
                    write(target, values, bias, accumulate);
                };
                let quantized = quantized.map(Q8View::new);
                let matrix = segment.matrix;
                compute(
                    cpu.isa,
                    PanelRows { matrix, panel, input, quantized, rows: rows.clone() },
                    emit,
                );
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

/// The panels numbered `share` when those of all segments are counted one after another.
fn panels_in<'a>(
    segments: &'a [Segment<'a>],
    share: Range<usize>,
) -> impl Iterator<Item = (&'a Segment<'a>, usize)> {
    let mut before = 0;
    segments.iter().flat_map(move |segment| {
        let first = before;
        before += segment.matrix.panels();
        let range = share.start.max(first)..share.end.min(before);
        range.map(move |panel| (segment, panel - first))
    })
}

fn write(target: &mut [f32], values: &[f32; PANEL], bias: Option<&[f32]>, accumulate: bool) {
    for (index, (target, value)) in target.iter_mut().zip(values).enumerate() {
        let value = bias.map_or(*value, |bias| value + bias[index]);
        *target = if accumulate { *target + value } else { value };
    }
}

/// One panel of a matrix against some rows.
struct PanelRows<'a> {
    matrix: &'a PackedMatrix,
    panel: usize,
    input: &'a [f32],
    quantized: Option<Q8View<'a>>,
    rows: Range<usize>,
}

fn compute(isa: Isa, part: PanelRows<'_>, mut emit: impl FnMut(usize, &[f32; PANEL])) {
    let PanelRows { matrix, panel, input, quantized, rows } = part;
    let (columns, panel) = (matrix.columns(), matrix.panel(panel));
    match (matrix.layout(), quantized) {
        (Layout::Quantized(layout), Some(input)) => match isa.rung() {
            Rung::Scalar => scalar::quantized(layout, panel, input, rows, emit),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` with this rung proves that the CPU has its features; shapes were validated.
            Rung::Avx2 => unsafe { avx2::quantized(layout, panel, input, rows, &mut emit) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Rung::Avx512 => unsafe { avx512::quantized(layout, panel, input, rows, &mut emit) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Rung::Neon => unsafe { neon::quantized(layout, panel, input, rows, &mut emit) },
        },
        (Layout::Dense(format), _) => match isa.rung() {
            Rung::Scalar => scalar::dense(format, panel, input, columns, rows, emit),
            _ => launch(isa, dense::Part { format, panel, input, columns, rows, emit: &mut emit }),
        },
        (Layout::Quantized(_), None) => unreachable!("validated"),
    }
}
