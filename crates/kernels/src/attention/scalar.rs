//! The meaning: all scores of a query, their softmax, and the weighted sum of the values, in double precision. A task
//! that is cut is done whole by the worker with its first span.

use super::{
    BLOCK_TOKENS, KvElement, KvShape, Part, Work,
    cache::{Bytes, KvLayer},
};

pub(super) fn run(part: Part<'_>) {
    let KvShape { head_dim, .. } = part.cache.shape();
    let Work::Shares(shares) = part.work else { return };
    for share in shares.iter().filter(|share| share.spans.start == 0) {
        let task = part.all.task(share.task);
        let table = part.all.block_table(task);
        for query in part.queries_of(task) {
            let start = query.row * part.query_stride + query.head * head_dim;
            let values = &part.queries[start..start + head_dim];
            let scores: Vec<f64> = (query.start..query.end)
                .map(|position| {
                    let dot: f64 = (0..head_dim)
                        .map(|dim| {
                            let key = key(part.cache, table, task.kv_head, position, dim);
                            f64::from(values[dim]) * f64::from(key)
                        })
                        .sum();
                    dot * f64::from(part.scale)
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            let start = (query.row * part.heads + query.head) * head_dim;
            // SAFETY: each query head of each row belongs to one task, and each task to one worker.
            let output = unsafe { part.output.part(start..start + head_dim) };
            for (dim, output) in output.iter_mut().enumerate() {
                let sum: f64 = (query.start..query.end)
                    .zip(&weights)
                    .map(|(position, weight)| {
                        let value = value(part.cache, table, task.kv_head, position, dim);
                        weight * f64::from(value)
                    })
                    .sum();
                *output = (sum / total) as f32;
            }
        }
    }
}

fn element(bytes: &Bytes, page: usize, place: Place) -> f32 {
    fn of<E: KvElement>(elements: &[E], page: usize, place: Place) -> f32 {
        let place = match place {
            Place::Key { position, dim } => E::key_place(position, dim),
            Place::Value { head_dim, position, dim } => E::value_place(head_dim, position, dim),
        };
        elements[page + place].to_f32()
    }
    match bytes {
        Bytes::F32(elements) => of(elements, page, place),
        Bytes::Bf16(elements) => of(elements, page, place),
        Bytes::Int8(elements) => of(elements, page, place),
    }
}

/// What of a block is asked for.
enum Place {
    Key { position: usize, dim: usize },
    Value { head_dim: usize, position: usize, dim: usize },
}

/// The scale of a position; 1 where there are none.
fn scale(scales: &[f32], page: usize, position: usize, head_dim: usize) -> f32 {
    let index = page / head_dim + position % BLOCK_TOKENS;
    if scales.is_empty() { 1.0 } else { scales[index] }
}

fn page(cache: &KvLayer, table: &[u32], kv_head: usize, position: usize) -> usize {
    let KvShape { kv_heads, head_dim, .. } = cache.shape();
    let block = table[position / BLOCK_TOKENS] as usize;
    (block * kv_heads + kv_head) * head_dim * BLOCK_TOKENS
}

fn key(cache: &KvLayer, table: &[u32], kv_head: usize, position: usize, dim: usize) -> f32 {
    let page = page(cache, table, kv_head, position);
    let scale = scale(&cache.key_scales, page, position, cache.shape().head_dim);
    scale * element(&cache.keys, page, Place::Key { position: position % BLOCK_TOKENS, dim })
}

fn value(cache: &KvLayer, table: &[u32], kv_head: usize, position: usize, dim: usize) -> f32 {
    let page = page(cache, table, kv_head, position);
    let head_dim = cache.shape().head_dim;
    let scale = scale(&cache.value_scales, page, position, head_dim);
    let position = position % BLOCK_TOKENS;
    scale * element(&cache.values, page, Place::Value { head_dim, position, dim })
}
