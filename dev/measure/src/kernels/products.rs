//! The products of a model, as programs call them.

use crate::shape::{Heads, LLAMA_1B, SMOLLM2_135M, Shape};

/// Models whose layers fit into a cache, and whose do not.
pub(super) const SHAPES: [Shape; 2] = [SMOLLM2_135M, LLAMA_1B];

/// A logits projection with more weights than this takes longer than all the rest together, and shows nothing new.
const LOGITS_WEIGHTS_MAX: usize = 1 << 26;

/// Matrices with the same input, their outputs side by side.
pub(super) struct Product {
    pub(super) name: &'static str,
    pub(super) outputs: Vec<usize>,
    pub(super) inputs: usize,
    /// Most rows that programs give it.
    pub(super) rows_max: usize,
}

/// The products of a layer, and the logits.
pub(super) fn products(shape: &Shape) -> Vec<Product> {
    let Heads { queries, kv, dim } = shape.heads;
    let product = |name, outputs, inputs| Product { name, outputs, inputs, rows_max: 512 };
    let mut products = vec![
        product("qkv", vec![queries * dim, kv * dim, kv * dim], shape.width),
        product("o", vec![shape.width], queries * dim),
        product("gate_up", vec![shape.feed_forward; 2], shape.width),
        product("down", vec![shape.width], shape.feed_forward),
    ];
    if shape.vocab_size * shape.width <= LOGITS_WEIGHTS_MAX {
        let logits = product("logits", vec![shape.vocab_size], shape.width);
        products.push(Product { rows_max: 64, ..logits });
    }
    products
}
