//! From a spec and its weights to a program for a CPU.
//!
//! Choices made for CPUs here: products that read the same input are one call; norms and gates quantize their output on
//! the way if a product wants that; the residual is added inside the product before it.

use device::cpu::Cpu;
use kernels::linear::InputForm;
use weights::Weights;

use crate::{
    Activation, Checkpoint, DecoderSpec, Error, FloatBuffer, FloatBufferId, Matrix, MatrixId,
    Model, Op, Part, Program, QuadBuffer, QuantizedBufferId, RopeFrequencies, RoundedBufferId,
    RowKind, SegmentPlan, VectorId, arch::describe,
};

/// In what the model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// In the formats of the checkpoint, quantized weights with 8-bit inputs: fast.
    #[default]
    Native,
    /// In 32-bit floats throughout, weights dequantised: the reference, slower and larger.
    F32,
}

/// How to load a model.
pub struct LoadOptions<'a> {
    /// In what it computes.
    pub compute: Compute,
    /// Told after each tensor: bytes of the checkpoint packed so far, and in all.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// Reads, checks and packs a checkpoint.
pub fn load(weights: &Weights, cpu: &Cpu, options: LoadOptions<'_>) -> Result<Model, Error> {
    let spec = describe(weights)?;
    let bytes_total = weights.tensors().map(|tensor| tensor.bytes as u64).sum();
    let mut lowering = Lowering {
        weights,
        checkpoint: Checkpoint::new(weights),
        cpu,
        options,
        bytes_done: 0,
        bytes_total,
        program: Program {
            body: Vec::new(),
            head: Vec::new(),
            float_buffers: Vec::new(),
            quantized_buffers: Vec::new(),
            rounded_buffers: Vec::new(),
            logits: FloatBufferId(0),
            matrices: Vec::new(),
            vectors: Vec::new(),
            rope: RopeFrequencies::new(&spec.rope),
            rope_pairs: spec.rope.pairs,
        },
    };
    lowering.decoder(&spec)?;
    Ok(Model { program: lowering.program, spec })
}

struct Lowering<'a, 'p> {
    weights: &'a Weights,
    checkpoint: Checkpoint<'a>,
    cpu: &'a Cpu,
    options: LoadOptions<'p>,
    bytes_done: u64,
    bytes_total: u64,
    program: Program,
}

/// Buffers shared by all layers.
struct Buffers {
    residual: FloatBufferId,
    normed: FloatBufferId,
    qkv: FloatBufferId,
    attended: FloatBufferId,
    gate_up: FloatBufferId,
    gated: FloatBufferId,
    selected: FloatBufferId,
    selected_normed: FloatBufferId,
}

impl Lowering<'_, '_> {
    fn decoder(&mut self, spec: &DecoderSpec) -> Result<(), Error> {
        let (position, output) = (RowKind::Position, RowKind::Output);
        let buffers = Buffers {
            residual: self.floats("residual", spec.width, position),
            normed: self.floats("normed", spec.width, position),
            qkv: self.floats("qkv", spec.qkv_width(), position),
            attended: self.floats("attended", spec.heads * spec.head_dim, position),
            gate_up: self.floats("gate_up", 2 * spec.feed_forward, position),
            gated: self.floats("gated", spec.feed_forward, position),
            selected: self.floats("selected", spec.width, output),
            selected_normed: self.floats("selected_normed", spec.width, output),
        };
        let table = self.matrix(Part::Embedding, 0, [spec.vocab_size, spec.width])?;
        self.program.body.push(Op::Embed { table, output: buffers.residual });
        for layer in 0..spec.layers {
            self.attention(spec, &buffers, layer)?;
            self.feed_forward(spec, &buffers, layer)?;
        }
        let tied = !self.checkpoint.has(Part::Logits, 0) && spec.tied_embeddings;
        let projection =
            if tied { table } else { self.matrix(Part::Logits, 0, [spec.vocab_size, spec.width])? };
        let logits = self.floats("logits", spec.vocab_size, output);
        self.program.logits = logits;
        let weight = self.vector(Part::LastNorm, 0, "weight", spec.width)?;
        let normed = self.activation(buffers.selected_normed, &[projection]);
        let segment = SegmentPlan { matrix: projection, bias: None, column: 0 };
        self.program.head = vec![
            Op::Select { input: buffers.residual, output: buffers.selected },
            Op::RmsNorm { input: buffers.selected, weight, output: normed },
            Op::Linear {
                input: normed,
                segments: vec![segment],
                output: logits,
                accumulate: false,
            },
        ];
        Ok(())
    }

    fn attention(
        &mut self,
        spec: &DecoderSpec,
        buffers: &Buffers,
        layer: usize,
    ) -> Result<(), Error> {
        let weight = self.vector(Part::AttentionNorm, layer, "weight", spec.width)?;
        let (q_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let mut segments = Vec::new();
        let mut column = 0;
        for (part, rows) in [(Part::Query, q_width), (Part::Key, kv_width), (Part::Value, kv_width)]
        {
            let matrix = self.matrix(part, layer, [rows, spec.width])?;
            let bias = match spec.qkv_bias {
                true => Some(self.vector(part, layer, "bias", rows)?),
                false => None,
            };
            segments.push(SegmentPlan { matrix, bias, column });
            column += rows;
        }
        let matrices: Vec<MatrixId> = segments.iter().map(|segment| segment.matrix).collect();
        let normed = self.activation(buffers.normed, &matrices);
        let qkv = buffers.qkv;
        self.program.body.push(Op::RmsNorm { input: buffers.residual, weight, output: normed });
        self.program.body.push(Op::Linear {
            input: normed,
            segments,
            output: qkv,
            accumulate: false,
        });
        if spec.qk_norm {
            let norms = [(Part::QueryNorm, 0, spec.heads), (Part::KeyNorm, q_width, spec.kv_heads)];
            for (part, offset, heads) in norms {
                let weight = self.vector(part, layer, "weight", spec.head_dim)?;
                self.program.body.push(Op::HeadNorm { qkv, offset, heads, weight });
            }
        }
        self.program.body.push(Op::RopeStore { qkv, layer });
        let matrix = self.matrix(Part::AttentionOutput, layer, [spec.width, q_width])?;
        let bias = match spec.output_bias {
            true => Some(self.vector(Part::AttentionOutput, layer, "bias", spec.width)?),
            false => None,
        };
        let attended = self.activation(buffers.attended, &[matrix]);
        let window = spec.windows[layer];
        self.program.body.push(Op::Attention { qkv, layer, window, output: attended });
        self.program.body.push(Op::Linear {
            input: attended,
            segments: vec![SegmentPlan { matrix, bias, column: 0 }],
            output: buffers.residual,
            accumulate: true,
        });
        Ok(())
    }

    fn feed_forward(
        &mut self,
        spec: &DecoderSpec,
        buffers: &Buffers,
        layer: usize,
    ) -> Result<(), Error> {
        let weight = self.vector(Part::FeedForwardNorm, layer, "weight", spec.width)?;
        let gate = self.matrix(Part::Gate, layer, [spec.feed_forward, spec.width])?;
        let up = self.matrix(Part::Up, layer, [spec.feed_forward, spec.width])?;
        let down = self.matrix(Part::Down, layer, [spec.width, spec.feed_forward])?;
        let normed = self.activation(buffers.normed, &[gate, up]);
        let gated = self.activation(buffers.gated, &[down]);
        let segment = |matrix, column| SegmentPlan { matrix, bias: None, column };
        self.program.body.extend([
            Op::RmsNorm { input: buffers.residual, weight, output: normed },
            Op::Linear {
                input: normed,
                segments: vec![segment(gate, 0), segment(up, spec.feed_forward)],
                output: buffers.gate_up,
                accumulate: false,
            },
            Op::SiluMul { gate_up: buffers.gate_up, output: gated },
            Op::Linear {
                input: gated,
                segments: vec![segment(down, 0)],
                output: buffers.residual,
                accumulate: true,
            },
        ]);
        Ok(())
    }

    fn floats(&mut self, name: &'static str, width: usize, rows: RowKind) -> FloatBufferId {
        self.program.float_buffers.push(FloatBuffer { name, width, rows });
        FloatBufferId(self.program.float_buffers.len() - 1)
    }

    /// A buffer as input of products with `matrices`. Its twins in other forms are shared by all buffers of the shape:
    /// each is written just before it is read.
    fn activation(&mut self, floats: FloatBufferId, matrices: &[MatrixId]) -> Activation {
        let rung = self.cpu.isa.rung();
        let program = &mut self.program;
        let is_read_as = |form: InputForm| {
            let matrices = matrices.iter().map(|matrix| &program.matrices[matrix.0].weights);
            matrices.map(|matrix| matrix.layout().input_form(rung)).any(|its| its == form)
        };
        let [reads_floats, quantized, rounded] =
            [InputForm::Floats, InputForm::Quantized, InputForm::Rounded].map(is_read_as);
        let FloatBuffer { width, rows, .. } = program.float_buffers[floats.0];
        let buffer = QuadBuffer { width, rows };
        let index = |buffers: &mut Vec<QuadBuffer>| {
            buffers.iter().position(|other| *other == buffer).unwrap_or_else(|| {
                buffers.push(buffer.clone());
                buffers.len() - 1
            })
        };
        Activation {
            floats,
            reads_floats,
            quantized: quantized.then(|| QuantizedBufferId(index(&mut program.quantized_buffers))),
            rounded: rounded.then(|| RoundedBufferId(index(&mut program.rounded_buffers))),
        }
    }

    fn matrix(&mut self, part: Part, layer: usize, shape: [usize; 2]) -> Result<MatrixId, Error> {
        let tensor = self.checkpoint.matrix(part, layer, shape)?;
        let name = tensor.info.name.clone();
        let pool = &self.cpu.pool;
        let pack = match self.options.compute {
            Compute::Native => quant::pack,
            Compute::F32 => quant::pack_as_f32,
        };
        let weights = pack(pool, tensor.info.data_type, shape, tensor.data)
            .map_err(|source| Error::Pack { name: name.clone(), source })?;
        self.done(&name, tensor.info.bytes as u64);
        self.program.matrices.push(Matrix { name, weights });
        Ok(MatrixId(self.program.matrices.len() - 1))
    }

    fn vector(
        &mut self,
        part: Part,
        layer: usize,
        kind: &str,
        len: usize,
    ) -> Result<VectorId, Error> {
        let (info, values) = self.checkpoint.vector(part, layer, kind, len)?;
        self.done(&info.name, info.bytes as u64);
        self.program.vectors.push(values);
        Ok(VectorId(self.program.vectors.len() - 1))
    }

    fn done(&mut self, name: &str, bytes: u64) {
        self.weights.release(name);
        self.bytes_done += bytes;
        (self.options.progress)(self.bytes_done, self.bytes_total);
    }
}
