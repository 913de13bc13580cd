//! What a decoder is, in numbers and switches.

use kernels::{attention::HEAD_DIM_MAX, rope::RopePairs};

use crate::{Error, RopeScaling};

/// A decoder-only transformer: embedding, layers of attention and gated feed-forward with norms before each, a last
/// norm, and a projection to logits. Everything that differs between its architectures is a field.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Name of the architecture.
    pub architecture: &'static str,
    /// Values of the residual stream.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Values between the two feed-forward products.
    pub feed_forward: usize,
    /// Rows of the embedding, which is the number of logits.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub context_max: usize,
    /// Added to the mean square in every norm.
    pub norm_epsilon: f32,
    /// Rotary embedding.
    pub rope: RopeSpec,
    /// Whether query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub output_bias: bool,
    /// Whether each head of queries and keys is normalised before it is turned.
    pub qk_norm: bool,
    /// For each layer, how many positions a query sees, itself included; `None` for all.
    pub windows: Vec<Option<usize>>,
    /// Whether a checkpoint without a logits projection uses the embedding for it.
    pub tied_embeddings: bool,
}

/// Rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// Values of a head that are turned.
    pub dims: usize,
    /// Which values form a pair.
    pub pairs: RopePairs,
    /// How frequencies are changed for contexts longer than the model was first trained on.
    pub scaling: RopeScaling,
}

impl DecoderSpec {
    /// Values of a row of queries, keys and values.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Numbers of keys and values that one token adds to the KV cache, over all layers.
    pub fn kv_values_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim
    }

    /// Checks what the kernels need; `field` names are those of this struct.
    pub(crate) fn validate(self) -> Result<Self, Error> {
        let check = |holds: bool, field: &str, value: usize, problem: &str| {
            if holds {
                return Ok(());
            }
            let (field, value, problem) = (field.into(), value.to_string(), problem.into());
            Err(Error::Field { field, value, problem })
        };
        let positive = [
            ("width", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("feed_forward", self.feed_forward),
            ("context_max", self.context_max),
        ];
        for (field, value) in positive {
            check(
                (1..=1 << 24).contains(&value),
                field,
                value,
                "it must be between 1 and 16777216",
            )?;
        }
        check(self.layers <= 4096, "layers", self.layers, "at most 4096 are supported")?;
        check(
            self.heads.is_multiple_of(self.kv_heads),
            "kv_heads",
            self.kv_heads,
            "it must divide the number of heads",
        )?;
        check(
            self.head_dim.is_multiple_of(16) && self.head_dim <= HEAD_DIM_MAX,
            "head_dim",
            self.head_dim,
            "heads must be a multiple of 16 wide, and at most 256",
        )?;
        check(
            self.rope.dims.is_multiple_of(2) && self.rope.dims <= self.head_dim,
            "rope.dims",
            self.rope.dims,
            "it must be even and at most the width of a head",
        )?;
        Ok(self)
    }
}
