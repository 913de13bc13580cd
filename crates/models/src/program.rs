//! A model lowered for a CPU: kernel calls over planned buffers, as data that can be printed and walked.

use std::fmt;

use kernels::{linear::PackedMatrix, rope::RopePairs};

use crate::RopeFrequencies;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub usize);
    };
}
index!(
    /// Index into [`Program::float_buffers`].
    FloatBufferId);
index!(
    /// Index into [`Program::quantized_buffers`].
    QuantizedBufferId);
index!(
    /// Index into [`Program::rounded_buffers`].
    RoundedBufferId);
index!(
    /// Index into [`Program::matrices`].
    MatrixId);
index!(
    /// Index into [`Program::vectors`].
    VectorId);

/// What the rows of a buffer stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// Every position computed in the step.
    Position,
    /// Positions whose logits are wanted, some at a time.
    Output,
}

/// A buffer of floats, `[rows][width]`.
#[derive(Clone, Debug)]
pub struct FloatBuffer {
    /// For printing.
    pub name: &'static str,
    /// Values in a row.
    pub width: usize,
    /// What its rows are.
    pub rows: RowKind,
}

/// A buffer of rows that are quantized or rounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuadBuffer {
    /// Values in a row.
    pub width: usize,
    /// What its rows are.
    pub rows: RowKind,
}

/// A matrix and its name in the checkpoint.
pub struct Matrix {
    /// The checkpoint's name of it.
    pub name: String,
    /// The weights.
    pub weights: PackedMatrix,
}

/// Values that matrix products read, in each form in which a matrix reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The floats.
    pub floats: FloatBufferId,
    /// Whether a product reads the floats, so that they must be written.
    pub reads_floats: bool,
    /// The same quantized.
    pub quantized: Option<QuantizedBufferId>,
    /// The same rounded to bfloat16.
    pub rounded: Option<RoundedBufferId>,
}

/// One matrix of a product.
#[derive(Clone, Copy, Debug)]
pub struct SegmentPlan {
    /// The weights.
    pub matrix: MatrixId,
    /// Added to its outputs.
    pub bias: Option<VectorId>,
    /// Where its outputs begin in an output row.
    pub column: usize,
}

/// One kernel call.
#[derive(Clone, Debug)]
pub enum Op {
    /// Looks the step's tokens up.
    Embed {
        /// Embeddings, a row a token.
        table: MatrixId,
        /// Target.
        output: FloatBufferId,
    },
    /// Normalises rows.
    RmsNorm {
        /// Source.
        input: FloatBufferId,
        /// Weights of the norm.
        weight: VectorId,
        /// Target.
        output: Activation,
    },
    /// Multiplies with matrices, their outputs side by side.
    Linear {
        /// Source.
        input: Activation,
        /// The matrices.
        segments: Vec<SegmentPlan>,
        /// Target.
        output: FloatBufferId,
        /// Add to the target instead of replacing it.
        accumulate: bool,
    },
    /// Normalises heads within rows of queries, keys and values.
    HeadNorm {
        /// Source and target.
        qkv: FloatBufferId,
        /// Where the first head begins.
        offset: usize,
        /// How many heads.
        heads: usize,
        /// Weights of the norm.
        weight: VectorId,
    },
    /// Turns queries and keys, and stores keys and values.
    RopeStore {
        /// Rows of queries, keys and values.
        qkv: FloatBufferId,
        /// Whose cache.
        layer: usize,
    },
    /// Attention over the cache.
    Attention {
        /// Rows that begin with the queries.
        qkv: FloatBufferId,
        /// Whose cache.
        layer: usize,
        /// Positions seen.
        window: Option<usize>,
        /// Target.
        output: Activation,
    },
    /// Gates the feed-forward.
    SiluMul {
        /// Gate and factor, side by side.
        gate_up: FloatBufferId,
        /// Target.
        output: Activation,
    },
    /// Takes the rows whose logits are wanted.
    Select {
        /// Source, a row a position.
        input: FloatBufferId,
        /// Target, a row an output.
        output: FloatBufferId,
    },
}

/// A model as kernel calls.
pub struct Program {
    /// From tokens to the residual stream after the last layer, for all positions of a step.
    pub body: Vec<Op>,
    /// From the residual stream to logits, for some positions.
    pub head: Vec<Op>,
    /// Buffers of floats.
    pub float_buffers: Vec<FloatBuffer>,
    /// Buffers of quantized rows.
    pub quantized_buffers: Vec<QuadBuffer>,
    /// Buffers of rows rounded to bfloat16.
    pub rounded_buffers: Vec<QuadBuffer>,
    /// Where the head leaves its result.
    pub logits: FloatBufferId,
    /// Matrices.
    pub matrices: Vec<Matrix>,
    /// Norm weights and biases.
    pub vectors: Vec<Vec<f32>>,
    /// Frequencies of the rotary embedding.
    pub rope: RopeFrequencies,
    /// Which values of a head form a pair.
    pub rope_pairs: RopePairs,
}

impl Program {
    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        let matrices: usize = self.matrices.iter().map(|matrix| matrix.weights.bytes()).sum();
        let vectors: usize = self.vectors.iter().map(|vector| 4 * vector.len()).sum();
        (matrices + vectors) as u64
    }

    fn write_op(&self, f: &mut fmt::Formatter<'_>, op: &Op) -> fmt::Result {
        let name = |id: &FloatBufferId| self.float_buffers[id.0].name;
        let activation = |activation: &Activation| {
            let quantized = if activation.quantized.is_some() { " + q8" } else { "" };
            let rounded = if activation.rounded.is_some() { " + bf16" } else { "" };
            format!("{}{quantized}{rounded}", name(&activation.floats))
        };
        match op {
            Op::Embed { table, output } => {
                write!(f, "embed      {} -> {}", self.matrices[table.0].name, name(output))
            }
            Op::RmsNorm { input, output, .. } => {
                write!(f, "rmsnorm    {} -> {}", name(input), activation(output))
            }
            Op::Linear { input, segments, output, accumulate } => {
                let matrices: Vec<&str> =
                    segments.iter().map(|segment| &*self.matrices[segment.matrix.0].name).collect();
                let arrow = if *accumulate { "+>" } else { "->" };
                let (input, output) = (activation(input), name(output));
                write!(f, "linear     {input} × [{}] {arrow} {output}", matrices.join(", "))
            }
            Op::HeadNorm { qkv, offset, heads, .. } => {
                write!(f, "head norm  {} (heads {heads} from value {offset})", name(qkv))
            }
            Op::RopeStore { qkv, layer } => {
                write!(f, "rope store {} -> cache of layer {layer}", name(qkv))
            }
            Op::Attention { qkv, layer, window, output } => {
                let (source, target) = (name(qkv), activation(output));
                write!(f, "attention  {source} over layer {layer}")?;
                if let Some(window) = window {
                    write!(f, ", window {window}")?;
                }
                write!(f, " -> {target}")
            }
            Op::SiluMul { gate_up, output } => {
                write!(f, "silu mul   {} -> {}", name(gate_up), activation(output))
            }
            Op::Select { input, output } => {
                write!(f, "select     {} -> {}", name(input), name(output))
            }
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (part, ops) in [("body", &self.body), ("head", &self.head)] {
            writeln!(f, "{part}:")?;
            for op in ops {
                f.write_str("  ")?;
                self.write_op(f, op)?;
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
