//! The kernel calls of a step, in order.

use std::any::Any;

use cuda::{
    DeviceBuffer, Multiplier, Operands, OutputType, Product,
    kernels::{
        Embed, FEW_ROWS_MAX, FewRows, NextNorm, NormFactor, RmsNorm, RopeStore, Sink,
        attention::{Attention, TaskList, Tasks},
    },
};
use half::bf16;
use kernels::rope::RopePairs;

use super::{
    CudaModel,
    attention::Planner,
    batch::Views,
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
    /// Added to the residual stream; with the weights of the norm that comes next, if one comes.
    Residual(Option<&'a DeviceBuffer<f32>>),
}

/// A product: weights, and how many outputs and inputs a row has.
struct Linear<'a> {
    weights: &'a DeviceBuffer<bf16>,
    input: &'a DeviceBuffer<bf16>,
    /// Whether a part of the norm before is still to be done: where rows are few, it is.
    normed: bool,
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
    /// All memory that steps use but the model's, to be kept by whoever uses it.
    pub(super) fn buffers(&self) -> impl Any + Send + Sync + use<> {
        let scratch = (self.planner.scratch.clone(), self.multiplier.workspace().clone());
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
            table: &model.embedding,
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
        let linear = Linear {
            weights: &layer.qkv,
            input: &normed,
            normed: index > 0,
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
            outputs: width,
            inputs: spec.heads * spec.head_dim,
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
        if rows <= FEW_ROWS_MAX {
            let product = FewRows {
                weights: &layer.gate_up,
                input: &normed,
                factor: Some(self.factor(spec.norm_epsilon)),
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
                normed: false,
                target: Target::Bf16(&gate_up),
                outputs: 2 * inner,
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
            normed: false,
            target: Target::F32(&logits),
            outputs: spec.vocab_size,
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
        if rows <= FEW_ROWS_MAX {
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
        let stream = &*model.stream;
        if rows > FEW_ROWS_MAX {
            let (weights, input) = (linear.weights, linear.input);
            let (product, output) = product(linear, &self.work.residual, padded_rows(rows));
            let operands = Operands { weights, input, output: &output };
            return Ok(self.multiplier.multiply(stream, product, &operands)?);
        }
        let Linear { weights, input, normed, target, outputs, inputs } = linear;
        let next =
            |weight| NextNorm { weight, scaled: &self.work.normed, squares: &self.work.squares };
        let product = FewRows {
            weights,
            input,
            factor: normed.then(|| self.factor(model.spec.norm_epsilon)),
            bias: None,
            sink: match target {
                Target::Bf16(buffer) => Sink::Bf16(buffer),
                Target::F32(buffer) => Sink::F32(buffer),
                Target::Residual(norm) => Sink::Residual(&self.work.residual, norm.map(next)),
            },
            rows,
            outputs,
            inputs,
            output_stride: outputs,
        };
        Ok(model.kernels.few_rows.multiply(stream, &product)?)
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
            (|layer| &layer.output, &work.attended, Target::Residual(None), width, attended),
            (|layer| &layer.gate_up, normed, Target::Bf16(&work.gate_up), 2 * inner, width),
            (|layer| &layer.down, &work.gated, Target::Residual(None), width, inner),
        ];
        /// Enough that none of their weights is still in a cache when its turn comes again.
        const LAYERS: usize = 4;
        for (weights, input, target, outputs, inputs) in shapes {
            let matrices = model.layers.iter().map(weights);
            let first = model.layers.first().map(weights).expect("a model has layers");
            let linear = Linear { weights: first, input, normed: false, target, outputs, inputs };
            let (product, output) = product(linear, residual, rows);
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
fn product(
    linear: Linear<'_>,
    residual: &DeviceBuffer<f32>,
    rows: usize,
) -> (Product, DeviceBuffer<u8>) {
    let Linear { target, outputs, inputs, .. } = linear;
    let (output_type, accumulate, output) = match target {
        Target::Bf16(buffer) => (OutputType::Bf16, false, buffer.cast()),
        Target::F32(buffer) => (OutputType::F32, false, buffer.cast()),
        Target::Residual(_) => (OutputType::F32, true, residual.cast()),
    };
    let output_stride = outputs;
    (Product { rows, outputs, inputs, output_stride, output_type, accumulate }, output)
}
