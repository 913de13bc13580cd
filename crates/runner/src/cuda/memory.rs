//! What a step works in, and the pages of keys and values: all taken before the first request.

use cuda::{
    DeviceBuffer, Stream,
    kernels::{
        BLOCK_TOKENS, Report,
        products::{Matrix, TILE_ROWS, square_sums},
    },
};
use half::bf16;
use models::DecoderSpec;

use super::{CudaModel, CudaOptions, load::Layer, walk::padded_rows};
use crate::Error;

/// Rows of logits computed together at most; more outputs than this take several passes over the head.
const OUTPUT_ROWS_MAX: usize = 256;
/// Products of many rows are done for a multiple of this many.
pub(super) const ROWS_MULTIPLE: usize = 128;

/// Buffers of activations. Rows past those of a step hold what was there before. Clones are the same memory.
#[derive(Clone)]
pub(super) struct Workspace {
    /// Positions that fit.
    pub(super) rows: usize,
    /// Outputs that fit at once.
    pub(super) output_rows: usize,
    pub(super) residual: DeviceBuffer<f32>,
    pub(super) normed: DeviceBuffer<bf16>,
    pub(super) qkv: DeviceBuffer<bf16>,
    pub(super) attended: DeviceBuffer<bf16>,
    pub(super) gate_up: DeviceBuffer<bf16>,
    pub(super) gated: DeviceBuffer<bf16>,
    pub(super) angles: DeviceBuffer<f32>,
    /// Sums of squares that products of few rows leave for the norm after them.
    pub(super) squares: DeviceBuffer<f32>,
    /// Weights as bfloat16, for products of many rows with a quantized matrix, or a part of one.
    pub(super) dequantized: DeviceBuffer<bf16>,
    pub(super) selected: DeviceBuffer<bf16>,
    pub(super) logits: DeviceBuffer<f32>,
    /// Log-probabilities of a step, by output.
    pub(super) reports: DeviceBuffer<Report>,
    /// How often each token was seen, `[slots + 1][vocabulary]`, for requests with penalties.
    pub(super) counts: DeviceBuffer<u32>,
    /// Tokens that are to be counted.
    pub(super) counted: DeviceBuffer<i32>,
    /// Tokens drawn in a step, by output.
    pub(super) drawn: DeviceBuffer<i32>,
    /// The token drawn last, by slot.
    pub(super) last_tokens: DeviceBuffer<i32>,
    pub(super) bytes: u64,
}

/// Positions of a step that are worth their memory: many make products faster and spare mixed steps, by some percent.
/// `[most, least]`.
const STEP_TOKENS: [u32; 2] = [8192, 2048];
/// The part of the GPU's memory that activations of a step should take at most.
const ACTIVATIONS_PART: u64 = 64;

/// Positions of a step by default, where a GPU has so much memory.
pub(super) fn step_tokens_default(spec: &DecoderSpec, memory_bytes: u64) -> u32 {
    // The normed rows, and the residual stream in floats.
    let halves =
        3 * spec.width + spec.qkv_width() + spec.heads * spec.head_dim + 3 * spec.feed_forward;
    let row_bytes = 2 * halves as u64;
    let [most, least] = STEP_TOKENS;
    let fits = |tokens: &u32| u64::from(*tokens) * row_bytes <= memory_bytes / ACTIVATIONS_PART;
    std::iter::successors(Some(most), |tokens| Some(tokens / 2))
        .take_while(|tokens| *tokens > least)
        .find(fits)
        .unwrap_or(least)
}

impl Workspace {
    pub(super) fn new(
        model: &CudaModel,
        options: &CudaOptions,
        context_max: usize,
    ) -> Result<Self, Error> {
        let (spec, stream) = (&model.spec, &*model.stream);
        let rows = (options.step_tokens_max as usize).next_multiple_of(ROWS_MULTIPLE);
        let output_rows = (options.slots_max as usize).min(OUTPUT_ROWS_MAX);
        let slots = options.slots_max as usize;
        let mut bytes = 0;
        let mut halves = |rows: usize, width: usize| {
            bytes += (2 * rows * width) as u64;
            DeviceBuffer::zeroed(stream, rows * width, "activations")
        };
        let normed = halves(rows, spec.width)?;
        let qkv = halves(rows, spec.qkv_width())?;
        let attended = halves(rows, spec.heads * spec.head_dim)?;
        let gate_up = halves(rows, 2 * spec.feed_forward)?;
        let gated = halves(rows, spec.feed_forward)?;
        let dequantized = halves(1, dequantized_len(model))?;
        let selected = halves(output_rows.next_multiple_of(ROWS_MULTIPLE), spec.width)?;
        let mut floats = |rows: usize, width: usize| {
            bytes += (4 * rows * width) as u64;
            DeviceBuffer::zeroed(stream, rows * width, "activations")
        };
        let residual = floats(rows, spec.width)?;
        let angles = floats(rows, 2 * model.frequencies.len())?;
        let squares = floats(model.fused_rows_max, square_sums(spec.width))?;
        let logits = floats(output_rows.next_multiple_of(ROWS_MULTIPLE), spec.vocab_size)?;
        let reports = DeviceBuffer::zeroed(stream, padded_rows(slots), "log-probabilities")?;
        // One more, as for the last tokens.
        let counts = DeviceBuffer::zeroed(stream, (slots + 1) * spec.vocab_size, "token counts")?;
        let counted = DeviceBuffer::zeroed(stream, context_max, "tokens")?;
        let bytes = bytes + (reports.bytes() + counts.bytes() + counted.bytes()) as u64;
        let drawn = DeviceBuffer::zeroed(stream, padded_rows(slots), "tokens")?;
        // One more, for rows that only fill a step up.
        let last_tokens = DeviceBuffer::zeroed(stream, slots + 1, "tokens")?;
        Ok(Self {
            rows,
            output_rows,
            residual,
            normed,
            qkv,
            attended,
            gate_up,
            gated,
            dequantized,
            angles,
            squares,
            selected,
            logits,
            reports,
            counts,
            counted,
            drawn,
            last_tokens,
            bytes,
        })
    }
}

/// Weights that are dequantized together at most: a matrix of a layer, unless that is very large.
fn dequantized_len(model: &CudaModel) -> usize {
    const LEN_MAX: usize = 1 << 27;
    let segments = model.layers.iter().flat_map(Layer::products).chain([&model.logits]).flatten();
    let lens = segments.filter_map(|segment| match &segment.matrix {
        Matrix::Dense(_) => None,
        Matrix::Quantized(matrix) => {
            let (rows, columns) = (segment.rows.next_multiple_of(TILE_ROWS), matrix.columns());
            Some((rows * columns).min(LEN_MAX.max(TILE_ROWS * columns)))
        }
    });
    lens.max().unwrap_or(0)
}

/// Keys and values of a layer, which clones share, `[blocks][kv_heads][16][head_dim]` each.
#[derive(Clone)]
pub(super) struct LayerCache {
    pub(super) keys: DeviceBuffer<bf16>,
    pub(super) values: DeviceBuffer<bf16>,
}

/// Bytes of one block of positions over all layers.
pub(super) fn block_bytes(spec: &DecoderSpec) -> u64 {
    (2 * BLOCK_TOKENS * spec.kv_values_per_token()) as u64
}

/// Takes the pages of all layers, and one block more, for rows that only fill a step up.
pub(super) fn caches(
    spec: &DecoderSpec,
    stream: &Stream,
    blocks: usize,
) -> Result<Vec<LayerCache>, Error> {
    let len = (blocks + 1) * spec.kv_heads * BLOCK_TOKENS * spec.head_dim;
    let pool = || DeviceBuffer::zeroed(stream, len, "the KV cache");
    (0..spec.layers).map(|_| Ok(LayerCache { keys: pool()?, values: pool()? })).collect()
}
