//! A span at a time: sixteen positions together for the scores, sixteen dimensions together for the output, as many
//! queries together as registers hold.

use super::{
    BLOCK_TOKENS, HEAD_DIM_MAX, KvElement, KvShape, Part, Query, SPAN, Share, Work,
    cache::{Bytes, LINE},
    products::{Bf16Pairs, Floats, Products},
};
use crate::lanes::{Dots, LANES, LaneKernel, Lanes, PairDots, PairKernel};

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

    /// Forgets everything; sums beyond `head_dim` were never used.
    #[inline(always)]
    fn clear(&mut self, head_dim: usize) {
        (self.largest, self.total) = (Self::EMPTY.largest, Self::EMPTY.total);
        self.sums[..head_dim].fill(0.0);
    }

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
            (Bytes::F32(keys), Bytes::F32(values)) => work::<L, f32, Floats>(&self, keys, values),
            (Bytes::Bf16(keys), Bytes::Bf16(values)) => work::<L, u16, Floats>(&self, keys, values),
            (Bytes::Int8(keys), Bytes::Int8(values)) => work::<L, u8, Floats>(&self, keys, values),
            _ => unreachable!("keys and values are stored alike"),
        }
    }
}

impl PairKernel for Part<'_> {
    #[inline(always)]
    fn run<L: Lanes + Dots + PairDots>(self) {
        match (&self.cache.keys, &self.cache.values) {
            (Bytes::Bf16(keys), Bytes::Bf16(values)) => {
                work::<L, u16, Bf16Pairs>(&self, keys, values);
            }
            _ => unreachable!("the caller looked"),
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
fn work<L: Lanes + Dots, E: KvElement, M: Products<L, E>>(
    part: &Part<'_>,
    keys: &[E],
    values: &[E],
) {
    match &part.work {
        Work::Shares(shares) => {
            let mut states = [[State::EMPTY; QUERIES_MAX]; 2];
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
                                    spans::<L, E, M, $n>(part, share, tensors, &group, &mut states);
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
fn spans<L: Lanes + Dots, E: KvElement, M: Products<L, E>, const N: usize>(
    part: &Part<'_>,
    share: &Share,
    (keys, values): (&[E], &[E]),
    group: &Group,
    states: &mut [[State; QUERIES_MAX]; 2],
) {
    let KvShape { kv_heads, head_dim, .. } = part.cache.shape();
    let queries: &[Query; N] = group.queries.first_chunk().expect("N is at most as many");
    let task = part.all.task(share.task);
    let table = part.all.block_table(task);
    // `[line][query]`, so that the queries of a step of a score lie side by side.
    let mut scaled = [[M::NONE; N]; HEAD_DIM_MAX / 2];
    for (index, query) in queries.iter().enumerate() {
        let start = query.row * part.query_stride + query.head * head_dim;
        let (chunks, _) = part.queries[start..start + head_dim].as_chunks::<LANES>();
        for (values, scaled) in chunks.iter().zip(scaled.chunks_exact_mut(LANES / 2)) {
            let (mut rounded, mut factors) = ([0.0; LANES], [M::NONE; LANES / 2]);
            M::rounded(L::load(values).mul(L::splat(part.scale))).store(&mut rounded);
            M::store(&rounded, &mut factors);
            for (scaled, factors) in scaled.iter_mut().zip(factors) {
                scaled[index] = factors;
            }
        }
    }
    let scaled = &scaled[..head_dim / 2];
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
    let [states, now] = states;
    let states: &mut [State; N] = states.first_chunk_mut().expect("N is at most as many");
    let now: &mut [State; N] = now.first_chunk_mut().expect("N is at most as many");
    states.iter_mut().for_each(|state| state.clear(head_dim));
    for span in share.spans.clone() {
        let positions = span * SPAN..end.min((span + 1) * SPAN);
        if positions.end > first.max(positions.start) {
            // Blocks before the window of all queries are not read.
            let start = positions.start.max(first / BLOCK_TOKENS * BLOCK_TOKENS);
            let blocks = start / BLOCK_TOKENS..positions.end.div_ceil(BLOCK_TOKENS);
            let mut scores = [[0.0_f32; SPAN]; N];
            macro_rules! scores_of {
                ($block:ident, $together:literal) => {{
                    let mut lines: [&[[E; LINE]]; $together] = [&[]; $together];
                    for (lines, block) in lines.iter_mut().zip($block..) {
                        *lines = keys[page(block)].as_chunks().0;
                    }
                    let sums = score::<L, E, M, N, $together>(lines, scaled);
                    let place = $block - blocks.start;
                    for (scores, sums) in scores.iter_mut().zip(sums) {
                        let (chunks, _) = scores.as_chunks_mut::<BLOCK_TOKENS>();
                        let chunks = chunks[place..].iter_mut();
                        for ((block, sum), scores) in ($block..).zip(sums).zip(chunks) {
                            if E::IS_SCALED {
                                sum.mul(L::load(&key_scales[scales(block)])).store(scores);
                            } else {
                                sum.store(scores);
                            }
                        }
                    }
                    $block += $together;
                }};
            }
            let mut block = blocks.start;
            while L::SUMS >= 8 * N && blocks.end - block >= 4 {
                scores_of!(block, 4);
            }
            while L::SUMS >= 2 * N && blocks.end - block >= 2 {
                scores_of!(block, 2);
            }
            while block < blocks.end {
                scores_of!(block, 1);
            }
            let count = positions.end - start;
            let mut weights = [[M::NONE; SPAN / 2]; N];
            for (index, (scores, query)) in scores.iter_mut().zip(queries).enumerate() {
                let within = |position: usize| position.clamp(start, positions.end) - start;
                let seen = within(query.start)..within(query.end);
                let seen_scores = &mut scores[..blocks.len() * BLOCK_TOKENS];
                weigh::<L, E, M>(seen_scores, seen, &mut now[index]);
                if E::IS_SCALED {
                    let (chunks, _) = scores.as_chunks_mut::<LANES>();
                    for (block, weights) in blocks.clone().zip(chunks) {
                        let scales = L::load(&value_scales[scales(block)]);
                        L::load(weights).mul(scales).store(weights);
                    }
                }
                M::store(scores, &mut weights[index]);
            }
            macro_rules! sums_of {
                ($chunk:ident, $together:literal) => {{
                    let mut sums = [[L::splat(0.0); $together]; N];
                    for (place, block) in blocks.clone().enumerate() {
                        let (lines, _) = values[page(block)].as_chunks::<LINE>();
                        // Positions past the end hold whatever a former sequence left there.
                        let rows = BLOCK_TOKENS.min(count - place * BLOCK_TOKENS);
                        let span = (lines, $chunk, head_dim / LANES, rows);
                        let first = place * BLOCK_TOKENS / 2;
                        add_values::<L, E, M, N, $together>(&mut sums, span, &weights, first);
                    }
                    for (state, sums) in now.iter_mut().zip(sums) {
                        let (chunks, _) = state.sums.as_chunks_mut::<LANES>();
                        for (sum, stored) in sums.into_iter().zip(&mut chunks[$chunk..]) {
                            sum.store(stored);
                        }
                    }
                    $chunk += $together;
                }};
            }
            let (mut chunk, chunks) = (0, head_dim / LANES);
            while L::SUMS >= 8 * N && chunks - chunk >= 4 {
                sums_of!(chunk, 4);
            }
            while L::SUMS >= 2 * N && chunks - chunk >= 2 {
                sums_of!(chunk, 2);
            }
            while chunk < chunks {
                sums_of!(chunk, 1);
            }
        } else {
            now.iter_mut().for_each(|now| now.clear(head_dim));
        }
        for (index, (state, now)) in states.iter_mut().zip(&*now).enumerate().take(group.count) {
            if keeps_spans {
                let slot = share.slot.expect("checked above") + span - share.spans.start;
                // SAFETY: each slot belongs to one span of one share.
                *unsafe { part.slot(slot, group.first + index) } = *now;
            } else {
                state.append::<L>(now, head_dim);
            }
        }
    }
    for (index, (query, state)) in queries.iter().zip(&*states).enumerate().take(group.count) {
        match share.slot {
            None => finish(part, query, state),
            // SAFETY: as above.
            Some(slot) if !keeps_spans => *unsafe { part.slot(slot, group.first + index) } = *state,
            Some(_) => {}
        }
    }
}

/// The scores of a few queries for the positions of a few blocks, from the lines of their keys.
#[inline(always)]
fn score<L: Lanes, E: KvElement, M: Products<L, E>, const N: usize, const T: usize>(
    blocks: [&[[E; LINE]]; T],
    queries: &[[M::Factors; N]],
) -> [[L; T]; N] {
    let mut sums = [[L::splat(0.0); T]; N];
    for (index, factors) in queries.iter().enumerate() {
        let mut lines = [M::line(&blocks[0][index]); T];
        for (line, block) in lines.iter_mut().zip(&blocks) {
            *line = M::line(&block[index]);
        }
        for (sums, factors) in sums.iter_mut().zip(factors) {
            add_lines::<L, E, M, T>(sums, lines, *factors);
        }
    }
    sums
}

/// Adds the weighted values of a block, of sixteen dimensions from chunk `chunk` on and `T - 1` times sixteen more.
#[inline(always)]
fn add_values<L: Lanes, E: KvElement, M: Products<L, E>, const N: usize, const T: usize>(
    sums: &mut [[L; T]; N],
    (lines, chunk, chunks, rows): (&[[E; LINE]], usize, usize, usize),
    weights: &[[M::Factors; SPAN / 2]; N],
    first: usize,
) {
    for (pair, values) in lines.chunks_exact(chunks).enumerate().take(rows / 2) {
        let values: &[[E; LINE]; T] = values[chunk..].first_chunk().expect("T chunks are left");
        let mut lines = [M::line(&values[0]); T];
        for (line, values) in lines.iter_mut().zip(values) {
            *line = M::line(values);
        }
        for (sums, weights) in sums.iter_mut().zip(weights) {
            add_lines::<L, E, M, T>(sums, lines, weights[(first + pair) % (SPAN / 2)]);
        }
    }
    if !rows.is_multiple_of(2) {
        let values = &lines[rows / 2 * chunks + chunk..];
        let mut lines = [M::first_row(&values[0]); T];
        for (line, values) in lines.iter_mut().zip(values) {
            *line = M::first_row(values);
        }
        for (sums, weights) in sums.iter_mut().zip(weights) {
            add_lines::<L, E, M, T>(sums, lines, weights[(first + rows / 2) % (SPAN / 2)]);
        }
    }
}

/// Adds to the sums of a query the products of some lines with its factors, which are in registers no longer than that.
#[inline(always)]
fn add_lines<L: Lanes, E: KvElement, M: Products<L, E>, const T: usize>(
    sums: &mut [L; T],
    lines: [M::Line; T],
    factors: M::Factors,
) {
    for (sum, line) in sums.iter_mut().zip(lines) {
        *sum = M::add(*sum, line, factors);
    }
}

/// Turns the scores of a span into weights relative to the largest that the query sees; others weigh nothing.
#[inline(always)]
fn weigh<L: Lanes, E: KvElement, M: Products<L, E>>(
    scores: &mut [f32],
    seen: std::ops::Range<usize>,
    state: &mut State,
) {
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
        let weights = M::rounded(L::load(scores).sub(largest).exp_to_88());
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
