//! What happens to single rows: embedding, norms, rotary embedding with storing, the feed-forward's gate.

use half::bf16;
use kernels::linear::QuantizedLayout;

use super::{
    BLOCK_TOKENS, KernelOptions, NextModule,
    products::{Matrix, quantized::macros},
};
use crate::{Address, DeviceBuffer, Error, Kernel, Shape, Stream, Unit};

/// The kernels.
#[derive(Debug)]
pub struct RowKernels {
    head_dim: usize,
    /// By the layout of the table.
    embed: Vec<(Option<QuantizedLayout>, Kernel<EmbedArguments>)>,
    rms_norm: Kernel<RmsNormArguments>,
    rope_store: Kernel<RopeArguments>,
    silu_mul: Kernel<SiluMulArguments>,
}

/// Looks tokens up, makes the angles of the rotary embedding, and normalises for the first layer.
#[derive(Debug)]
pub struct Embed<'a> {
    /// For each row a token, or -1 - slot for the token drawn last for that slot.
    pub tokens: &'a DeviceBuffer<i32>,
    /// The token drawn last, by slot.
    pub last_tokens: &'a DeviceBuffer<i32>,
    /// `[vocabulary][width]`.
    pub table: &'a Matrix,
    /// `[rows][width]`.
    pub residual: &'a DeviceBuffer<f32>,
    /// Position of each row.
    pub positions: &'a DeviceBuffer<i32>,
    /// Radians a position, by pair.
    pub frequencies: &'a DeviceBuffer<f64>,
    /// `[rows][pairs][2]`: cosine and sine, times the magnitude.
    pub angles: &'a DeviceBuffer<f32>,
    /// Rows of the table.
    pub vocabulary: usize,
    /// Values of a row.
    pub width: usize,
    /// Rows.
    pub rows: usize,
    /// Factor of all angles' cosines and sines.
    pub magnitude: f32,
    /// Weights of the first norm, `[width]`.
    pub norm: &'a DeviceBuffer<f32>,
    /// The rows normalised, `[rows][width]`.
    pub normed: &'a DeviceBuffer<bf16>,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Normalises rows.
#[derive(Debug)]
pub struct RmsNorm<'a> {
    /// `[..][width]`.
    pub input: &'a DeviceBuffer<f32>,
    /// `[width]`.
    pub weight: &'a DeviceBuffer<f32>,
    /// `[rows][width]`.
    pub output: &'a DeviceBuffer<bf16>,
    /// Which input rows; all in order if absent.
    pub selected: Option<&'a DeviceBuffer<i32>>,
    /// Rows of output.
    pub rows: usize,
    /// Values of a row, a multiple of 4.
    pub width: usize,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Prepares queries, keys and values for attention and stores keys and values.
#[derive(Debug)]
pub struct RopeStore<'a> {
    /// `[rows][(heads + 2 × kv_heads) × head_dim]`.
    pub qkv: &'a DeviceBuffer<bf16>,
    /// `[rows][pairs][2]`.
    pub angles: &'a DeviceBuffer<f32>,
    /// Where each row's key and value go: block × 16 + offset.
    pub places: &'a DeviceBuffer<i32>,
    /// `[blocks][kv_heads][16][head_dim]`.
    pub keys: &'a DeviceBuffer<bf16>,
    /// The same.
    pub values: &'a DeviceBuffer<bf16>,
    /// Added to a row first.
    pub bias: Option<&'a DeviceBuffer<f32>>,
    /// Weights of the norm of query heads.
    pub query_norm: Option<&'a DeviceBuffer<f32>>,
    /// Weights of the norm of key heads.
    pub key_norm: Option<&'a DeviceBuffer<f32>>,
    /// Rows.
    pub rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Turned values of a head / 2.
    pub pairs: usize,
    /// Whether the values of a pair are neighbours.
    pub adjacent: bool,
    /// Added to the mean square of heads.
    pub epsilon: f32,
}

arguments!(EmbedArguments {
    tokens: Address,
    last_tokens: Address,
    table: Address,
    residual: Address,
    positions: Address,
    frequencies: Address,
    angles: Address,
    norm: Address,
    normed: Address,
    vocabulary: i32,
    width: i32,
    pairs: i32,
    magnitude: f32,
    epsilon: f32,
});
arguments!(RmsNormArguments {
    input: Address,
    weight: Address,
    output: Address,
    rows: Address,
    width: i32,
    epsilon: f32,
});
arguments!(RopeArguments {
    qkv: Address,
    angles: Address,
    places: Address,
    keys: Address,
    values: Address,
    bias: Address,
    query_norm: Address,
    key_norm: Address,
    stride: i32,
    heads: i32,
    kv_heads: i32,
    pairs: i32,
    adjacent: i32,
    epsilon: f32,
});
arguments!(SiluMulArguments { gate_up: Address, output: Address, width: i32, rows: i32 });

/// How tables may be held.
fn table_layouts(options: &KernelOptions) -> impl Iterator<Item = Option<QuantizedLayout>> {
    std::iter::once(None).chain(options.layouts.iter().copied().map(Some))
}

pub(super) fn units(options: &KernelOptions) -> Vec<Unit> {
    let embed = |layout: Option<QuantizedLayout>| Unit {
        name: "embed",
        source: include_str!("embed.cu"),
        macros: layout.map_or_else(Vec::new, macros),
    };
    let unit = |name, source| Unit { name, source, macros: Vec::new() };
    let rope_store = Unit {
        name: "rope",
        source: include_str!("rope.cu"),
        macros: vec![("HEAD_DIM", options.head_dim.to_string())],
    };
    let others = [
        unit("rmsnorm", include_str!("rmsnorm.cu")),
        rope_store,
        unit("silu_mul", include_str!("silu_mul.cu")),
    ];
    table_layouts(options).map(embed).chain(others).collect()
}

/// Threads of a block of these kernels.
const THREADS: u32 = 256;

impl RowKernels {
    pub(super) fn new(options: &KernelOptions, next: &mut NextModule<'_>) -> Result<Self, Error> {
        let embed: Result<_, Error> = table_layouts(options)
            .map(|layout| Ok((layout, next()?.kernel("embed", 0)?)))
            .collect();
        Ok(Self {
            head_dim: options.head_dim,
            embed: embed?,
            rms_norm: next()?.kernel("rmsnorm", 0)?,
            rope_store: next()?.kernel("rope_store", 0)?,
            silu_mul: next()?.kernel("silu_mul", 0)?,
        })
    }

    /// Looks the tokens of a step up.
    pub fn embed(&self, stream: &Stream, args: &Embed<'_>) -> Result<(), Error> {
        let &Embed { rows, width, magnitude, epsilon, .. } = args;
        let pairs = args.frequencies.len();
        assert!(width.is_multiple_of(2) && args.table.holds(args.vocabulary, width), "table");
        assert!(args.tokens.len() >= rows && args.positions.len() >= rows, "rows");
        assert!(args.residual.len() >= rows * width, "residual");
        assert!(args.norm.len() == width && args.normed.len() >= rows * width, "norm");
        assert!(args.angles.len() >= rows * pairs * 2, "angles");
        let arguments = EmbedArguments {
            tokens: args.tokens.address(),
            last_tokens: args.last_tokens.address(),
            table: args.table.address(),
            residual: args.residual.address(),
            positions: args.positions.address(),
            frequencies: args.frequencies.address(),
            angles: args.angles.address(),
            norm: args.norm.address(),
            normed: args.normed.address(),
            vocabulary: args.vocabulary as i32,
            width: width as i32,
            pairs: pairs as i32,
            magnitude,
            epsilon,
        };
        let layout = args.table.layout();
        let (_, kernel) = self
            .embed
            .iter()
            .find(|(other, _)| *other == layout)
            .expect("kernels for all layouts of a model were compiled");
        // SAFETY: the sizes were checked above.
        unsafe { kernel.launch(stream, Shape::row(rows, THREADS), arguments) }
    }

    /// Normalises rows.
    pub fn rms_norm(&self, stream: &Stream, args: &RmsNorm<'_>) -> Result<(), Error> {
        let &RmsNorm { rows, width, epsilon, .. } = args;
        assert!(width.is_multiple_of(4) && args.weight.len() == width, "width");
        assert!(args.output.len() >= rows * width, "output");
        match args.selected {
            Some(selected) => assert!(selected.len() >= rows, "selected rows"),
            None => assert!(args.input.len() >= rows * width, "input"),
        }
        let arguments = RmsNormArguments {
            input: args.input.address(),
            weight: args.weight.address(),
            output: args.output.address(),
            rows: args.selected.map_or(Address::NONE, DeviceBuffer::address),
            width: width as i32,
            epsilon,
        };
        // SAFETY: the sizes were checked above.
        unsafe { self.rms_norm.launch(stream, Shape::row(rows, THREADS), arguments) }
    }

    /// Prepares queries, keys and values, and stores keys and values.
    pub fn rope_store(&self, stream: &Stream, args: &RopeStore<'_>) -> Result<(), Error> {
        let &RopeStore { rows, heads, kv_heads, pairs, epsilon, .. } = args;
        let all_heads = heads + 2 * kv_heads;
        let stride = all_heads * self.head_dim;
        assert!(args.qkv.len() >= rows * stride, "rows of queries, keys and values");
        assert!(args.angles.len() >= rows * pairs * 2 && args.places.len() >= rows, "rows");
        assert!(2 * pairs <= self.head_dim, "turned values");
        let block = kv_heads * BLOCK_TOKENS * self.head_dim;
        assert!(args.keys.len().is_multiple_of(block), "whole blocks");
        assert_eq!(args.keys.len(), args.values.len(), "as many keys as values");
        let address = |values: Option<&DeviceBuffer<f32>>, len: usize| {
            values.map_or(Address::NONE, |values| {
                assert_eq!(values.len(), len, "biases and norms");
                values.address()
            })
        };
        let arguments = RopeArguments {
            qkv: args.qkv.address(),
            angles: args.angles.address(),
            places: args.places.address(),
            keys: args.keys.address(),
            values: args.values.address(),
            bias: address(args.bias, stride),
            query_norm: address(args.query_norm, self.head_dim),
            key_norm: address(args.key_norm, self.head_dim),
            stride: stride as i32,
            heads: heads as i32,
            kv_heads: kv_heads as i32,
            pairs: pairs as i32,
            adjacent: i32::from(args.adjacent),
            epsilon,
        };
        let blocks_of_heads = all_heads.div_ceil(8) as u32;
        let grid = (rows as u32, blocks_of_heads, 1);
        let shape = Shape { grid, ..Shape::row(rows, THREADS) };
        // SAFETY: the sizes were checked above.
        unsafe { self.rope_store.launch(stream, shape, arguments) }
    }

    /// Gates the feed-forward: `gate_up` is `[rows][2 × width]`, `output` `[rows][width]`; the width is a multiple of
    /// 8.
    pub fn silu_mul(
        &self,
        stream: &Stream,
        gate_up: &DeviceBuffer<bf16>,
        output: &DeviceBuffer<bf16>,
        (rows, width): (usize, usize),
    ) -> Result<(), Error> {
        assert!(width.is_multiple_of(8), "width");
        assert!(gate_up.len() >= rows * 2 * width && output.len() >= rows * width, "rows");
        let arguments = SiluMulArguments {
            gate_up: gate_up.address(),
            output: output.address(),
            width: width as i32,
            rows: rows as i32,
        };
        /// Enough to fill any GPU; the kernel goes round if there is more.
        const BLOCKS_MAX: usize = 4096;
        let blocks = (rows * width / 8).div_ceil(THREADS as usize).min(BLOCKS_MAX);
        // SAFETY: the sizes were checked above.
        unsafe { self.silu_mul.launch(stream, Shape::row(blocks, THREADS), arguments) }
    }
}
