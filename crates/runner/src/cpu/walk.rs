//! Walks a program over the buffers of a step, one kernel call after another.

use device::cpu::{AlignedBuffer, Cpu};
use kernels::{
    attention::{Attention, KvLayer, attention},
    linear::{Inputs, Linear, Segment, linear},
    quantize::{Bf16Rows, Q8Rows, RowOutputs, quantize, round_to_bf16},
    rmsnorm::{RmsNorm, RmsNormHeads, rms_norm, rms_norm_heads},
    rope::{RopeStore, rope_angles, rope_store},
    silu_mul::{SiluMul, silu_mul},
};
use models::{Activation, DecoderSpec, FloatBufferId, Op, Program, QuadBuffer, SegmentPlan};
use types::{BlockCopy, CopyDirection};

use super::{
    batch::Batch,
    memory::MemoryPlan,
    profile::{Profiler, Work},
};

fn bytes(layers: &[KvLayer]) -> u64 {
    layers.iter().map(|layer| layer.shape().bytes() as u64).sum()
}

/// Buffers and caches, with the program that uses them.
pub(super) struct Walker {
    pub(super) floats: Vec<AlignedBuffer<f32>>,
    quads: QuadBuffers,
    angles: AlignedBuffer<f32>,
    layers: Vec<KvLayer>,
    /// By layer, what made room in `layers`.
    host_layers: Vec<KvLayer>,
    /// By layer, its cache group.
    group_of_layer: Vec<usize>,
    pub(super) profiler: Profiler,
}

/// Activations in other forms than floats.
struct QuadBuffers {
    quantized: Vec<Q8Rows>,
    rounded: Vec<Bf16Rows>,
}

/// What a walk reads besides the buffers.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) spec: &'a DecoderSpec,
    pub(super) program: &'a Program,
    pub(super) batch: &'a Batch,
}

impl Walker {
    /// Allocates all buffers.
    pub(super) fn new(program: &Program, memory: &MemoryPlan) -> Self {
        let floats = program
            .float_buffers
            .iter()
            .map(|buffer| memory.rows(buffer.rows) * buffer.width)
            .map(AlignedBuffer::zeroed_in_huge_pages);
        let shape = |buffer: &QuadBuffer| (memory.rows(buffer.rows), buffer.width);
        let quantized = program.quantized_buffers.iter().map(shape);
        let rounded = program.rounded_buffers.iter().map(shape);
        let pairs = program.rope.frequencies.len();
        Self {
            floats: floats.collect(),
            quads: QuadBuffers {
                quantized: quantized.map(|(rows, width)| Q8Rows::new(rows, width)).collect(),
                rounded: rounded.map(|(rows, width)| Bf16Rows::new(rows, width)).collect(),
            },
            angles: AlignedBuffer::zeroed(memory.position_rows * 2 * pairs),
            layers: memory.kv().map(|[shape, _]| KvLayer::new(shape)).collect(),
            host_layers: memory.kv().map(|[_, shape]| KvLayer::new(shape)).collect(),
            group_of_layer: memory.group_of_layer.clone(),
            profiler: Profiler::default(),
        }
    }

    /// Bytes of the caches.
    pub(super) fn kv_bytes(&self) -> u64 {
        bytes(&self.layers)
    }

    /// Bytes for what made room in the caches.
    pub(super) fn host_kv_bytes(&self) -> u64 {
        bytes(&self.host_layers)
    }

    /// Does what a plan's copies say.
    pub(super) fn copy(&mut self, cpu: &Cpu, copies: &[BlockCopy]) {
        if copies.is_empty() {
            return;
        }
        let begun = self.profiler.now();
        let mut layers: Vec<_> = self.layers.iter_mut().zip(&mut self.host_layers).collect();
        let group_of_layer = &self.group_of_layer;
        cpu.pool.for_each(&mut layers, |index, (layer, host)| {
            let group = group_of_layer[index] as u32;
            for copy in copies.iter().filter(|copy| copy.group == group) {
                let (block, slot) = (copy.block.0 as usize, copy.slot.0 as usize);
                match copy.direction {
                    CopyDirection::ToHost => host.copy_block(slot, layer, block),
                    CopyDirection::ToDevice => layer.copy_block(block, host, slot),
                }
            }
        });
        self.profiler.count(begun, || Work::Copies);
    }

    /// What the body of a step reads of its positions.
    pub(super) fn begin(&mut self, step: Step<'_>) {
        let rope = &step.program.rope;
        let (frequencies, magnitude) = (&rope.frequencies, rope.magnitude);
        let begun = self.profiler.now();
        rope_angles(step.cpu, &step.batch.positions, frequencies, magnitude, &mut self.angles);
        self.profiler.count(begun, || Work::Rope);
    }

    /// Computes the logits of `selected` rows.
    pub(super) fn head(&mut self, step: Step<'_>, selected: &[usize]) {
        for op in &step.program.head {
            self.run(step, op, selected.len(), selected);
        }
    }

    /// Computes one call of the program for all rows of the step, or for those selected.
    pub(super) fn run(&mut self, step: Step<'_>, op: &Op, rows: usize, selected: &[usize]) {
        let begun = self.profiler.now();
        self.compute(step, op, rows, selected);
        self.profiler.count(begun, || Work::of(op, step.program));
    }

    fn compute(&mut self, step: Step<'_>, op: &Op, rows: usize, selected: &[usize]) {
        let Step { cpu, spec, program, batch } = step;
        let epsilon = spec.norm_epsilon;
        match op {
            Op::Embed { table, output } => {
                let table = &program.matrices[table.0].weights;
                let output = &mut self.floats[output.0][..rows * table.columns()];
                let mut targets: Vec<&mut [f32]> = output.chunks_mut(table.columns()).collect();
                cpu.pool.for_each(&mut targets, |row, target| {
                    table.dequantise_row(batch.tokens[row] as usize, target);
                });
            }
            Op::RmsNorm { input, weight, output } => {
                let [input, floats] = two(&mut self.floats, *input, output.floats);
                let weight = &program.vectors[weight.0];
                let output = self.quads.outputs(*output, floats);
                rms_norm(cpu, RmsNorm { input, rows, weight, epsilon, output });
            }
            Op::Linear { input, segments, output, accumulate } => {
                self.linear(step, *input, segments, *output, (rows, *accumulate));
            }
            Op::HeadNorm { qkv, offset, heads, weight } => {
                let args = RmsNormHeads {
                    values: &mut self.floats[qkv.0],
                    rows,
                    stride: spec.qkv_width(),
                    offset: *offset,
                    heads: *heads,
                    weight: &program.vectors[weight.0],
                    epsilon,
                };
                rms_norm_heads(cpu, args);
            }
            Op::RopeStore { qkv, layer } => {
                let args = RopeStore {
                    qkv: &mut self.floats[qkv.0],
                    heads: spec.heads,
                    angles: &self.angles,
                    pairs: program.rope.frequencies.len(),
                    style: program.rope_pairs,
                    places: &batch.groups[self.group_of_layer[*layer]].places,
                    cache: &mut self.layers[*layer],
                };
                rope_store(cpu, args);
            }
            Op::Attention { qkv, layer, window, output } => {
                let [queries, floats] = two(&mut self.floats, *qkv, output.floats);
                let args = Attention {
                    queries,
                    query_stride: spec.qkv_width(),
                    heads: spec.heads,
                    tasks: &batch.groups[self.group_of_layer[*layer]].attention,
                    cache: &self.layers[*layer],
                    scale: 1.0 / (spec.head_dim as f32).sqrt(),
                    window: *window,
                    output: floats,
                };
                attention(cpu, args);
                let floats = &self.floats[output.floats.0];
                if let Some(buffer) = output.quantized {
                    quantize(cpu, floats, rows, &mut self.quads.quantized[buffer.0]);
                }
                if let Some(buffer) = output.rounded {
                    round_to_bf16(cpu, floats, rows, &mut self.quads.rounded[buffer.0]);
                }
            }
            Op::SiluMul { gate_up, output } => {
                let width = spec.feed_forward;
                let [gate_up, floats] = two(&mut self.floats, *gate_up, output.floats);
                let output = self.quads.outputs(*output, floats);
                silu_mul(cpu, SiluMul { gate_up, rows, width, output });
            }
            Op::Select { input, output } => {
                let width = program.float_buffers[input.0].width;
                let [input, output] = two(&mut self.floats, *input, *output);
                for (target, &row) in output.chunks_mut(width).zip(selected) {
                    target.copy_from_slice(&input[row * width..][..width]);
                }
            }
        }
    }

    fn linear(
        &mut self,
        step: Step<'_>,
        input: Activation,
        segments: &[SegmentPlan],
        output: FloatBufferId,
        (rows, accumulate): (usize, bool),
    ) {
        let Step { cpu, program, .. } = step;
        let segments: Vec<Segment<'_>> = segments
            .iter()
            .map(|segment| Segment {
                matrix: &program.matrices[segment.matrix.0].weights,
                bias: segment.bias.map(|bias| &program.vectors[bias.0][..]),
                column: segment.column,
            })
            .collect();
        let output_stride = program.float_buffers[output.0].width;
        let [floats, target] = two(&mut self.floats, input.floats, output);
        let segments = &segments;
        let input = Inputs {
            floats,
            quantized: input.quantized.map(|buffer| &self.quads.quantized[buffer.0]),
            rounded: input.rounded.map(|buffer| &self.quads.rounded[buffer.0]),
        };
        let args = Linear { input, rows, segments, output: target, output_stride, accumulate };
        linear(cpu, args);
    }
}

/// Two different buffers.
fn two(
    buffers: &mut [AlignedBuffer<f32>],
    a: FloatBufferId,
    b: FloatBufferId,
) -> [&mut AlignedBuffer<f32>; 2] {
    buffers.get_disjoint_mut([a.0, b.0]).expect("a kernel does not write what it reads")
}

impl QuadBuffers {
    /// Where an activation is written: in each form in which it is read.
    fn outputs<'a>(&'a mut self, activation: Activation, floats: &'a mut [f32]) -> RowOutputs<'a> {
        RowOutputs {
            floats: activation.reads_floats.then_some(floats),
            quantized: activation.quantized.map(|buffer| &mut self.quantized[buffer.0]),
            rounded: activation.rounded.map(|buffer| &mut self.rounded[buffer.0]),
        }
    }
}
