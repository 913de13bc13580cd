//! Shapes of real models: the numbers that decide how much there is to compute.

/// A decoder's shape.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// As GGUF files call it.
    pub(crate) architecture: &'static str,
    pub(crate) width: usize,
    pub(crate) layers: usize,
    pub(crate) heads: Heads,
    pub(crate) feed_forward: usize,
    pub(crate) vocab_size: usize,
    pub(crate) context_max: usize,
    pub(crate) rope_theta: f32,
    pub(crate) norm_epsilon: f32,
    /// Whether the embedding projects to logits as well.
    pub(crate) is_tied: bool,
    /// Whether queries, keys and values have biases.
    pub(crate) has_biases: bool,
    /// How its texts are cut into words, as GGUF files call it.
    pub(crate) pre_tokenizer: &'static str,
    /// Whether its tensors are written.
    pub(crate) has_weights: bool,
}

/// Heads of attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) queries: usize,
    pub(crate) kv: usize,
    pub(crate) dim: usize,
}

/// SmolLM2-135M: all its layers fit into a large cache.
pub(crate) const SMOLLM2_135M: Shape = Shape {
    name: "smollm2-135m",
    architecture: "llama",
    width: 576,
    layers: 30,
    heads: Heads { queries: 9, kv: 3, dim: 64 },
    feed_forward: 1536,
    vocab_size: 49_152,
    context_max: 8192,
    rope_theta: 100_000.0,
    norm_epsilon: 1e-5,
    is_tied: true,
    has_biases: false,
    pre_tokenizer: "smollm",
    has_weights: true,
};

/// Llama-3.2-1B.
pub(crate) const LLAMA_1B: Shape = Shape {
    name: "llama-1b",
    architecture: "llama",
    width: 2048,
    layers: 16,
    heads: Heads { queries: 32, kv: 8, dim: 64 },
    feed_forward: 8192,
    vocab_size: 128_256,
    context_max: 131_072,
    rope_theta: 500_000.0,
    norm_epsilon: 1e-5,
    is_tied: true,
    has_biases: false,
    pre_tokenizer: "llama-bpe",
    has_weights: true,
};

/// Llama-3.1-8B.
pub(crate) const LLAMA_8B: Shape = Shape {
    name: "llama-8b",
    width: 4096,
    layers: 32,
    heads: Heads { queries: 32, kv: 8, dim: 128 },
    feed_forward: 14_336,
    is_tied: false,
    ..LLAMA_1B
};

/// Qwen2.5-0.5B.
pub(crate) const QWEN_0_5B: Shape = Shape {
    name: "qwen-0.5b",
    architecture: "qwen2",
    width: 896,
    layers: 24,
    heads: Heads { queries: 14, kv: 2, dim: 64 },
    feed_forward: 4864,
    vocab_size: 151_936,
    context_max: 32_768,
    rope_theta: 1_000_000.0,
    norm_epsilon: 1e-6,
    is_tied: true,
    has_biases: true,
    pre_tokenizer: "qwen2",
    has_weights: true,
};

/// All of them.
pub(crate) const SHAPES: [Shape; 4] = [SMOLLM2_135M, LLAMA_1B, LLAMA_8B, QWEN_0_5B];
