//! Products of a matrix with a few rows, at the rate at which memory gives the weights.

use half::bf16;

use super::NextModule;
use crate::{Address, DeviceBuffer, Error, Gpu, Kernel, Shape, Stream, Unit};

/// Most rows that these kernels take.
pub const FEW_ROWS_MAX: usize = 8;

/// Outputs of a tile.
const TILE_OUTPUTS: usize = 16;
const EPILOGUES: usize = 4;

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
    outputs.div_ceil(TILE_OUTPUTS)
}

/// A product.
#[derive(Debug)]
pub struct FewRows<'a> {
    /// `[outputs][inputs]`, with a gate `[2 × outputs][inputs]`.
    pub weights: &'a DeviceBuffer<bf16>,
    /// `[rows][inputs]`.
    pub input: &'a DeviceBuffer<bf16>,
    /// What is left to do of the norm before, if anything is.
    pub factor: Option<NormFactor<'a>>,
    /// Added to each row of outputs; not with a gate.
    pub bias: Option<&'a DeviceBuffer<f32>>,
    /// `[rows][output_stride]`.
    pub sink: Sink<'a>,
    /// Rows, at most [`FEW_ROWS_MAX`].
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

/// The kernels, by epilogue.
#[derive(Debug)]
pub struct FewRowsKernels {
    kernels: Vec<Kernel<FewRowsArguments>>,
    /// Blocks that share the tiles out.
    blocks: usize,
    /// Shared memory of a block: so much that two do not fit on a multiprocessor.
    shared_bytes: u32,
}

pub(super) fn units() -> Vec<Unit> {
    let unit = |epilogue: usize| Unit {
        name: "few_rows",
        source: include_str!("few_rows.cu"),
        macros: vec![("EPILOGUE", epilogue.to_string())],
    };
    (0..EPILOGUES).map(unit).collect()
}

impl FewRowsKernels {
    pub(super) fn new(gpu: &Gpu, next: &mut NextModule<'_>) -> Result<Self, Error> {
        /// What the kernel has besides, at the most.
        const STATIC_BYTES: u32 = 20 << 10;
        let most = gpu.properties().shared_bytes_max;
        let shared_bytes = (most / 2 + 1024).min(most - STATIC_BYTES);
        let kernels: Result<_, Error> =
            (0..EPILOGUES).map(|_| next()?.kernel("few_rows", shared_bytes)).collect();
        Ok(Self {
            kernels: kernels?,
            blocks: gpu.properties().multiprocessors as usize,
            shared_bytes,
        })
    }

    /// Multiplies.
    ///
    /// # Panics
    /// If there are more rows than [`FEW_ROWS_MAX`], or a buffer is too small.
    pub fn multiply(&self, stream: &Stream, args: &FewRows<'_>) -> Result<(), Error> {
        let &FewRows { rows, outputs, inputs, output_stride, .. } = args;
        assert!((1..=FEW_ROWS_MAX).contains(&rows), "{rows} rows");
        assert!(inputs.is_multiple_of(8) && outputs <= output_stride, "shape");
        let (epilogue, output, len) = match args.sink {
            Sink::Bf16(buffer) => (0, buffer.address(), buffer.len()),
            Sink::F32(buffer) => (1, buffer.address(), buffer.len()),
            Sink::Residual(buffer, _) => (2, buffer.address(), buffer.len()),
            Sink::Gated(buffer) => (3, buffer.address(), buffer.len()),
        };
        let is_gated = epilogue == 3;
        assert!(len >= (rows - 1) * output_stride + outputs, "output");
        assert!(args.input.len() >= rows * inputs, "input");
        let matrix_rows = if is_gated { 2 * outputs } else { outputs };
        assert!(args.weights.len() >= matrix_rows * inputs, "weights");
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
        let blocks = self.blocks.min(outputs.div_ceil(TILE_OUTPUTS));
        let kernel = &self.kernels[epilogue];
        let shape = Shape { shared_bytes: self.shared_bytes, ..Shape::row(blocks, 256) };
        // SAFETY: the sizes were checked above.
        unsafe { kernel.launch(stream, shape, arguments) }
    }
}
