//! A span at a time: sixteen positions together for the scores, sixteen dimensions together for the output, as many
//! queries together as registers hold.

use super::{
    BLOCK_TOKENS, HEAD_DIM_MAX, KvElement, KvShape, Part, Query, SPAN, Share, Work, cache::Bytes,
};
use crate::lanes::{Dots, LANES, LaneKernel, Lanes};

/// Most queries that any instruction set takes together.
const QUERIES_MAX: usize = 12;

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
        let before = L::splat(self.largest - largest).exp_to_88();
        let now = L::splat(later.largest - largest).exp_to_88();
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
            (Bytes::Int8(keys), Bytes::Int8(values)) => work::<L, u8>(&self, keys, values),
            _ => unreachable!("keys and values are stored alike"),
        }
    }
}

/// A few queries of a task.
struct Group {
    /// Those beyond `count` are the last of it again.
    queries: [Query; QUERIES_MAX],
    count: usize,
    /// The number of the first in its task.
    first: usize,
}

#[inline(always)]
fn work<L: Lanes + Dots, E: KvElement>(part: &Part<'_>, keys: &[E], values: &[E]) {
    match &part.work {
        Work::Shares(shares) => {
            for share in *shares {
                let mut queries = part.queries_of(part.all.task(share.task));
                let mut first = 0;
                loop {
                    let group = next_group(&mut queries, first, L::QUERIES);
                    let tensors = (keys, values);
                    // No closure around these: one that is not inlined has none of the rung's instructions.
                    macro_rules! some {
                        ($($n:literal)*) => {
                            match group.count {
                                0 => break,
                                $(..=$n if $n <= L::QUERIES => {
                                    spans::<L, E, $n>(part, share, tensors, &group);
                                })*
                                _ => unreachable!("a group has at most as many queries"),
                            }
                        };
                    }
                    some!(1 2 3 4 6 8 12);
                    first += group.count;
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

/// The next queries of a task, at most `most`.
fn next_group(queries: &mut impl Iterator<Item = Query>, first: usize, most: usize) -> Group {
    let nobody = Query { row: 0, head: 0, start: 0, end: 0 };
    let mut group = Group { queries: [nobody; QUERIES_MAX], count: 0, first };
    for query in queries.take(most) {
        group.queries[group.count..].fill(query);
        group.count += 1;
    }
    group
}

/// Some spans of a task, for a group of its queries, of which there are at most `N`.
#[inline(always)]
fn spans<L: Lanes, E: KvElement, const N: usize>(
    part: &Part<'_>,
    share: &Share,
    (keys, values): (&[E], &[E]),
    group: &Group,
) {
    let KvShape { kv_heads, head_dim, .. } = part.cache.shape();
    let queries: &[Query; N] = group.queries.first_chunk().expect("N is at most as many");
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
    let (key_scales, _) = part.cache.key_scales.as_chunks::<LANES>();
    let (value_scales, _) = part.cache.value_scales.as_chunks::<LANES>();
    let scales = |block: usize| table[block] as usize * kv_heads + task.kv_head;
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
                for sum in &mut sums {
                    *sum = E::ordered(*sum);
                }
                if E::IS_SCALED {
                    let scales = L::load(&key_scales[scales(block)]);
                    for sum in &mut sums {
                        *sum = sum.mul(scales);
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
            if E::IS_SCALED {
                for (place, block) in blocks.clone().enumerate() {
                    let scales = L::load(&value_scales[scales(block)]);
                    for scores in &mut scores {
                        let weights = &mut scores.as_chunks_mut::<LANES>().0[place];
                        L::load(weights).mul(scales).store(weights);
                    }
                }
            }
            let mut sums = [L::splat(0.0); N];
            for chunk in 0..head_dim / LANES {
                sums.fill(L::splat(0.0));
                for (place, block) in blocks.clone().enumerate() {
                    let (values, _) = values[page(block)].as_chunks::<LANES>();
                    let values = values[chunk..].iter().step_by(head_dim / LANES);
                    // Positions past the end hold whatever a former sequence left there: they are not read.
                    let rows = BLOCK_TOKENS.min(count - place * BLOCK_TOKENS);
                    // Offsets that the compiler knows to lie within a block.
                    for (value, offset) in values.zip(0..BLOCK_TOKENS).take(rows) {
                        let value = E::load::<L>(value);
                        for (sum, scores) in sums.iter_mut().zip(&scores) {
                            let weights = &scores.as_chunks::<BLOCK_TOKENS>().0[place];
                            *sum = value.fma(L::splat(weights[offset]), *sum);
                        }
                    }
                }
                for (state, sum) in now.iter_mut().zip(sums) {
                    E::ordered(sum).store(&mut state.sums.as_chunks_mut::<LANES>().0[chunk]);
                }
            }
        } else {
            now.fill(State::EMPTY);
        }
        for (index, (state, now)) in states.iter_mut().zip(&now).enumerate().take(group.count) {
            if keeps_spans {
                let slot = share.slot.expect("checked above") + span - share.spans.start;
                // SAFETY: each slot belongs to one span of one share.
                *unsafe { part.slot(slot, group.first + index) } = *now;
            } else {
                state.append::<L>(now, head_dim);
            }
        }
    }
    for (index, (query, state)) in queries.iter().zip(&states).enumerate().take(group.count) {
        match share.slot {
            None => finish(part, query, state),
            // SAFETY: as above.
            Some(slot) if !keeps_spans => *unsafe { part.slot(slot, group.first + index) } = *state,
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
        let weights = L::load(scores).sub(largest).exp_to_88();
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
