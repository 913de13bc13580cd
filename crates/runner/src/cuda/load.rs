//! A model's weights on a GPU.
//!
//! Matrices that read the same input lie one after another, so that one product serves queries, keys and values, and
//! another gate and up. Quantized formats stay quantized, bit for bit; all others become bfloat16 on the way.

use std::{ops::Range, path::PathBuf, sync::Arc};

use cuda::{
    Compiler, DeviceBuffer, Gpu, Stream,
    kernels::{
        KernelOptions, Kernels,
        products::{DENSE_ROWS_MAX, Matrix, QUANTIZED_ROWS_MAX, QuantizedMatrix, TILE_ROWS},
    },
};
use kernels::linear::QuantizedLayout;
use models::{Checkpoint, DecoderSpec, Part, RopeFrequencies, describe};
use weights::{Tensor, Weights};

use super::{memory::step_tokens_default, staging::Staging};
use crate::Error;

/// How to load a model onto a GPU.
pub struct CudaLoadOptions<'a> {
    /// Make random weights instead of reading the checkpoint's.
    pub random: bool,
    /// Wait for each kernel, so that the error of one that fails names it.
    pub check_launches: bool,
    /// Where compiled kernels are kept.
    pub kernel_cache: Option<PathBuf>,
    /// Told after each tensor: bytes of the checkpoint loaded so far, and in all.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// A model on a GPU, with the kernels compiled for it.
pub struct CudaModel {
    /// What it is.
    pub spec: DecoderSpec,
    pub(super) stream: Arc<Stream>,
    pub(super) kernels: Kernels,
    pub(super) embedding: Segments,
    pub(super) layers: Vec<Layer>,
    pub(super) last_norm: DeviceBuffer<f32>,
    /// The embedding again where they are tied.
    pub(super) logits: Segments,
    pub(super) frequencies: DeviceBuffer<f64>,
    pub(super) magnitude: f32,
    /// Most rows for which products do the norms around them.
    pub(super) fused_rows_max: usize,
    pub(super) weights_bytes: u64,
}

/// Matrices with as many columns, their rows one after another: one, but where formats differ.
pub(super) type Segments = Vec<Segment>;

/// A matrix among those that read the same input.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) rows: usize,
    pub(super) matrix: Matrix,
}

/// A layer's weights.
pub(super) struct Layer {
    pub(super) attention_norm: DeviceBuffer<f32>,
    /// Queries, keys, values.
    pub(super) qkv: Segments,
    pub(super) qkv_bias: Option<DeviceBuffer<f32>>,
    pub(super) query_norm: Option<DeviceBuffer<f32>>,
    pub(super) key_norm: Option<DeviceBuffer<f32>>,
    pub(super) output: Segments,
    pub(super) feed_forward_norm: DeviceBuffer<f32>,
    /// Gate, then up.
    pub(super) gate_up: Segments,
    pub(super) down: Segments,
    pub(super) window: Option<usize>,
}

impl CudaModel {
    /// Reads and checks a checkpoint, and copies it to the GPU.
    pub fn load(
        gpu: &Arc<Gpu>,
        weights: &Weights,
        options: CudaLoadOptions<'_>,
    ) -> Result<Self, Error> {
        let spec = describe(weights)?;
        check(&spec)?;
        let stream = if options.check_launches { Stream::checking(gpu) } else { Stream::new(gpu) }?;
        let compiler = Compiler::new(&gpu.architecture(), options.kernel_cache.as_deref())?;
        let group = spec.heads / spec.kv_heads;
        let layouts = if options.random { Vec::new() } else { layouts(weights) };
        let kernel_options = KernelOptions::new(gpu, (spec.head_dim, group), layouts);
        let kernels = Kernels::load(gpu, &compiler, &kernel_options)?;
        let rope = RopeFrequencies::new(&spec.rope);
        let frequencies = DeviceBuffer::new(gpu, rope.frequencies.len(), "frequencies")?;
        stream.upload_now(&rope.frequencies, &frequencies)?;
        let mut loader = Loader {
            checkpoint: Checkpoint::new(weights),
            weights,
            stream: &stream,
            kernels: &kernels,
            staging: Staging::new(gpu)?,
            random: options.random,
            seed: 0,
            bytes: 0,
            bytes_done: 0,
            bytes_total: weights.bytes(),
            progress: options.progress,
        };
        let embedding =
            loader.matrices(&[Part::Embedding], 0, (&[spec.vocab_size], spec.width), true)?;
        let layers: Result<Vec<_>, Error> =
            (0..spec.layers).map(|layer| loader.layer(&spec, layer)).collect();
        let layers = layers?;
        let last_norm = loader.vector(Part::LastNorm, 0, "weight", &[spec.width])?;
        let tied =
            spec.tied_embeddings && (options.random || !loader.checkpoint.has(Part::Logits, 0));
        let logits = if tied {
            embedding.clone()
        } else {
            loader.matrices(&[Part::Logits], 0, (&[spec.vocab_size], spec.width), true)?
        };
        let weights_bytes = loader.bytes;
        let all_quantized = layers
            .iter()
            .flat_map(Layer::products)
            .flatten()
            .all(|segment| segment.matrix.layout().is_some());
        let fused_rows_max = if all_quantized { QUANTIZED_ROWS_MAX } else { DENSE_ROWS_MAX };
        stream.synchronize()?;
        let magnitude = rope.magnitude;
        Ok(Self {
            spec,
            stream,
            kernels,
            embedding,
            layers,
            last_norm,
            logits,
            frequencies,
            magnitude,
            fused_rows_max,
            weights_bytes,
        })
    }

    /// Bytes of weights that a step reads at least: all but the table of the embedding.
    pub fn step_bytes(&self) -> u64 {
        let bytes = |segments: &Segments| -> usize {
            segments.iter().map(|segment| segment.matrix.bytes()).sum()
        };
        let layers = self.layers.iter().flat_map(Layer::products);
        (layers.map(bytes).sum::<usize>() + bytes(&self.logits)) as u64
    }

    /// How many positions steps should have at most: as many as pay, if the GPU has memory for them.
    pub fn step_tokens_default(&self) -> u32 {
        step_tokens_default(&self.spec, self.gpu().properties().memory_bytes)
    }

    /// The GPU it is on.
    pub fn gpu(&self) -> &Arc<Gpu> {
        self.stream.gpu()
    }
}

impl Layer {
    /// What is multiplied with, in order.
    pub(super) fn products(&self) -> [&Segments; 4] {
        [&self.qkv, &self.output, &self.gate_up, &self.down]
    }
}

/// How a checkpoint's matrices are quantized, each way once.
fn layouts(weights: &Weights) -> Vec<QuantizedLayout> {
    let mut layouts = Vec::new();
    for tensor in weights.tensors().filter(|tensor| tensor.shape.len() == 2) {
        let layout = quant::layout(tensor.data_type);
        layouts.extend(layout.filter(|layout| !layouts.contains(layout)));
    }
    layouts
}

/// Refuses what the kernels cannot do.
fn check(spec: &DecoderSpec) -> Result<(), Error> {
    let unsupported = |what| Err(Error::Unsupported { architecture: spec.architecture, what });
    if ![64, 80, 96, 128, 256].contains(&spec.head_dim) {
        return unsupported("heads that are not 64, 80, 96, 128 or 256 wide");
    }
    if spec.output_bias {
        return unsupported("a bias after attention");
    }
    if !spec.width.is_multiple_of(8) || !spec.feed_forward.is_multiple_of(8) {
        return unsupported("rows that are not a multiple of 8 wide");
    }
    Ok(())
}

struct Loader<'a> {
    checkpoint: Checkpoint<'a>,
    weights: &'a Weights,
    stream: &'a Stream,
    kernels: &'a Kernels,
    staging: Staging,
    random: bool,
    /// Of the next random matrix.
    seed: u64,
    bytes: u64,
    bytes_done: u64,
    bytes_total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Loader<'_> {
    fn layer(&mut self, spec: &DecoderSpec, layer: usize) -> Result<Layer, Error> {
        let (q_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let (width, feed_forward) = (spec.width, spec.feed_forward);
        let qkv_parts = [Part::Query, Part::Key, Part::Value];
        let qkv_rows = [q_width, kv_width, kv_width];
        let qkv = self.matrices(&qkv_parts, layer, (&qkv_rows, width), false)?;
        let qkv_bias = match spec.qkv_bias {
            true => Some(self.vectors(&qkv_parts, layer, "bias", &qkv_rows)?),
            false => None,
        };
        let mut head_norm = |part| match spec.qk_norm {
            true => self.vector(part, layer, "weight", &[spec.head_dim]).map(Some),
            false => Ok(None),
        };
        let (query_norm, key_norm) = (head_norm(Part::QueryNorm)?, head_norm(Part::KeyNorm)?);
        let gate_up = [Part::Gate, Part::Up];
        let output = [Part::AttentionOutput];
        Ok(Layer {
            attention_norm: self.vector(Part::AttentionNorm, layer, "weight", &[width])?,
            qkv,
            qkv_bias,
            query_norm,
            key_norm,
            output: self.matrices(&output, layer, (&[width], q_width), true)?,
            feed_forward_norm: self.vector(Part::FeedForwardNorm, layer, "weight", &[width])?,
            gate_up: self.matrices(&gate_up, layer, (&[feed_forward; 2], width), true)?,
            down: self.matrices(&[Part::Down], layer, (&[width], feed_forward), true)?,
            window: spec.windows[layer],
        })
    }

    /// Matrices with as many columns, their rows one after another; if `whole`, as one.
    fn matrices(
        &mut self,
        parts: &[Part],
        layer: usize,
        (rows, columns): (&[usize], usize),
        whole: bool,
    ) -> Result<Segments, Error> {
        if self.random {
            return Ok(vec![self.random_matrix(rows.iter().sum(), columns)?]);
        }
        let mut tensors = Vec::new();
        for (&part, &rows) in parts.iter().zip(rows) {
            tensors.push(self.checkpoint.matrix(part, layer, [rows, columns])?);
        }
        let mut layouts: Vec<_> =
            tensors.iter().map(|tensor| quant::layout(tensor.info.data_type)).collect();
        // Quantized matrices are joined at the ends of whole tiles only.
        let joins = |layouts: &[Option<QuantizedLayout>], part: usize| {
            layouts[part - 1] == layouts[part]
                && (layouts[part].is_none() || rows[part - 1].is_multiple_of(TILE_ROWS))
        };
        if whole && !(1..parts.len()).all(|part| joins(&layouts, part)) {
            layouts.fill(None);
        }
        let mut segments = Vec::new();
        let mut first = 0;
        for end in 1..=parts.len() {
            if end == parts.len() || !joins(&layouts, end) {
                let layout = layouts[first];
                segments.push(self.segment(
                    &tensors[first..end],
                    (&rows[first..end], columns),
                    layout,
                )?);
                first = end;
            }
        }
        Ok(segments)
    }

    /// Tensors as one matrix.
    fn segment(
        &mut self,
        tensors: &[Tensor<'_>],
        (rows, columns): (&[usize], usize),
        layout: Option<QuantizedLayout>,
    ) -> Result<Segment, Error> {
        let all_rows = rows.iter().sum();
        let gpu = self.stream.gpu();
        let matrix = match layout {
            None => Matrix::Dense(DeviceBuffer::new(gpu, all_rows * columns, "weights")?),
            Some(layout) => {
                Matrix::Quantized(QuantizedMatrix::new(gpu, layout, [all_rows, columns])?)
            }
        };
        let mut first = 0;
        for (tensor, &rows) in tensors.iter().zip(rows) {
            let range: Range<usize> = first..first + rows;
            match &matrix {
                Matrix::Dense(buffer) => {
                    let target = buffer.slice(range.start * columns..range.end * columns);
                    self.staging.upload_dense(self.stream, tensor, columns, &target)?;
                }
                Matrix::Quantized(matrix) => {
                    self.staging.upload_quantized(self.stream, tensor, matrix, range)?;
                }
            }
            first += rows;
            self.done(tensor);
        }
        self.bytes += matrix.bytes() as u64;
        Ok(Segment { rows: all_rows, matrix })
    }

    fn random_matrix(&mut self, rows: usize, columns: usize) -> Result<Segment, Error> {
        let target = DeviceBuffer::new(self.stream.gpu(), rows * columns, "weights")?;
        self.bytes += target.bytes() as u64;
        // Sums of so many products of numbers around 1 stay around 1.
        let amplitude = (3.0 / columns as f32).sqrt();
        self.seed += 1;
        self.kernels.fill.fill(self.stream, &target, self.seed, amplitude)?;
        Ok(Segment { rows, matrix: Matrix::Dense(target) })
    }

    fn vector(
        &mut self,
        part: Part,
        layer: usize,
        kind: &str,
        len: &[usize; 1],
    ) -> Result<DeviceBuffer<f32>, Error> {
        self.vectors(&[part], layer, kind, len)
    }

    /// Vectors one after another.
    fn vectors(
        &mut self,
        parts: &[Part],
        layer: usize,
        kind: &str,
        lens: &[usize],
    ) -> Result<DeviceBuffer<f32>, Error> {
        let mut all = Vec::new();
        for (&part, &len) in parts.iter().zip(lens) {
            if self.random {
                let value = if kind == "bias" { 0.0 } else { 1.0 };
                all.resize(all.len() + len, value);
                continue;
            }
            let (info, values) = self.checkpoint.vector(part, layer, kind, len)?;
            self.bytes_done += info.bytes as u64;
            all.extend(values);
        }
        let target = DeviceBuffer::new(self.stream.gpu(), all.len(), "weights")?;
        self.bytes += target.bytes() as u64;
        self.stream.upload_now(&all, &target)?;
        Ok(target)
    }

    fn done(&mut self, tensor: &Tensor<'_>) {
        self.weights.release(&tensor.info.name);
        self.bytes_done += tensor.info.bytes as u64;
        (self.progress)(self.bytes_done, self.bytes_total);
    }
}
