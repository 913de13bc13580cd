//! A span at a time: sixteen positions together for the scores, sixteen dimensions together for the output, as many
//! queries together as registers hold.

use super::{
    BLOCK_TOKENS, HEAD_DIM_MAX, KvElement, KvShape, Part, Query, SPAN, Share, Work, cache::Bytes,
};
use crate::lanes::{Dots, LANES, LaneKernel, Lanes};

/// Queries taken together: their scores for sixteen positions fill twelve of the sixteen registers of AVX2.
const QUERIES: usize = 6;

/// Below every score, yet finite: the difference of two such values is 0, not undefined.
const LOWEST: f32 = -1e30;

/// What some spans give for a query: the largest score, and for weights relative to it their total and the sum of the
/// values.
#[derive(Clone, Copy)]
pub(super) struct State {
    largest: f32,
    total: f32,
    sums: [f32; HEAD_DIM_MAX],
}

impl State {
    pub(super) const EMPTY: Self = Self { largest: LOWEST, total: 0.0, sums: [0.0; HEAD_DIM_MAX] };

    /// Puts later spans behind the ones so far.
    #[inline(always)]
    fn append<L: Lanes>(&mut self, later: &Self, head_dim: usize) {
        let largest = self.largest.max(later.largest);
        let before = L::splat(self.largest - largest).exp();
        let now = L::splat(later.largest - largest).exp();
        self.largest = largest;
        let mut totals = [0.0; LANES];
        let total = L::splat(later.total).mul(now);
        L::splat(self.total).fma(before, total).store(&mut totals);
        self.total = totals[0];
        let (sums, _) = self.sums[..head_dim].as_chunks_mut::<LANES>();
        let (later, _) = later.sums[..head_dim].as_chunks::<LANES>();
        for (sums, later) in sums.iter_mut().zip(later) {
            L::load(sums).fma(before, L::load(later).mul(now)).store(sums);
        }
    }
}

impl LaneKernel for Part<'_> {
    #[inline(always)]
    fn run<L: Lanes + Dots>(self) {
        match (&self.cache.keys, &self.cache.values) {
            (Bytes::F32(keys), Bytes::F32(values)) => work::<L, f32>(&self, keys, values),
            (Bytes::Bf16(keys), Bytes::Bf16(values)) => work::<L, u16>(&self, keys, values),
            _ => unreachable!("keys and values are stored alike"),
        }
    }
}

#[inline(always)]
fn work<L: Lanes, E: KvElement>(part: &Part<'_>, keys: &[E], values: &[E]) {
    match &part.work {
        Work::Shares(shares) => {
            for share in *shares {
                let mut queries = part.queries_of(part.all.task(share.task));
                let mut at = 0;
                loop {
                    let (group, count) = next_group(&mut queries);
                    let tensors = (keys, values);
                    // No closure around these: one that is not inlined has none of the rung's instructions.
                    match count {
                        0 => break,
                        1 => spans::<L, E, 1>(part, share, tensors, &group, at),
                        2 => spans::<L, E, 2>(part, share, tensors, &group, at),
                        3 => spans::<L, E, 3>(part, share, tensors, &group, at),
                        4 => spans::<L, E, 4>(part, share, tensors, &group, at),
                        5 => spans::<L, E, 5>(part, share, tensors, &group, at),
                        _ => spans::<L, E, 6>(part, share, tensors, &group, at),
                    }
                    at += count;
                }
            }
        }
        Work::Cuts(cuts) => {
            let head_dim = part.cache.shape().head_dim;
            for cut in *cuts {
                for (index, query) in part.queries_of(part.all.task(cut.task)).enumerate() {
                    let mut state = State::EMPTY;
                    for slot in cut.slots.clone() {
                        // SAFETY: nobody writes slots any more, and each cut belongs to one worker.
                        let later = unsafe { part.slot(slot, index) };
                        state.append::<L>(later, head_dim);
                    }
                    finish(part, &query, &state);
                }
            }
        }
    }
}

/// The next few queries of a task, and how many there are.
fn next_group(queries: &mut impl Iterator<Item = Query>) -> ([Query; QUERIES], usize) {
    let mut group = [Query { row: 0, head: 0, start: 0, end: 0 }; QUERIES];
    let mut count = 0;
    for (place, query) in group.iter_mut().zip(queries) {
        *place = query;
        count += 1;
    }
    (group, count)
}

/// Some spans of a task, for `N` of its queries from number `at` on.
#[inline(always)]
fn spans<L: Lanes, E: KvElement, const N: usize>(
    part: &Part<'_>,
    share: &Share,
    (keys, values): (&[E], &[E]),
    queries: &[Query; QUERIES],
    at: usize,
) {
    let KvShape { kv_heads, head_dim, .. } = part.cache.shape();
    let queries: &[Query; N] = queries.first_chunk().expect("N is at most as many");
    let task = part.all.task(share.task);
    let table = part.all.block_table(task);
    // `[dimension][query]`, so that the queries of a step of a score lie side by side.
    let mut scaled = [[0.0_f32; N]; HEAD_DIM_MAX];
    for (index, query) in queries.iter().enumerate() {
        let start = query.row * part.query_stride + query.head * head_dim;
        for (scaled, value) in scaled.iter_mut().zip(&part.queries[start..start + head_dim]) {
            scaled[index] = value * part.scale;
        }
    }
    let scaled = &scaled[..head_dim];
    let first = queries.iter().map(|query| query.start).min().unwrap_or(0);
    let end = queries.iter().map(|query| query.end).max().unwrap_or(0);
    let page = |block: usize| {
        let page = (table[block] as usize * kv_heads + task.kv_head) * head_dim * BLOCK_TOKENS;
        page..page + head_dim * BLOCK_TOKENS
    };
    let keeps_spans = share.slot.is_some() && share.spans.start > 0;
    let mut states = [State::EMPTY; N];
    let mut now = states;
    for span in share.spans.clone() {
        let positions = span * SPAN..end.min((span + 1) * SPAN);
        if positions.end > first.max(positions.start) {
            // Blocks before the window of all queries are not read.
            let start = positions.start.max(first / BLOCK_TOKENS * BLOCK_TOKENS);
            let blocks = start / BLOCK_TOKENS..positions.end.div_ceil(BLOCK_TOKENS);
            let mut scores = [[0.0_f32; SPAN]; N];
            for (place, block) in blocks.clone().enumerate() {
                let (keys, _) = keys[page(block)].as_chunks::<BLOCK_TOKENS>();
                let mut sums = [L::splat(0.0); N];
                for (key, scaled) in keys.iter().zip(scaled) {
                    let key = E::load::<L>(key);
                    for (sum, scaled) in sums.iter_mut().zip(scaled) {
                        *sum = key.fma(L::splat(*scaled), *sum);
                    }
                }
                for (scores, sum) in scores.iter_mut().zip(sums) {
                    sum.store(&mut scores.as_chunks_mut::<BLOCK_TOKENS>().0[place]);
                }
            }
            let count = positions.end - start;
            for ((scores, query), state) in scores.iter_mut().zip(queries).zip(&mut now) {
                let within = |position: usize| position.clamp(start, positions.end) - start;
                let seen = within(query.start)..within(query.end);
                weigh::<L>(&mut scores[..blocks.len() * BLOCK_TOKENS], seen, state);
            }
            let mut sums = [L::splat(0.0); N];
            for chunk in 0..head_dim / LANES {
                sums.fill(L::splat(0.0));
                for (place, block) in blocks.clone().enumerate() {
                    let (values, _) = values[page(block)].as_chunks::<LANES>();
                    let values = values[chunk..].iter().step_by(head_dim / LANES);
                    // Positions past the end hold whatever a former sequence left there: they are not read.
                    let rows = BLOCK_TOKENS.min(count - place * BLOCK_TOKENS);
                    for (offset, value) in values.take(rows).enumerate() {
                        let value = E::load::<L>(value);
                        for (sum, scores) in sums.iter_mut().zip(&scores) {
                            let weight = scores[place * BLOCK_TOKENS + offset];
                            *sum = value.fma(L::splat(weight), *sum);
                        }
                    }
                }
                for (state, sum) in now.iter_mut().zip(sums) {
                    sum.store(&mut state.sums.as_chunks_mut::<LANES>().0[chunk]);
                }
            }
        } else {
            now.fill(State::EMPTY);
        }
        for (index, (state, now)) in states.iter_mut().zip(&now).enumerate() {
            if keeps_spans {
                let slot = share.slot.expect("checked above") + span - share.spans.start;
                // SAFETY: each slot belongs to one span of one share.
                *unsafe { part.slot(slot, at + index) } = *now;
            } else {
                state.append::<L>(now, head_dim);
            }
        }
    }
    for (index, (query, state)) in queries.iter().zip(&states).enumerate() {
        match share.slot {
            None => finish(part, query, state),
            // SAFETY: as above.
            Some(slot) if !keeps_spans => *unsafe { part.slot(slot, at + index) } = *state,
            Some(_) => {}
        }
    }
}

/// Turns the scores of a span into weights relative to the largest that the query sees; others weigh nothing.
#[inline(always)]
fn weigh<L: Lanes>(scores: &mut [f32], seen: std::ops::Range<usize>, state: &mut State) {
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let (chunks, _) = scores.as_chunks_mut::<LANES>();
    let mut largest = L::splat(LOWEST);
    for scores in &*chunks {
        largest = largest.max(L::load(scores));
    }
    state.largest = largest.largest();
    let (largest, mut total) = (L::splat(state.largest), L::splat(0.0));
    for scores in chunks {
        let weights = L::load(scores).sub(largest).exp();
        total = total.add(weights);
        weights.store(scores);
    }
    state.total = total.sum();
}

#[inline(always)]
fn finish(part: &Part<'_>, query: &Query, state: &State) {
    let head_dim = part.cache.shape().head_dim;
    let start = (query.row * part.heads + query.head) * head_dim;
    // SAFETY: each query head of each row belongs to one task, and its finish to one worker.
    let output = unsafe { part.output.part(start..start + head_dim) };
    let inverse = 1.0 / state.total;
    for (output, sum) in output.iter_mut().zip(&state.sums) {
        *output = sum * inverse;
    }
}
