//! Products of quantized weights with tens of rows.

use half::bf16;
use kernels::linear::QuantizedLayout;

use super::{
    few_rows::Sink,
    quantized::{Matrix, TILE_ROWS, macros, stored_bytes},
};
use crate::{
    Address, DeviceBuffer, Error, Gpu, Kernel, Shape, Stream, Unit,
    kernels::{KernelOptions, NextModule},
};

/// Most rows for which these kernels are faster than making bfloat16 of the weights first.
pub const TILED_ROWS_MAX: usize = 128;

/// Rows of the matrix that a block takes (`MATRIX_ROWS` in the source).
const MATRIX_ROWS: usize = 128;
/// Inputs of a stage.
const STAGE_INPUTS: usize = 128;
const WARPS: usize = 8;
/// Rows of the input that a block takes.
const ROWS: [usize; 2] = [64, 128];
const EPILOGUES: usize = 4;
/// The last epilogue has two matrices.
const GATED: usize = 3;
/// More stages on their way gain nothing.
const STAGES_MAX: usize = 4;
/// Parts of the inputs at most that blocks take apart.
const SPLITS_MAX: usize = 16;
/// What a block has besides its dynamic shared memory, at the most.
const STATIC_BYTES: usize = 128;
/// What a multiprocessor keeps of its shared memory for each block.
const RESERVED_BYTES: usize = 1 << 10;

/// A kernel of a kind: what its macros say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    layout: QuantizedLayout,
    rows: usize,
    epilogue: usize,
    stages: usize,
}

impl Variant {
    /// All that a model needs and the device has room for, in the order in which they are compiled.
    fn all(options: &KernelOptions) -> Vec<Self> {
        let mut all = Vec::new();
        for &layout in &options.layouts {
            for rows in ROWS {
                let stages = stages(layout, rows, options.shared_bytes_max as usize);
                let variant = |epilogue| Self { layout, rows, epilogue, stages };
                all.extend((0..EPILOGUES).filter(|_| stages >= 2).map(variant));
            }
        }
        all
    }

    fn shared_bytes(self) -> usize {
        // Sums take the place of the ring in the end.
        let sums = self.rows * (MATRIX_ROWS + 4) * 4;
        (self.stages * stage_bytes(self.layout, self.rows)).max(sums)
    }

    fn unit(self) -> Unit {
        let mut macros = macros(self.layout);
        macros.extend([
            ("ROWS", self.rows.to_string()),
            ("STAGES", self.stages.to_string()),
            ("EPILOGUE", self.epilogue.to_string()),
        ]);
        Unit { name: "tiled", source: include_str!("tiled.cu"), macros }
    }
}

fn stage_bytes(layout: QuantizedLayout, rows: usize) -> usize {
    2 * rows * STAGE_INPUTS + 2 * WARPS * stored_bytes(layout)
}

/// Stages that a block has room for: half of a multiprocessor is one's that takes few rows, if two stages fit there.
fn stages(layout: QuantizedLayout, rows: usize, shared_bytes_max: usize) -> usize {
    let half = (shared_bytes_max + RESERVED_BYTES) / 2 - RESERVED_BYTES;
    let fit = |bytes: usize| ((bytes - STATIC_BYTES) / stage_bytes(layout, rows)).min(STAGES_MAX);
    if rows == ROWS[0] && fit(half) >= 2 { fit(half) } else { fit(shared_bytes_max) }
}

/// A product.
#[derive(Debug)]
pub struct Tiled<'a> {
    /// `[outputs][inputs]`, with a gate `[2 × outputs][inputs]`, where outputs are a multiple of 16; quantized.
    pub weights: &'a Matrix,
    /// `[rows][inputs]`.
    pub input: &'a DeviceBuffer<bf16>,
    /// `[rows][output_stride]`; no norm can follow.
    pub sink: Sink<'a>,
    /// Rows.
    pub rows: usize,
    /// Outputs of a row.
    pub outputs: usize,
    /// Inputs of a row, a multiple of 32.
    pub inputs: usize,
    /// Elements from one output row to the next.
    pub output_stride: usize,
}

/// Memory that the kernels need besides their arguments. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct TiledScratch {
    partials: DeviceBuffer<f32>,
    arrivals: DeviceBuffer<u32>,
}

arguments!(TiledArguments {
    weights: Address,
    input: Address,
    output: Address,
    partials: Address,
    arrivals: Address,
    rows: i32,
    outputs: i32,
    inputs: i32,
    output_stride: i32,
});

/// The kernels.
#[derive(Debug)]
pub struct TiledKernels(Vec<Loaded>);

#[derive(Debug)]
struct Loaded {
    variant: Variant,
    kernel: Kernel<TiledArguments>,
    /// Blocks on the device at once.
    blocks: usize,
}

pub(in crate::kernels) fn units(options: &KernelOptions) -> Vec<Unit> {
    Variant::all(options).into_iter().map(Variant::unit).collect()
}

impl TiledKernels {
    pub(in crate::kernels) fn new(
        gpu: &Gpu,
        options: &KernelOptions,
        next: &mut NextModule<'_>,
    ) -> Result<Self, Error> {
        let multiprocessors = gpu.properties().multiprocessors as usize;
        let load = |variant: Variant| {
            let shared_bytes = variant.shared_bytes() as u32;
            let kernel: Kernel<TiledArguments> = next()?.kernel("tiled", shared_bytes)?;
            let blocks = kernel.blocks_per_multiprocessor(32 * WARPS as u32, shared_bytes)?;
            Ok(Loaded { variant, kernel, blocks: blocks.max(1) as usize * multiprocessors })
        };
        Ok(Self(Variant::all(options).into_iter().map(load).collect::<Result<_, Error>>()?))
    }

    /// Memory for products, one at a time. None, if there are no quantized matrices.
    pub fn scratch(&self, stream: &Stream) -> Result<TiledScratch, Error> {
        let sums = |loaded: &Loaded| loaded.blocks * loaded.variant.rows * MATRIX_ROWS;
        let blocks = self.0.iter().map(|loaded| loaded.blocks).max().unwrap_or(0);
        let partials = self.0.iter().map(sums).max().unwrap_or(0);
        Ok(TiledScratch {
            partials: DeviceBuffer::new(stream.gpu(), partials.max(1), "products")?,
            arrivals: DeviceBuffer::zeroed(stream, blocks.max(1), "products")?,
        })
    }

    /// Whether there is a kernel for products with such a matrix and so many rows.
    pub fn takes(&self, layout: Option<QuantizedLayout>, rows: usize) -> bool {
        rows <= TILED_ROWS_MAX && layout.is_some_and(|layout| self.find(layout, rows, 0).is_some())
    }

    /// The kernel for so many rows: that for as many of them as there are, if there is one.
    fn find(&self, layout: QuantizedLayout, rows: usize, epilogue: usize) -> Option<&Loaded> {
        let fits = |loaded: &&Loaded| {
            loaded.variant.layout == layout && loaded.variant.epilogue == epilogue
        };
        let mut fitting = self.0.iter().filter(fits);
        let first = fitting.next()?;
        if rows <= first.variant.rows { Some(first) } else { fitting.next().or(Some(first)) }
    }

    /// Multiplies.
    ///
    /// # Panics
    /// If the weights are not quantized or of a layout that was not compiled, a buffer is too small, or a norm follows.
    pub fn multiply(
        &self,
        stream: &Stream,
        args: &Tiled<'_>,
        scratch: &TiledScratch,
    ) -> Result<(), Error> {
        let &Tiled { rows, outputs, inputs, output_stride, .. } = args;
        let layout = args.weights.layout().expect("weights are quantized");
        assert!(rows > 0 && inputs.is_multiple_of(32) && outputs <= output_stride, "shape");
        let (epilogue, output, len) = match args.sink {
            Sink::Bf16(buffer) => (0, buffer.address(), buffer.len()),
            Sink::F32(buffer) => (1, buffer.address(), buffer.len()),
            Sink::Residual(buffer, None) => (2, buffer.address(), buffer.len()),
            Sink::Residual(_, Some(_)) => panic!("no norm can follow"),
            Sink::Gated(buffer) => (3, buffer.address(), buffer.len()),
        };
        let is_gated = epilogue == GATED;
        assert!(len >= (rows - 1) * output_stride + outputs, "output");
        assert!(args.input.len() >= rows * inputs, "input");
        let matrix_rows = if is_gated { 2 * outputs } else { outputs };
        assert!(args.weights.holds(matrix_rows, inputs), "weights");
        assert!(!is_gated || outputs.is_multiple_of(TILE_ROWS), "whole tiles");
        let Loaded { variant, kernel, blocks } = self
            .find(layout, rows, epilogue)
            .expect("kernels for all layouts of a model were compiled");
        let block_outputs = if is_gated { MATRIX_ROWS / 2 } else { MATRIX_ROWS };
        let (row_blocks, matrix_blocks) =
            (rows.div_ceil(variant.rows), outputs.div_ceil(block_outputs));
        // Blocks that would have nothing to do take a part of the inputs of others.
        let stages = inputs.div_ceil(STAGE_INPUTS);
        let splits = (blocks / (row_blocks * matrix_blocks)).clamp(1, SPLITS_MAX.min(stages));
        let arguments = TiledArguments {
            weights: args.weights.address(),
            input: args.input.address(),
            output,
            partials: scratch.partials.address(),
            arrivals: scratch.arrivals.address(),
            rows: rows as i32,
            outputs: outputs as i32,
            inputs: inputs as i32,
            output_stride: output_stride as i32,
        };
        let shape = Shape {
            grid: (row_blocks as u32, matrix_blocks as u32, splits as u32),
            shared_bytes: variant.shared_bytes() as u32,
            ..Shape::row(1, 32 * WARPS as u32)
        };
        // SAFETY: the sizes were checked above; as many blocks as fit on the device at once share outputs at most.
        unsafe { kernel.launch(stream, shape, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use kernels::linear::{Scales, Zero};

    use super::*;

    #[test]
    fn blocks_fit_every_generation() {
        let layout =
            |bits, scale_block, scales, zero| QuantizedLayout { bits, scale_block, scales, zero };
        let layouts = vec![
            layout(4, 32, Scales::Half, Zero::Minimum),
            layout(8, 32, Scales::Half, Zero::Point(128)),
            layout(6, 16, Scales::Nested, Zero::Point(32)),
        ];
        // Of compute capability 8.6, 8.0 and 9.0.
        for shared_bytes_max in [99 << 10, 163 << 10, 227 << 10] {
            let options = KernelOptions {
                head_dim: 128,
                group: 4,
                layouts: layouts.clone(),
                hopper: false,
                shared_bytes_max,
            };
            let all = Variant::all(&options);
            for variant in &all {
                let bytes = variant.shared_bytes() + STATIC_BYTES;
                assert!(bytes <= shared_bytes_max as usize, "{variant:?} takes {bytes}");
                assert!(variant.stages >= 2, "{variant:?}");
            }
            for layout in &layouts {
                assert!(all.iter().any(|variant| variant.layout == *layout), "{layout:?}");
            }
        }
    }
}
