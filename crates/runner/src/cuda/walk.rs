//! The kernel calls of a step, in order.

use cuda::{
    DeviceBuffer, Multiplier, Operands, OutputType, Product, Stream,
    kernels::{Embed, FEW_ROWS_MAX, FewRows, RmsNorm, RopeStore, Sink, attention::Attention},
};
use half::bf16;
use kernels::rope::RopePairs;

use super::{
    CudaModel,
    attention::Planner,
    batch::{Batch, BatchViews},
    load::Layer,
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
    pub(super) profiler: Profiler,
}

/// Where the outputs of a product go.
#[derive(Clone, Copy)]
enum Target<'a> {
    Bf16(&'a DeviceBuffer<bf16>),
    F32(&'a DeviceBuffer<f32>),
    Residual(&'a DeviceBuffer<f32>),
}

/// A product: weights, and how many outputs and inputs a row has.
struct Linear<'a> {
    weights: &'a DeviceBuffer<bf16>,
    input: &'a DeviceBuffer<bf16>,
    target: Target<'a>,
    outputs: usize,
    inputs: usize,
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
    /// Computes all positions of a step.
    pub(super) fn body(
        &mut self,
        model: &CudaModel,
        batch: &Batch,
        views: &BatchViews,
    ) -> Result<(), Error> {
        let (spec, stream, kernels) = (&model.spec, &*model.stream, &model.kernels);
        let rows = batch.rows;
        let embed = Embed {
            tokens: &views.tokens,
            last_tokens: &self.work.last_tokens,
            table: &model.embedding,
            residual: &self.work.residual,
            positions: &views.positions,
            frequencies: &model.frequencies,
            angles: &self.work.angles,
            width: spec.width,
            rows,
            magnitude: model.magnitude,
        };
        kernels.rows.embed(stream, &embed)?;
        self.profiler.mark(stream, Family::Embedding)?;
        for index in 0..spec.layers {
            self.attention(model, batch, views, index)?;
            self.feed_forward(model, rows, &model.layers[index])?;
        }
        Ok(())
    }

    fn attention(
        &mut self,
        model: &CudaModel,
        batch: &Batch,
        views: &BatchViews,
        index: usize,
    ) -> Result<(), Error> {
        let (spec, stream, kernels) = (&model.spec, &*model.stream, &model.kernels);
        let rows = batch.rows;
        let (layer, width) = (&model.layers[index], spec.width);
        self.norm(model, &layer.attention_norm, rows)?;
        let (normed, qkv) = (self.work.normed.clone(), self.work.qkv.clone());
        let attended = self.work.attended.clone();
        let linear = Linear {
            weights: &layer.qkv,
            input: &normed,
            target: Target::Bf16(&qkv),
            outputs: spec.qkv_width(),
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
            tasks: &batch.tasks[list],
            output: &attended,
            rows,
            window: layer.window,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
            softcap: None,
        };
        kernels.attention.attend(stream, &attention, &self.planner.scratch)?;
        self.profiler.mark(stream, Family::Attention)?;
        let residual = self.work.residual.clone();
        let linear = Linear {
            weights: &layer.output,
            input: &attended,
            target: Target::Residual(&residual),
            outputs: width,
            inputs: spec.heads * spec.head_dim,
        };
        self.multiply(model, linear, rows)?;
        self.profiler.mark(stream, Family::Output)
    }

    fn feed_forward(&mut self, model: &CudaModel, rows: usize, layer: &Layer) -> Result<(), Error> {
        let (spec, stream, kernels) = (&model.spec, &*model.stream, &model.kernels);
        let (width, inner) = (spec.width, spec.feed_forward);
        self.norm(model, &layer.feed_forward_norm, rows)?;
        let (normed, gated) = (self.work.normed.clone(), self.work.gated.clone());
        if rows <= FEW_ROWS_MAX {
            let product = FewRows {
                weights: &layer.gate_up,
                input: &normed,
                bias: None,
                sink: Sink::Gated(&gated),
                rows,
                outputs: inner,
                inputs: width,
                output_stride: inner,
            };
            kernels.few_rows.multiply(stream, &product)?;
            self.profiler.mark(stream, Family::GateUp)?;
        } else {
            let gate_up = self.work.gate_up.clone();
            let linear = Linear {
                weights: &layer.gate_up,
                input: &normed,
                target: Target::Bf16(&gate_up),
                outputs: 2 * inner,
                inputs: width,
            };
            self.multiply(model, linear, rows)?;
            self.profiler.mark(stream, Family::GateUp)?;
            kernels.rows.silu_mul(stream, &gate_up, &gated, (rows, inner))?;
            self.profiler.mark(stream, Family::Gate)?;
        }
        let residual = self.work.residual.clone();
        let linear = Linear {
            weights: &layer.down,
            input: &gated,
            target: Target::Residual(&residual),
            outputs: width,
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
            target: Target::F32(&logits),
            outputs: spec.vocab_size,
            inputs: spec.width,
        };
        self.multiply(model, linear, rows)?;
        self.profiler.mark(stream, Family::Logits)
    }

    fn norm(
        &mut self,
        model: &CudaModel,
        weight: &DeviceBuffer<f32>,
        rows: usize,
    ) -> Result<(), Error> {
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

    fn multiply(
        &mut self,
        model: &CudaModel,
        linear: Linear<'_>,
        rows: usize,
    ) -> Result<(), Error> {
        let Linear { weights, input, target, outputs, inputs } = linear;
        let stream = &*model.stream;
        if rows <= FEW_ROWS_MAX {
            let sink = match target {
                Target::Bf16(buffer) => Sink::Bf16(buffer),
                Target::F32(buffer) => Sink::F32(buffer),
                Target::Residual(buffer) => Sink::Residual(buffer),
            };
            let output_stride = outputs;
            let bias = None;
            let product =
                FewRows { weights, input, bias, sink, rows, outputs, inputs, output_stride };
            return Ok(model.kernels.few_rows.multiply(stream, &product)?);
        }
        let (product, output) = product(linear, padded_rows(rows));
        self.multiply_many(stream, product, &Operands { weights, input, output: &output })
    }

    fn multiply_many(
        &mut self,
        stream: &Stream,
        product: Product,
        operands: &Operands<'_>,
    ) -> Result<(), Error> {
        Ok(self.multiplier.multiply(stream, product, operands)?)
    }

    /// Measures the ways to multiply with the model's matrices for a number of rows, and keeps the fastest.
    pub(super) fn tune(&mut self, model: &CudaModel, rows: usize) -> Result<(), Error> {
        let spec = &model.spec;
        let (width, inner) = (spec.width, spec.feed_forward);
        let attended = spec.heads * spec.head_dim;
        let work = &self.work;
        let (normed, qkv, residual) = (&work.normed, &work.qkv, &work.residual);
        type Weights = fn(&Layer) -> &DeviceBuffer<bf16>;
        let shapes: [(Weights, _, _, _, _); 4] = [
            (|layer| &layer.qkv, normed, Target::Bf16(qkv), spec.qkv_width(), width),
            (|layer| &layer.output, &work.attended, Target::Residual(residual), width, attended),
            (|layer| &layer.gate_up, normed, Target::Bf16(&work.gate_up), 2 * inner, width),
            (|layer| &layer.down, &work.gated, Target::Residual(residual), width, inner),
        ];
        /// Enough that none of their weights is still in a cache when its turn comes again.
        const LAYERS: usize = 4;
        for (weights, input, target, outputs, inputs) in shapes {
            let matrices = model.layers.iter().map(weights);
            let first = model.layers.first().map(weights).expect("a model has layers");
            let linear = Linear { weights: first, input, target, outputs, inputs };
            let (product, output) = product(linear, rows);
            let rounds: Vec<_> = matrices
                .take(LAYERS)
                .map(|weights| Operands { weights, input, output: &output })
                .collect();
            self.multiplier.tune(&model.stream, product, &rounds)?;
        }
        Ok(())
    }
}

/// A product of many rows, and the bytes that it writes.
fn product(linear: Linear<'_>, rows: usize) -> (Product, DeviceBuffer<u8>) {
    let Linear { target, outputs, inputs, .. } = linear;
    let (output_type, accumulate, output) = match target {
        Target::Bf16(buffer) => (OutputType::Bf16, false, buffer.cast()),
        Target::F32(buffer) => (OutputType::F32, false, buffer.cast()),
        Target::Residual(buffer) => (OutputType::F32, true, buffer.cast()),
    };
    let output_stride = outputs;
    (Product { rows, outputs, inputs, output_stride, output_type, accumulate }, output)
}
