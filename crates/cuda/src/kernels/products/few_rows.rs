//! Products of a matrix with a few rows, at the rate at which memory gives the weights.

use half::bf16;
use kernels::linear::QuantizedLayout;

use super::quantized::{Matrix, STEP, TILE_ROWS, macros, stored_bytes};
use crate::{
    Address, DeviceBuffer, Error, Gpu, Kernel, Shape, Stream, Unit,
    kernels::{KernelOptions, NextModule},
};

/// Most rows that these kernels take with weights in bfloat16.
pub const DENSE_ROWS_MAX: usize = 8;
/// Most rows that these kernels take with quantized weights.
pub const QUANTIZED_ROWS_MAX: usize = 32;

/// What a block has besides its dynamic shared memory, at the most.
const STATIC_BYTES: usize = 1 << 10;

const EPILOGUES: usize = 4;
/// The last epilogue has two matrices.
const GATED: usize = 3;
/// Tiles of 8 rows that a kernel is compiled for.
const ROW_TILES: [usize; 3] = [1, 2, 4];

/// A kernel of a kind: what its macros say.
#[derive(Clone, Copy, Debug)]
struct Variant {
    layout: Option<QuantizedLayout>,
    row_tiles: usize,
    epilogue: usize,
}

impl Variant {
    /// All that a model needs, in the order in which they are compiled.
    fn all(layouts: &[QuantizedLayout]) -> impl Iterator<Item = Self> {
        let formats = std::iter::once(None).chain(layouts.iter().copied().map(Some));
        formats.flat_map(|layout| {
            let row_tiles =
                ROW_TILES.into_iter().filter(move |&tiles| 8 * tiles <= rows_max(layout));
            row_tiles.flat_map(move |row_tiles| {
                (0..EPILOGUES).map(move |epilogue| Self { layout, row_tiles, epilogue })
            })
        })
    }

    /// Many rows take the registers of twice as many warps, wide steps and sums of many their shared memory.
    fn warps(self) -> usize {
        let is_wide = self.tiles() == 2 && (self.row_tiles == 2 || self.slot_bytes() > 2048);
        if self.row_tiles > 2 || is_wide { 8 } else { 16 }
    }

    /// Shared memory for the sums of a block.
    fn sums_bytes(self) -> usize {
        let turns = if self.row_tiles <= 2 { 2 } else { 1 };
        turns * self.warps() * self.tiles() * self.row_tiles * 512
    }

    /// Tiles of weights that a warp has at once.
    fn tiles(self) -> usize {
        if self.epilogue == GATED || self.row_tiles >= 4 { 2 } else { 1 }
    }

    /// Bytes of the weights of a warp's step.
    fn slot_bytes(self) -> usize {
        self.tiles() * self.layout.map_or(16 * STEP * 2, stored_bytes)
    }

    /// Places of a warp's ring: what keeps memory busy, as far as there is room.
    fn stages(self, shared_bytes_max: u32) -> usize {
        /// Beyond this many bytes on their way to a multiprocessor nothing is gained.
        const RINGS_BYTES_MAX: usize = 128 << 10;
        /// A longer ring takes longer to fill than it gains.
        const STAGES_MAX: usize = 8;
        let room = shared_bytes_max as usize - STATIC_BYTES - self.sums_bytes();
        (room.min(RINGS_BYTES_MAX) / (self.warps() * self.slot_bytes())).clamp(2, STAGES_MAX)
    }

    /// Shared memory of a block.
    fn shared_bytes(self, shared_bytes_max: u32) -> usize {
        self.sums_bytes() + self.warps() * self.stages(shared_bytes_max) * self.slot_bytes()
    }

    fn unit(self, shared_bytes_max: u32) -> Unit {
        let mut macros = self.layout.map_or_else(Vec::new, macros);
        macros.extend([
            ("WARPS", self.warps().to_string()),
            ("STAGES", self.stages(shared_bytes_max).to_string()),
            ("ROW_TILES", self.row_tiles.to_string()),
            ("EPILOGUE", self.epilogue.to_string()),
        ]);
        Unit { name: "few_rows", source: include_str!("few_rows.cu"), macros }
    }
}

/// Most rows that these kernels take with such weights.
pub fn rows_max(layout: Option<QuantizedLayout>) -> usize {
    if layout.is_some() { QUANTIZED_ROWS_MAX } else { DENSE_ROWS_MAX }
}

/// Where the outputs go.
#[derive(Clone, Copy, Debug)]
pub enum Sink<'a> {
    /// Rounded to bfloat16.
    Bf16(&'a DeviceBuffer<bf16>),
    /// As floats.
    F32(&'a DeviceBuffer<f32>),
    /// Added to floats, which are prepared for the norm after them, if one is given.
    Residual(&'a DeviceBuffer<f32>, Option<NextNorm<'a>>),
    /// `silu(gate) × up` in bfloat16, where the matrix has all rows of the gate and then all of `up`.
    Gated(&'a DeviceBuffer<bf16>),
}

/// What a norm needs of the rows before it.
#[derive(Clone, Copy, Debug)]
pub struct NextNorm<'a> {
    /// Its weights, `[outputs]`.
    pub weight: &'a DeviceBuffer<f32>,
    /// `[rows][outputs]`: the rows times its weights.
    pub scaled: &'a DeviceBuffer<bf16>,
    /// `[rows][square_sums(outputs)]`: sums of squares.
    pub squares: &'a DeviceBuffer<f32>,
}

/// The rest of a norm whose weights are in the input already.
#[derive(Clone, Copy, Debug)]
pub struct NormFactor<'a> {
    /// As the product before left them.
    pub squares: &'a DeviceBuffer<f32>,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Sums of squares that a product with so many outputs leaves for each row.
pub fn square_sums(outputs: usize) -> usize {
    outputs.div_ceil(TILE_ROWS)
}

/// A product.
#[derive(Debug)]
pub struct FewRows<'a> {
    /// `[outputs][inputs]`, with a gate `[2 × outputs][inputs]`, where outputs are a multiple of 16 if it is quantized.
    pub weights: &'a Matrix,
    /// `[rows][inputs]`.
    pub input: &'a DeviceBuffer<bf16>,
    /// What is left to do of the norm before, if anything is.
    pub factor: Option<NormFactor<'a>>,
    /// Added to each row of outputs; not with a gate.
    pub bias: Option<&'a DeviceBuffer<f32>>,
    /// `[rows][output_stride]`.
    pub sink: Sink<'a>,
    /// Rows, at most [`DENSE_ROWS_MAX`] or [`QUANTIZED_ROWS_MAX`].
    pub rows: usize,
    /// Outputs of a row.
    pub outputs: usize,
    /// Inputs of a row, a multiple of 8.
    pub inputs: usize,
    /// Elements from one output row to the next.
    pub output_stride: usize,
}

arguments!(FewRowsArguments {
    weights: Address,
    input: Address,
    squares: Address,
    output: Address,
    bias: Address,
    next_norm: Address,
    next_input: Address,
    next_squares: Address,
    rows: i32,
    outputs: i32,
    inputs: i32,
    output_stride: i32,
    square_count: i32,
    epsilon: f32,
});

/// The kernels.
#[derive(Debug)]
pub struct FewRowsKernels {
    kernels: Vec<(Variant, u32, Kernel<FewRowsArguments>)>,
    /// Blocks that share the tiles out.
    blocks: usize,
}

pub(in crate::kernels) fn units(options: &KernelOptions) -> Vec<Unit> {
    Variant::all(&options.layouts).map(|variant| variant.unit(options.shared_bytes_max)).collect()
}

impl FewRowsKernels {
    pub(in crate::kernels) fn new(
        gpu: &Gpu,
        options: &KernelOptions,
        next: &mut NextModule<'_>,
    ) -> Result<Self, Error> {
        // At least so much shared memory that two blocks do not fit on a multiprocessor.
        let alone = options.shared_bytes_max / 2 + 1024;
        let kernels: Result<_, Error> = Variant::all(&options.layouts)
            .map(|variant| {
                let shared_bytes = alone.max(variant.shared_bytes(options.shared_bytes_max) as u32);
                Ok((variant, shared_bytes, next()?.kernel("few_rows", shared_bytes)?))
            })
            .collect();
        Ok(Self { kernels: kernels?, blocks: gpu.properties().multiprocessors as usize })
    }

    /// Multiplies.
    ///
    /// # Panics
    /// If there are more rows than these kernels take, a buffer is too small, or the weights' layout is not among those
    /// that were compiled.
    pub fn multiply(&self, stream: &Stream, args: &FewRows<'_>) -> Result<(), Error> {
        let &FewRows { rows, outputs, inputs, output_stride, .. } = args;
        let layout = args.weights.layout();
        assert!((1..=rows_max(layout)).contains(&rows), "{rows} rows");
        assert!(inputs.is_multiple_of(8) && outputs <= output_stride, "shape");
        let (epilogue, output, len) = match args.sink {
            Sink::Bf16(buffer) => (0, buffer.address(), buffer.len()),
            Sink::F32(buffer) => (1, buffer.address(), buffer.len()),
            Sink::Residual(buffer, _) => (2, buffer.address(), buffer.len()),
            Sink::Gated(buffer) => (3, buffer.address(), buffer.len()),
        };
        let is_gated = epilogue == GATED;
        assert!(len >= (rows - 1) * output_stride + outputs, "output");
        assert!(args.input.len() >= rows * inputs, "input");
        let matrix_rows = if is_gated { 2 * outputs } else { outputs };
        assert!(args.weights.holds(matrix_rows, inputs), "weights");
        assert!(!is_gated || layout.is_none() || outputs.is_multiple_of(TILE_ROWS), "whole tiles");
        assert!(args.bias.is_none_or(|bias| bias.len() == outputs && !is_gated), "bias");
        if let Some(factor) = args.factor {
            assert!(factor.squares.len() >= rows * square_sums(inputs), "sums of squares");
        }
        let next = match args.sink {
            Sink::Residual(_, next) => next,
            _ => None,
        };
        if let Some(next) = next {
            assert_eq!(next.weight.len(), outputs, "the next norm");
            assert!(next.scaled.len() >= rows * outputs, "the next input");
            assert!(next.squares.len() >= rows * square_sums(outputs), "sums of squares");
        }
        let arguments = FewRowsArguments {
            weights: args.weights.address(),
            input: args.input.address(),
            squares: args.factor.map_or(Address::NONE, |factor| factor.squares.address()),
            output,
            bias: args.bias.map_or(Address::NONE, DeviceBuffer::address),
            next_norm: next.map_or(Address::NONE, |next| next.weight.address()),
            next_input: next.map_or(Address::NONE, |next| next.scaled.address()),
            next_squares: next.map_or(Address::NONE, |next| next.squares.address()),
            rows: rows as i32,
            outputs: outputs as i32,
            inputs: inputs as i32,
            output_stride: output_stride as i32,
            square_count: square_sums(inputs) as i32,
            epsilon: args.factor.map_or(0.0, |factor| factor.epsilon),
        };
        let (variant, shared_bytes, kernel) = self
            .kernels
            .iter()
            .find(|(variant, ..)| {
                variant.layout == layout
                    && variant.epilogue == epilogue
                    && 8 * variant.row_tiles >= rows
            })
            .expect("kernels for all layouts of a model were compiled");
        let blocks = self.blocks.min(outputs.div_ceil(TILE_ROWS));
        let shape = Shape {
            shared_bytes: *shared_bytes,
            ..Shape::row(blocks, 32 * variant.warps() as u32)
        };
        // SAFETY: the sizes were checked above.
        unsafe { kernel.launch(stream, shape, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use kernels::linear::{Scales, Zero};

    use super::*;

    #[test]
    fn a_block_fits_every_generation() {
        let layout =
            |bits, scale_block, scales, zero| QuantizedLayout { bits, scale_block, scales, zero };
        let layouts = [
            layout(4, 32, Scales::Half, Zero::Minimum),
            layout(8, 32, Scales::Half, Zero::Point(128)),
            layout(5, 32, Scales::Nested, Zero::Minimum),
            layout(6, 16, Scales::Nested, Zero::Point(32)),
        ];
        // Of compute capability 8.6, 8.0 and 9.0.
        for shared_bytes_max in [99 << 10, 163 << 10, 227 << 10] {
            for variant in Variant::all(&layouts) {
                let bytes = variant.shared_bytes(shared_bytes_max) + STATIC_BYTES;
                assert!(bytes <= shared_bytes_max as usize, "{variant:?} takes {bytes}");
            }
        }
    }
}
