//! What the tensors of a decoder are called in GGUF files and in Hugging Face checkpoints.

/// A tensor of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name is the whole description")]
pub enum Part {
    Embedding,
    LastNorm,
    Logits,
    RopeFactors,
    AttentionNorm,
    Query,
    Key,
    Value,
    AttentionOutput,
    QueryNorm,
    KeyNorm,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
}

impl Part {
    /// Names without `.weight` or `.bias`: GGUF, then Hugging Face. `{}` is the layer.
    const fn stems(self) -> (&'static str, &'static str) {
        match self {
            Self::Embedding => ("token_embd", "model.embed_tokens"),
            Self::LastNorm => ("output_norm", "model.norm"),
            Self::Logits => ("output", "lm_head"),
            Self::RopeFactors => ("rope_freqs", "rope_freqs"),
            Self::AttentionNorm => ("blk.{}.attn_norm", "model.layers.{}.input_layernorm"),
            Self::Query => ("blk.{}.attn_q", "model.layers.{}.self_attn.q_proj"),
            Self::Key => ("blk.{}.attn_k", "model.layers.{}.self_attn.k_proj"),
            Self::Value => ("blk.{}.attn_v", "model.layers.{}.self_attn.v_proj"),
            Self::AttentionOutput => ("blk.{}.attn_output", "model.layers.{}.self_attn.o_proj"),
            Self::QueryNorm => ("blk.{}.attn_q_norm", "model.layers.{}.self_attn.q_norm"),
            Self::KeyNorm => ("blk.{}.attn_k_norm", "model.layers.{}.self_attn.k_norm"),
            Self::FeedForwardNorm => {
                ("blk.{}.ffn_norm", "model.layers.{}.post_attention_layernorm")
            }
            Self::Gate => ("blk.{}.ffn_gate", "model.layers.{}.mlp.gate_proj"),
            Self::Up => ("blk.{}.ffn_up", "model.layers.{}.mlp.up_proj"),
            Self::Down => ("blk.{}.ffn_down", "model.layers.{}.mlp.down_proj"),
        }
    }

    /// The tensor's name; `kind` is `weight` or `bias`.
    pub(crate) fn name(self, gguf: bool, layer: usize, kind: &str) -> String {
        let (of_gguf, of_hugging_face) = self.stems();
        let stem = if gguf { of_gguf } else { of_hugging_face };
        format!("{}.{kind}", stem.replace("{}", &layer.to_string()))
    }
}
