//! Sixteen positions at a time for the scores, sixteen dimensions at a time for the output, up to eight queries
//! together.

use super::{
    BLOCK_TOKENS, HEAD_DIM_MAX, KvElement, KvShape, Part, Query, cache::Bytes, tasks::Task,
};
use crate::lanes::{LANES, LaneKernel, Lanes};

/// Below every score, yet finite: the difference of two such values is 0, not undefined.
const LOWEST: f32 = -1e30;

impl LaneKernel for Part<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        match (&self.cache.keys, &self.cache.values) {
            (Bytes::F32(keys), Bytes::F32(values)) => all_tasks::<L, f32>(&self, keys, values),
            (Bytes::Bf16(keys), Bytes::Bf16(values)) => all_tasks::<L, u16>(&self, keys, values),
            _ => unreachable!("keys and values are stored alike"),
        }
    }
}

#[inline(always)]
fn all_tasks<L: Lanes, E: KvElement>(part: &Part<'_>, keys: &[E], values: &[E]) {
    for task in part.tasks {
        let mut queries = part.queries_of(task);
        loop {
            let mut group = [Query { row: 0, head: 0, start: 0, end: 0 }; 8];
            let mut count = 0;
            for (place, query) in group.iter_mut().zip(queries.by_ref()) {
                *place = query;
                count += 1;
            }
            match count {
                0 => break,
                1 => queries_together::<L, E, 1>(part, task, keys, values, &group),
                2 => queries_together::<L, E, 2>(part, task, keys, values, &group),
                3 => queries_together::<L, E, 3>(part, task, keys, values, &group),
                4 => queries_together::<L, E, 4>(part, task, keys, values, &group),
                5 => queries_together::<L, E, 5>(part, task, keys, values, &group),
                6 => queries_together::<L, E, 6>(part, task, keys, values, &group),
                7 => queries_together::<L, E, 7>(part, task, keys, values, &group),
                _ => queries_together::<L, E, 8>(part, task, keys, values, &group),
            }
        }
    }
}

#[inline(always)]
fn queries_together<L: Lanes, E: KvElement, const N: usize>(
    part: &Part<'_>,
    task: &Task,
    keys: &[E],
    values: &[E],
    queries: &[Query; 8],
) {
    let KvShape { kv_heads, head_dim, .. } = part.cache.shape();
    let queries: &[Query; N] = queries.first_chunk().expect("N is at most 8");
    let mut scaled = [[0.0_f32; HEAD_DIM_MAX]; N];
    let mut sums = [[0.0_f32; HEAD_DIM_MAX]; N];
    let mut largest = [LOWEST; N];
    let mut totals = [0.0_f32; N];
    for (scaled, query) in scaled.iter_mut().zip(queries) {
        let start = query.row * part.query_stride + query.head * head_dim;
        for (scaled, value) in scaled.iter_mut().zip(&part.queries[start..start + head_dim]) {
            *scaled = value * part.scale;
        }
    }
    let table = part.all.block_table(task);
    let first = queries.iter().map(|query| query.start).min().unwrap_or(0) / BLOCK_TOKENS;
    let end = queries.iter().map(|query| query.end).max().unwrap_or(0);
    let blocks = table.iter().enumerate().take(end.div_ceil(BLOCK_TOKENS)).skip(first);
    for (block, &page) in blocks {
        let page = (page as usize * kv_heads + task.kv_head) * head_dim * BLOCK_TOKENS;
        let page = page..page + head_dim * BLOCK_TOKENS;
        let position = block * BLOCK_TOKENS;

        let (keys, _) = keys[page.clone()].as_chunks::<BLOCK_TOKENS>();
        let mut scores = [L::splat(0.0); N];
        for (dim, key) in keys.iter().enumerate() {
            let key = E::load::<L>(key);
            for (score, scaled) in scores.iter_mut().zip(&scaled) {
                *score = key.fma(L::splat(scaled[dim]), *score);
            }
        }

        let mut weights = [[0.0_f32; LANES]; N];
        let mut shrink = [L::splat(1.0); N];
        for index in 0..N {
            let query = queries[index];
            let mut score = scores[index];
            if position < query.start || position + BLOCK_TOKENS > query.end {
                let mut lanes = [0.0; LANES];
                score.store(&mut lanes);
                for (offset, lane) in lanes.iter_mut().enumerate() {
                    if !(query.start..query.end).contains(&(position + offset)) {
                        *lane = f32::NEG_INFINITY;
                    }
                }
                score = L::load(&lanes);
            }
            let before = largest[index];
            let now = before.max(score.largest());
            largest[index] = now;
            let weight = score.sub(L::splat(now)).exp();
            weight.store(&mut weights[index]);
            if now > before {
                shrink[index] = L::splat(before - now).exp();
                let mut factor = [0.0; LANES];
                shrink[index].store(&mut factor);
                totals[index] *= factor[0];
            }
            totals[index] += weight.sum();
        }

        // Positions past the end hold whatever a former sequence left there: they are not read.
        let positions = BLOCK_TOKENS.min(end - position);
        let (values, _) = values[page].as_chunks::<LANES>();
        let chunks = head_dim / LANES;
        for chunk in 0..chunks {
            let mut running = [L::splat(0.0); N];
            for index in 0..N {
                let (sums, _) = sums[index].as_chunks::<LANES>();
                running[index] = L::load(&sums[chunk]).mul(shrink[index]);
            }
            for offset in 0..positions {
                let value = E::load::<L>(&values[offset * chunks + chunk]);
                for index in 0..N {
                    running[index] = value.fma(L::splat(weights[index][offset]), running[index]);
                }
            }
            for index in 0..N {
                let (sums, _) = sums[index].as_chunks_mut::<LANES>();
                running[index].store(&mut sums[chunk]);
            }
        }
    }
    for index in 0..N {
        let start = (queries[index].row * part.heads + queries[index].head) * head_dim;
        // SAFETY: each query head of each row belongs to one task, and each task to one worker.
        let output = unsafe { part.output.part(start..start + head_dim) };
        let inverse = 1.0 / totals[index];
        for (output, sum) in output.iter_mut().zip(&sums[index]) {
            *output = sum * inverse;
        }
    }
}
