//! The kernels as the measurements call them. Everything that depends on their arguments is here.

use device::cpu::Cpu;
use kernels::{
    attention::{
        Attention, AttentionTasks, BLOCK_TOKENS, KvFormat, KvLayer, KvShape, Sequence, attention,
    },
    linear::{InputForm, Inputs, Layout, Linear, PackedMatrix, Segment, linear},
    quantize::{Bf16Rows, Q8Rows, RowOutputs, quantize, round_to_bf16},
    rmsnorm::{RmsNorm, rms_norm},
    rope::{RopePairs, RopeStore, rope_angles, rope_store},
    silu_mul::{SiluMul, silu_mul},
};

use crate::{random::Random, shape::Heads};

/// Formats of keys and values with their names.
pub(super) const KV_FORMATS: [(&str, KvFormat); 3] =
    [("f32", KvFormat::F32), ("bf16", KvFormat::Bf16), ("int8", KvFormat::Int8)];

/// What a matrix multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    F32,
    Bf16,
    Int8,
    Int8Of4Bits,
}

pub(super) fn arithmetic_of(cpu: &Cpu, matrix: &PackedMatrix) -> Arithmetic {
    match (matrix.layout(), matrix.layout().input_form(cpu.isa.rung())) {
        (_, InputForm::Floats) => Arithmetic::F32,
        (_, InputForm::Rounded) => Arithmetic::Bf16,
        (Layout::Quantized(layout), _) if layout.bits == 4 => Arithmetic::Int8Of4Bits,
        (_, InputForm::Quantized) => Arithmetic::Int8,
    }
}

/// Rows of activations, in all forms.
pub(super) struct Rows {
    width: usize,
    floats: Vec<f32>,
    quantized: Q8Rows,
    rounded: Bf16Rows,
}

impl Rows {
    /// Random ones. The width must be whole blocks of 32.
    pub(super) fn new(cpu: &Cpu, rows: usize, width: usize) -> Self {
        let floats = Random::new(0, "rows").floats(rows * width);
        let mut quantized = Q8Rows::new(rows, width);
        quantize(cpu, &floats, rows, &mut quantized);
        let mut rounded = Bf16Rows::new(rows, width);
        round_to_bf16(cpu, &floats, rows, &mut rounded);
        Self { width, floats, quantized, rounded }
    }

    /// Multiplies with matrices whose outputs lie side by side.
    pub(super) fn multiply(
        &self,
        cpu: &Cpu,
        rows: usize,
        matrices: &[PackedMatrix],
        output: &mut [f32],
    ) {
        let mut columns = 0;
        let segments: Vec<Segment<'_>> = matrices
            .iter()
            .map(|matrix| {
                let column = columns;
                columns += matrix.rows();
                Segment { matrix, bias: None, column }
            })
            .collect();
        let args = Linear {
            input: Inputs {
                floats: &self.floats,
                quantized: Some(&self.quantized),
                rounded: Some(&self.rounded),
            },
            rows,
            segments: &segments,
            output,
            output_stride: columns,
            accumulate: false,
        };
        linear(cpu, args);
    }

    pub(super) fn quantize(&mut self, cpu: &Cpu, rows: usize) {
        quantize(cpu, &self.floats, rows, &mut self.quantized);
    }

    /// Normalises `input` into these rows, quantized.
    pub(super) fn rms_norm(&mut self, cpu: &Cpu, rows: usize, input: &[f32], weight: &[f32]) {
        let output = RowOutputs { quantized: Some(&mut self.quantized), ..RowOutputs::default() };
        rms_norm(cpu, RmsNorm { input, rows, weight, epsilon: 1e-5, output });
    }

    /// Gates `gate_up` into these rows, quantized.
    pub(super) fn silu_mul(&mut self, cpu: &Cpu, rows: usize, gate_up: &[f32]) {
        let output = RowOutputs { quantized: Some(&mut self.quantized), ..RowOutputs::default() };
        silu_mul(cpu, SiluMul { gate_up, rows, width: self.width, output });
    }
}

/// The last rows of one sequence, and caches that hold all of it.
pub(super) struct Sequences {
    heads: Heads,
    qkv: Vec<f32>,
    angles: Vec<f32>,
    places: Vec<u32>,
    tasks: AttentionTasks,
    caches: Vec<KvLayer>,
    output: Vec<f32>,
    next: usize,
}

impl Sequences {
    /// A sequence of `context` positions, of which the last `rows` are computed, in `caches` caches full of values.
    pub(super) fn new(
        cpu: &Cpu,
        heads: Heads,
        format: KvFormat,
        (context, rows): (usize, usize),
        caches: usize,
    ) -> Self {
        let Heads { queries, kv, dim } = heads;
        let blocks = context.div_ceil(BLOCK_TOKENS);
        let sequence =
            Sequence { rows: 0..rows, first_position: context - rows, blocks: 0..blocks };
        let table = (0..blocks as u32).collect();
        let threads = cpu.pool.threads();
        let shape = KvShape { blocks, kv_heads: kv, head_dim: dim, format };
        let positions: Vec<u32> = (0..context as u32).collect();
        let frequencies: Vec<f64> = (0..dim / 2).map(|pair| 1.0 / (1.0 + pair as f64)).collect();
        let mut angles = vec![0.0; context * dim];
        rope_angles(cpu, &positions, &frequencies, 1.0, &mut angles);
        let mut this = Self {
            heads,
            qkv: Random::new(0, "qkv").floats(context * (queries + 2 * kv) * dim),
            angles,
            places: positions,
            tasks: AttentionTasks::new(&[sequence], table, queries, kv, threads),
            caches: (0..caches).map(|_| KvLayer::new(shape)).collect(),
            output: vec![0.0; rows * queries * dim],
            next: 0,
        };
        for _ in 0..caches {
            this.rope_store(cpu);
        }
        // From here on only the last rows are computed.
        this.places.drain(..context - rows);
        this
    }

    /// Turns the rows and stores them into the next cache.
    pub(super) fn rope_store(&mut self, cpu: &Cpu) {
        let cache = self.next_cache();
        let args = RopeStore {
            qkv: &mut self.qkv,
            heads: self.heads.queries,
            angles: &self.angles,
            pairs: self.heads.dim / 2,
            style: RopePairs::Halves,
            places: &self.places,
            cache: &mut self.caches[cache],
        };
        rope_store(cpu, args);
    }

    /// Attention of the rows over the next cache.
    pub(super) fn attention(&mut self, cpu: &Cpu) {
        let cache = self.next_cache();
        let Heads { queries, kv, dim } = self.heads;
        let args = Attention {
            queries: &self.qkv,
            query_stride: (queries + 2 * kv) * dim,
            heads: queries,
            tasks: &self.tasks,
            cache: &self.caches[cache],
            scale: 1.0 / (dim as f32).sqrt(),
            window: None,
            output: &mut self.output,
        };
        attention(cpu, args);
    }

    fn next_cache(&mut self) -> usize {
        self.next = (self.next + 1) % self.caches.len();
        self.next
    }
}
