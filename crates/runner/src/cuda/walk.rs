//! The kernel calls of a step, in order.

use std::{any::Any, collections::HashMap, ops::Range};

use cuda::{
    DeviceBuffer, Multiplier, Operands, OutputType, Product,
    kernels::{
        Embed, RmsNorm, RopeStore,
        attention::{Attention, TaskList, Tasks},
        products::{
            FewRows, Matrix, NextNorm, NormFactor, Sink, TILE_ROWS, Tiled, TiledScratch, rows_max,
        },
    },
};
use half::bf16;
use kernels::rope::RopePairs;
use models::DecoderSpec;

use super::{
    CudaModel,
    attention::Planner,
    batch::Views,
    load::{Layer, Segment},
    memory::{LayerCache, ROWS_MULTIPLE, Workspace},
    profile::{Family, Profiler},
};
use crate::Error;

/// Everything that the calls of a step use.
pub(super) struct Walker {
    pub(super) work: Workspace,
    pub(super) caches: Vec<LayerCache>,
    pub(super) planner: Planner,
    pub(super) multiplier: Multiplier,
    pub(super) tiled: TiledScratch,
    pub(super) profiler: Profiler,
}

/// Where the outputs of a product go.
#[derive(Clone, Copy)]
enum Target<'a> {
    Bf16(&'a DeviceBuffer<bf16>),
    F32(&'a DeviceBuffer<f32>),
    /// Added to the residual stream; with the weights of the norm that comes next, if one comes.
    Residual(Option<&'a DeviceBuffer<f32>>),
}

/// A product, and how many inputs a row has. Each segment has as many outputs as rows.
#[derive(Clone, Copy)]
struct Linear<'a> {
    weights: &'a [Segment],
    input: &'a DeviceBuffer<bf16>,
    /// Whether a part of the norm before is still to be done: where rows are few, it is.
    normed: bool,
    target: Target<'a>,
    inputs: usize,
}

impl<'a> Linear<'a> {
    /// The segments, and before how many outputs each begins.
    fn segments(&self) -> impl Iterator<Item = (usize, &'a Segment)> + use<'a> {
        self.weights.iter().scan(0, |end, segment| {
            *end += segment.rows;
            Some((*end - segment.rows, segment))
        })
    }

    fn outputs(&self) -> usize {
        self.weights.iter().map(|segment| segment.rows).sum()
    }
}

/// Rows for which products of many rows are done: few different ones, so that the fastest way is known for each.
pub(super) fn padded_rows(rows: usize) -> usize {
    let multiple = match rows {
        0..=64 => 16,
        65..=256 => 32,
        257..=512 => 64,
        _ => ROWS_MULTIPLE,
    };
    rows.next_multiple_of(multiple)
}

impl Walker {
    /// All memory that steps use but the model's, to be kept by whoever uses it.
    pub(super) fn buffers(&self) -> impl Any + Send + Sync + use<> {
        let products = (self.multiplier.workspace().clone(), self.tiled.clone());
        let scratch = (self.planner.scratch.clone(), products);
        (self.work.clone(), self.caches.clone(), scratch)
    }

    /// Computes all positions of a step. What attention does is known by its tasks, one list for each window, or not
    /// yet known but for that each sequence has one row.
    pub(super) fn body(
        &mut self,
        model: &CudaModel,
        views: &Views,
        tasks: Option<&[TaskList]>,
    ) -> Result<(), Error> {
        let (spec, stream, kernels) = (&model.spec, &*model.stream, &model.kernels);
        let rows = views.rows;
        let embed = Embed {
            tokens: &views.tokens,
            last_tokens: &self.work.last_tokens,
            table: &model.embedding[0].matrix,
            vocabulary: spec.vocab_size,
            residual: &self.work.residual,
            positions: &views.positions,
            frequencies: &model.frequencies,
            angles: &self.work.angles,
            width: spec.width,
            rows,
            magnitude: model.magnitude,
            norm: &model.layers[0].attention_norm,
            normed: &self.work.normed,
            epsilon: spec.norm_epsilon,
        };
        kernels.rows.embed(stream, &embed)?;
        self.profiler.mark(stream, Family::Embedding)?;
        for index in 0..spec.layers {
            self.attention(model, views, tasks, index)?;
            self.feed_forward(model, rows, index)?;
        }
        Ok(())
    }

    fn attention(
        &mut self,
        model: &CudaModel,
        views: &Views,
        tasks: Option<&[TaskList]>,
        index: usize,
    ) -> Result<(), Error> {
        let (spec, stream, kernels) = (&model.spec, &*model.stream, &model.kernels);
        let rows = views.rows;
        let (layer, width) = (&model.layers[index], spec.width);
        // The embedding normalises for the first layer.
        if index > 0 {
            self.norm(model, &layer.attention_norm, rows)?;
        }
        let (normed, qkv) = (self.work.normed.clone(), self.work.qkv.clone());
        let attended = self.work.attended.clone();
        let attended_width = spec.heads * spec.head_dim;
        let linear = Linear {
            weights: &layer.qkv,
            input: &normed,
            normed: index > 0,
            target: Target::Bf16(&qkv),
            inputs: width,
        };
        self.multiply(model, linear, rows)?;
        self.profiler.mark(stream, Family::Qkv)?;
        let cache = &self.caches[index];
        let rope_store = RopeStore {
            qkv: &qkv,
            angles: &self.work.angles,
            places: &views.places,
            keys: &cache.keys,
            values: &cache.values,
            bias: layer.qkv_bias.as_ref(),
            query_norm: layer.query_norm.as_ref(),
            key_norm: layer.key_norm.as_ref(),
            rows,
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            pairs: model.frequencies.len(),
            adjacent: spec.rope.pairs == RopePairs::Neighbours,
            epsilon: spec.norm_epsilon,
        };
        kernels.rows.rope_store(stream, &rope_store)?;
        self.profiler.mark(stream, Family::Rope)?;
        let list = self.planner.list_of(index);
        let attention = Attention {
            queries: &qkv,
            query_stride: spec.qkv_width(),
            keys: &cache.keys,
            values: &cache.values,
            block_tables: &views.tables,
            task_words: &views.tasks[list],
            tasks: tasks.map_or(Tasks::OneRowEach, |tasks| Tasks::Listed(&tasks[list])),
            output: &attended,
            rows,
            window: layer.window,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
            softcap: None,
        };
        kernels.attention.attend(stream, &attention, &self.planner.scratch)?;
        self.profiler.mark(stream, Family::Attention)?;
        let linear = Linear {
            weights: &layer.output,
            input: &attended,
            normed: false,
            target: Target::Residual(Some(&layer.feed_forward_norm)),
            inputs: attended_width,
        };
        self.multiply(model, linear, rows)?;
        self.profiler.mark(stream, Family::Output)
    }

    fn feed_forward(&mut self, model: &CudaModel, rows: usize, index: usize) -> Result<(), Error> {
        let layer = &model.layers[index];
        let (spec, stream, kernels) = (&model.spec, &*model.stream, &model.kernels);
        let (width, inner) = (spec.width, spec.feed_forward);
        self.norm(model, &layer.feed_forward_norm, rows)?;
        let (normed, gated) = (self.work.normed.clone(), self.work.gated.clone());
        let matrix = &layer.gate_up[0].matrix;
        if rows <= rows_max(matrix.layout()) {
            let is_fused = rows <= model.fused_rows_max;
            let product = FewRows {
                weights: matrix,
                input: &normed,
                factor: is_fused.then(|| self.factor(spec.norm_epsilon)),
                bias: None,
                sink: Sink::Gated(&gated),
                rows,
                outputs: inner,
                inputs: width,
                output_stride: inner,
            };
            kernels.few_rows.multiply(stream, &product)?;
            self.profiler.mark(stream, Family::GateUp)?;
        } else if kernels.tiled.takes(matrix.layout(), rows) {
            let product = Tiled {
                weights: matrix,
                input: &normed,
                sink: Sink::Gated(&gated),
                rows,
                outputs: inner,
                inputs: width,
                output_stride: inner,
            };
            kernels.tiled.multiply(stream, &product, &self.tiled)?;
            self.profiler.mark(stream, Family::GateUp)?;
        } else {
            let gate_up = self.work.gate_up.clone();
            let linear = Linear {
                weights: &layer.gate_up,
                input: &normed,
                normed: false,
                target: Target::Bf16(&gate_up),
                inputs: width,
            };
            self.multiply(model, linear, rows)?;
            self.profiler.mark(stream, Family::GateUp)?;
            kernels.rows.silu_mul(stream, &gate_up, &gated, (rows, inner))?;
            self.profiler.mark(stream, Family::Gate)?;
        }
        let next_norm = model.layers.get(index + 1).map(|next| &next.attention_norm);
        let linear = Linear {
            weights: &layer.down,
            input: &gated,
            normed: false,
            target: Target::Residual(next_norm),
            inputs: inner,
        };
        self.multiply(model, linear, rows)?;
        self.profiler.mark(stream, Family::Down)
    }

    /// Computes the logits of some rows, `[rows][vocabulary]`.
    pub(super) fn head(
        &mut self,
        model: &CudaModel,
        selected: &DeviceBuffer<i32>,
    ) -> Result<(), Error> {
        let (spec, stream) = (&model.spec, &*model.stream);
        let rows = selected.len();
        let norm = RmsNorm {
            input: &self.work.residual,
            weight: &model.last_norm,
            output: &self.work.selected,
            selected: Some(selected),
            rows,
            width: spec.width,
            epsilon: spec.norm_epsilon,
        };
        model.kernels.rows.rms_norm(stream, &norm)?;
        self.profiler.mark(stream, Family::Norm)?;
        let (input, logits) = (self.work.selected.clone(), self.work.logits.clone());
        let linear = Linear {
            weights: &model.logits,
            input: &input,
            normed: false,
            target: Target::F32(&logits),
            inputs: spec.width,
        };
        self.multiply(model, linear, rows)?;
        self.profiler.mark(stream, Family::Logits)
    }

    /// Normalises the residual stream. Where rows are few, the products before and after do that.
    fn norm(
        &mut self,
        model: &CudaModel,
        weight: &DeviceBuffer<f32>,
        rows: usize,
    ) -> Result<(), Error> {
        if rows <= model.fused_rows_max {
            return Ok(());
        }
        let norm = RmsNorm {
            input: &self.work.residual,
            weight,
            output: &self.work.normed,
            selected: None,
            rows,
            width: model.spec.width,
            epsilon: model.spec.norm_epsilon,
        };
        model.kernels.rows.rms_norm(&model.stream, &norm)?;
        self.profiler.mark(&model.stream, Family::Norm)
    }

    /// The part of a norm that a product of few rows does.
    fn factor(&self, epsilon: f32) -> NormFactor<'_> {
        NormFactor { squares: &self.work.squares, epsilon }
    }

    fn multiply(
        &mut self,
        model: &CudaModel,
        linear: Linear<'_>,
        rows: usize,
    ) -> Result<(), Error> {
        for (first, segment) in linear.segments() {
            let layout = segment.matrix.layout();
            if rows <= rows_max(layout) {
                self.multiply_few(model, linear, (first, segment), rows)?;
            } else if model.kernels.tiled.takes(layout, rows) {
                self.multiply_tiled(model, linear, (first, segment), rows)?;
            } else {
                for piece in self.pieces(linear, (first, segment), padded_rows(rows)) {
                    let weights = self.as_dense(model, &piece)?;
                    let operands = piece.operands(&weights);
                    self.multiplier.multiply(&model.stream, piece.product, &operands)?;
                }
            }
        }
        Ok(())
    }

    fn multiply_few(
        &self,
        model: &CudaModel,
        linear: Linear<'_>,
        (first, segment): (usize, &Segment),
        rows: usize,
    ) -> Result<(), Error> {
        let is_fused = rows <= model.fused_rows_max;
        let next =
            |weight| NextNorm { weight, scaled: &self.work.normed, squares: &self.work.squares };
        let output = Output::of(linear.target, first);
        let product = FewRows {
            weights: &segment.matrix,
            input: linear.input,
            factor: (is_fused && linear.normed).then(|| self.factor(model.spec.norm_epsilon)),
            bias: None,
            sink: output.sink(&self.work, |norm| norm.filter(|_| is_fused).map(next)),
            rows,
            outputs: segment.rows,
            inputs: linear.inputs,
            output_stride: linear.outputs(),
        };
        Ok(model.kernels.few_rows.multiply(&model.stream, &product)?)
    }

    fn multiply_tiled(
        &self,
        model: &CudaModel,
        linear: Linear<'_>,
        (first, segment): (usize, &Segment),
        rows: usize,
    ) -> Result<(), Error> {
        let output = Output::of(linear.target, first);
        let product = Tiled {
            weights: &segment.matrix,
            input: linear.input,
            sink: output.sink(&self.work, |_| None),
            rows,
            outputs: segment.rows,
            inputs: linear.inputs,
            output_stride: linear.outputs(),
        };
        Ok(model.kernels.tiled.multiply(&model.stream, &product, &self.tiled)?)
    }

    /// A segment's products of many rows: one, but for a quantized matrix, of which a part at a time is dequantized.
    fn pieces<'a>(
        &self,
        linear: Linear<'_>,
        (first, segment): (usize, &'a Segment),
        rows: usize,
    ) -> Vec<Piece<'a>> {
        let (output_type, accumulate, element_bytes, output) = match linear.target {
            Target::Bf16(buffer) => (OutputType::Bf16, false, 2, buffer.cast::<u8>()),
            Target::F32(buffer) => (OutputType::F32, false, 4, buffer.cast()),
            Target::Residual(_) => (OutputType::F32, true, 4, self.work.residual.cast()),
        };
        let inputs = linear.inputs;
        let most = match &segment.matrix {
            Matrix::Dense(_) => segment.rows,
            Matrix::Quantized(_) => self.work.dequantized.len() / inputs / TILE_ROWS * TILE_ROWS,
        };
        let piece = |start: usize| {
            let outputs = start..segment.rows.min(start + most);
            Piece {
                matrix: &segment.matrix,
                product: Product {
                    rows,
                    outputs: outputs.len(),
                    inputs,
                    output_stride: linear.outputs(),
                    output_type,
                    accumulate,
                },
                input: linear.input.clone(),
                output: output.slice((first + start) * element_bytes..output.len()),
                outputs,
            }
        };
        (0..segment.rows).step_by(most).map(piece).collect()
    }

    /// The weights of a piece as bfloat16.
    fn as_dense(&self, model: &CudaModel, piece: &Piece<'_>) -> Result<DeviceBuffer<bf16>, Error> {
        match piece.matrix {
            Matrix::Dense(buffer) => Ok(buffer.clone()),
            Matrix::Quantized(matrix) => {
                let (target, rows) = (&self.work.dequantized, piece.outputs.clone());
                model.kernels.dequantize.dequantize(&model.stream, matrix, rows, target)?;
                Ok(target.clone())
            }
        }
    }

    /// Measures the ways to multiply with the model's matrices for a number of rows, and keeps the fastest.
    pub(super) fn tune(&mut self, model: &CudaModel, rows: usize) -> Result<(), Error> {
        /// Enough that none of their weights is still in a cache when its turn comes again.
        const LAYERS: usize = 4;
        let work = self.work.clone();
        let mut rounds: HashMap<Product, Vec<Piece<'_>>> = HashMap::new();
        for layer in &model.layers {
            for linear in linears(&model.spec, &work, layer) {
                let many = |segment: &Segment| {
                    let layout = segment.matrix.layout();
                    rows > rows_max(layout) && !model.kernels.tiled.takes(layout, rows)
                };
                for segment in linear.segments().filter(|(_, segment)| many(segment)) {
                    for piece in self.pieces(linear, segment, rows) {
                        let round = rounds.entry(piece.product).or_default();
                        if round.len() < LAYERS {
                            round.push(piece);
                        }
                    }
                }
            }
        }
        for (product, pieces) in rounds {
            let weights: Result<Vec<_>, Error> =
                pieces.iter().map(|piece| self.as_dense(model, piece)).collect();
            let weights = weights?;
            let operands: Vec<_> = pieces
                .iter()
                .zip(&weights)
                .map(|(piece, weights)| piece.operands(weights))
                .collect();
            self.multiplier.tune(&model.stream, product, &operands)?;
        }
        Ok(())
    }
}

/// Where the outputs of a segment go.
enum Output<'a> {
    Bf16(DeviceBuffer<bf16>),
    F32(DeviceBuffer<f32>),
    Residual(Option<&'a DeviceBuffer<f32>>),
}

impl<'a> Output<'a> {
    /// Those of a segment before which there are `first` outputs.
    fn of(target: Target<'a>, first: usize) -> Self {
        match target {
            Target::Bf16(buffer) => Self::Bf16(buffer.slice(first..buffer.len())),
            Target::F32(buffer) => Self::F32(buffer.slice(first..buffer.len())),
            Target::Residual(norm) => Self::Residual(norm),
        }
    }

    fn sink<'b>(
        &'b self,
        work: &'b Workspace,
        next: impl FnOnce(Option<&'a DeviceBuffer<f32>>) -> Option<NextNorm<'b>>,
    ) -> Sink<'b> {
        match self {
            Self::Bf16(buffer) => Sink::Bf16(buffer),
            Self::F32(buffer) => Sink::F32(buffer),
            Self::Residual(norm) => Sink::Residual(&work.residual, next(*norm)),
        }
    }
}

/// A part of a product of many rows, which one call does.
struct Piece<'a> {
    matrix: &'a Matrix,
    /// Which of its rows.
    outputs: Range<usize>,
    product: Product,
    input: DeviceBuffer<bf16>,
    /// The bytes that it writes.
    output: DeviceBuffer<u8>,
}

impl Piece<'_> {
    fn operands<'a>(&'a self, weights: &'a DeviceBuffer<bf16>) -> Operands<'a> {
        Operands { weights, input: &self.input, output: &self.output }
    }
}

/// A layer's products as they are where rows are many.
fn linears<'a>(spec: &DecoderSpec, work: &'a Workspace, layer: &'a Layer) -> [Linear<'a>; 4] {
    let linear = |weights: &'a [Segment], input, target, inputs| Linear {
        weights,
        input,
        normed: false,
        target,
        inputs,
    };
    let residual = Target::Residual(None);
    let [qkv, output, gate_up, down] = layer.products();
    [
        linear(qkv, &work.normed, Target::Bf16(&work.qkv), spec.width),
        linear(output, &work.attended, residual, spec.heads * spec.head_dim),
        linear(gate_up, &work.normed, Target::Bf16(&work.gate_up), spec.width),
        linear(down, &work.gated, residual, spec.feed_forward),
    ]
}
