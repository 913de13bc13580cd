//! A model's weights on a GPU.
//!
//! Matrices that read the same input lie one after another, so that one product serves queries, keys and values, and
//! another gate and up. All are bfloat16; what a checkpoint has in another format is converted on the way.

use std::{path::PathBuf, sync::Arc, thread};

use cuda::{
    Compiler, DeviceBuffer, Event, Gpu, PinnedBuffer, Stream,
    kernels::{KernelOptions, Kernels},
};
use half::bf16;
use models::{Checkpoint, DecoderSpec, Part, RopeFrequencies, describe};
use types::DataType;
use weights::{Tensor, Weights};

use crate::Error;

/// How to load a model onto a GPU.
pub struct CudaLoadOptions<'a> {
    /// Make random weights instead of reading the checkpoint's.
    pub random: bool,
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
    pub(super) embedding: DeviceBuffer<bf16>,
    pub(super) layers: Vec<Layer>,
    pub(super) last_norm: DeviceBuffer<f32>,
    /// The embedding again where they are tied.
    pub(super) logits: DeviceBuffer<bf16>,
    pub(super) frequencies: DeviceBuffer<f64>,
    pub(super) magnitude: f32,
    pub(super) weights_bytes: u64,
}

/// A layer's weights.
pub(super) struct Layer {
    pub(super) attention_norm: DeviceBuffer<f32>,
    /// Queries, keys, values.
    pub(super) qkv: DeviceBuffer<bf16>,
    pub(super) qkv_bias: Option<DeviceBuffer<f32>>,
    pub(super) query_norm: Option<DeviceBuffer<f32>>,
    pub(super) key_norm: Option<DeviceBuffer<f32>>,
    pub(super) output: DeviceBuffer<bf16>,
    pub(super) feed_forward_norm: DeviceBuffer<f32>,
    /// Gate, then up.
    pub(super) gate_up: DeviceBuffer<bf16>,
    pub(super) down: DeviceBuffer<bf16>,
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
        let stream = Stream::new(gpu)?;
        let compiler = Compiler::new(&gpu.architecture(), options.kernel_cache.as_deref())?;
        let group = spec.heads / spec.kv_heads;
        let kernel_options = KernelOptions::new(gpu, spec.head_dim, group);
        let kernels = Kernels::load(gpu, &compiler, kernel_options)?;
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
        let table = [spec.vocab_size, spec.width];
        let embedding = loader.matrix(&[Part::Embedding], 0, [&table[..1], &table[1..]])?;
        let layers: Result<_, Error> =
            (0..spec.layers).map(|layer| loader.layer(&spec, layer)).collect();
        let layers = layers?;
        let last_norm = loader.vector(Part::LastNorm, 0, "weight", &[spec.width])?;
        let tied =
            spec.tied_embeddings && (options.random || !loader.checkpoint.has(Part::Logits, 0));
        let logits = if tied {
            embedding.clone()
        } else {
            loader.matrix(&[Part::Logits], 0, [&table[..1], &table[1..]])?
        };
        let weights_bytes = loader.bytes;
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
            weights_bytes,
        })
    }

    /// The GPU it is on.
    pub fn gpu(&self) -> &Arc<Gpu> {
        self.stream.gpu()
    }
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
        let (width, feed_forward) = ([spec.width], [spec.feed_forward]);
        let qkv_parts = [Part::Query, Part::Key, Part::Value];
        let qkv_rows = [q_width, kv_width, kv_width];
        let qkv = self.matrix(&qkv_parts, layer, [&qkv_rows, &width])?;
        let qkv_bias = match spec.qkv_bias {
            true => Some(self.vectors(&qkv_parts, layer, "bias", &qkv_rows)?),
            false => None,
        };
        let mut head_norm = |part| match spec.qk_norm {
            true => self.vector(part, layer, "weight", &[spec.head_dim]).map(Some),
            false => Ok(None),
        };
        let (query_norm, key_norm) = (head_norm(Part::QueryNorm)?, head_norm(Part::KeyNorm)?);
        let gate_up_rows = [spec.feed_forward; 2];
        Ok(Layer {
            attention_norm: self.vector(Part::AttentionNorm, layer, "weight", &width)?,
            qkv,
            qkv_bias,
            query_norm,
            key_norm,
            output: self.matrix(&[Part::AttentionOutput], layer, [&width, &[q_width]])?,
            feed_forward_norm: self.vector(Part::FeedForwardNorm, layer, "weight", &width)?,
            gate_up: self.matrix(&[Part::Gate, Part::Up], layer, [&gate_up_rows, &width])?,
            down: self.matrix(&[Part::Down], layer, [&width, &feed_forward])?,
            window: spec.windows[layer],
        })
    }

    /// Matrices with as many columns, their rows one after another.
    fn matrix(
        &mut self,
        parts: &[Part],
        layer: usize,
        [rows, columns]: [&[usize]; 2],
    ) -> Result<DeviceBuffer<bf16>, Error> {
        let columns = columns[0];
        let all_rows: usize = rows.iter().sum();
        let target = DeviceBuffer::new(self.stream.gpu(), all_rows * columns, "weights")?;
        self.bytes += target.bytes() as u64;
        if self.random {
            // Sums of so many products of numbers around 1 stay around 1.
            let amplitude = (3.0 / columns as f32).sqrt();
            self.seed += 1;
            self.kernels.fill.fill(self.stream, &target, self.seed, amplitude)?;
            return Ok(target);
        }
        let mut first = 0;
        for (&part, &rows) in parts.iter().zip(rows) {
            let tensor = self.checkpoint.matrix(part, layer, [rows, columns])?;
            let target = target.slice(first * columns..(first + rows) * columns);
            self.staging.upload(self.stream, &tensor, columns, &target)?;
            first += rows;
            self.done(&tensor);
        }
        Ok(target)
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

/// Pinned memory through which weights pass: one half is filled while the other is copied.
struct Staging {
    halves: [(PinnedBuffer<u8>, Event); 2],
    next: usize,
}

/// Bytes of a half.
const STAGING_BYTES: usize = 32 << 20;

impl Staging {
    fn new(gpu: &Arc<Gpu>) -> Result<Self, Error> {
        let half = || Ok::<_, Error>((PinnedBuffer::zeroed(gpu, STAGING_BYTES)?, Event::new(gpu)?));
        Ok(Self { halves: [half()?, half()?], next: 0 })
    }

    /// Copies a tensor's rows as bfloat16.
    fn upload(
        &mut self,
        stream: &Stream,
        tensor: &Tensor<'_>,
        columns: usize,
        target: &DeviceBuffer<bf16>,
    ) -> Result<(), Error> {
        let data_type = tensor.info.data_type;
        let row_bytes = data_type.bytes_for(columns).expect("the tensor has whole rows");
        let rows = target.len() / columns;
        let rows_at_once = (STAGING_BYTES / (2 * columns)).max(1);
        for first in (0..rows).step_by(rows_at_once) {
            let count = rows_at_once.min(rows - first);
            let (buffer, copied) = &mut self.halves[self.next];
            self.next = 1 - self.next;
            // An event that was never recorded is past.
            copied.wait()?;
            let source = &tensor.data[first * row_bytes..(first + count) * row_bytes];
            convert(data_type, source, columns, &mut buffer[..2 * count * columns]);
            let part = target.slice(first * columns..(first + count) * columns);
            stream.upload(buffer, 0, &part.cast())?;
            copied.record(stream)?;
        }
        Ok(())
    }
}

/// Writes rows as bfloat16, little-endian, on several threads.
fn convert(data_type: DataType, source: &[u8], columns: usize, target: &mut [u8]) {
    let rows = target.len() / (2 * columns);
    let row_bytes = source.len() / rows;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let rows_each = rows.div_ceil(threads);
    thread::scope(|scope| {
        let sources = source.chunks(rows_each * row_bytes);
        for (source, target) in sources.zip(target.chunks_mut(2 * rows_each * columns)) {
            scope.spawn(move || {
                if data_type == DataType::BF16 {
                    target.copy_from_slice(source);
                    return;
                }
                let mut floats = vec![0.0; columns];
                let rows = source.chunks_exact(row_bytes);
                for (source, target) in rows.zip(target.chunks_exact_mut(2 * columns)) {
                    quant::dequantise(data_type, source, &mut floats);
                    for (bytes, &value) in target.as_chunks_mut::<2>().0.iter_mut().zip(&floats) {
                        *bytes = bf16::from_f32(value).to_le_bytes();
                    }
                }
            });
        }
    });
}
