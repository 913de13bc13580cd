//! A span at a time: sixteen positions together for the scores, sixteen dimensions together for the output, as many
//! queries together as registers hold.

use std::slice::{from_mut, from_ref};

use super::{
    BLOCK_TOKENS, HEAD_DIM_MAX, KvElement, KvShape, Part, Query, SPAN, Share, Work,
    cache::{Bytes, LINE},
    products::{Bf16Pairs, Floats, Products},
};
use crate::lanes::{Dots, LANES, LaneKernel, Lanes, PairDots, PairKernel};

/// Most queries that any instruction set takes together.
const QUERIES_MAX: usize = 12;

/// Positions whose weights are made together. A multiple of a block, so that it does not depend on the first one needed
/// which of them share a lane of the total.
const TOGETHER: usize = 2 * BLOCK_TOKENS;

/// Below every score, yet finite: the difference of two such values is 0, not undefined.
const LOWEST: f32 = -1e30;

/// On the lines of the first-level cache, so that no vector lies on two of them.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Aligned<T>(T);

/// What some spans give for a query: the largest score, and for weights relative to it their total and the sum of the
/// values.
#[derive(Clone, Copy)]
pub(super) struct State {
    largest: f32,
    total: f32,
    sums: Aligned<[f32; HEAD_DIM_MAX]>,
}

impl State {
    pub(super) const EMPTY: Self =
        Self { largest: LOWEST, total: 0.0, sums: Aligned([0.0; HEAD_DIM_MAX]) };
}

/// Puts later spans behind the ones so far, for a few queries.
#[inline(always)]
fn append<L: Lanes, E: KvElement, M: Products<L, E>>(
    states: &mut [State],
    later: &[State],
    head_dim: usize,
) {
    for (states, later) in states.chunks_mut(LANES).zip(later.chunks(LANES)) {
        let mut largest = [[LOWEST; LANES]; 2];
        let mut totals = [[0.0; LANES]; 2];
        for (index, (state, later)) in states.iter().zip(later).enumerate() {
            (largest[0][index], largest[1][index]) = (state.largest, later.largest);
            (totals[0][index], totals[1][index]) = (state.total, later.total);
        }
        let [before, now] = [L::load(&largest[0]), L::load(&largest[1])];
        let both = before.max(now);
        let (before, now) = (M::exp(before.sub(both)), M::exp(now.sub(both)));
        let total = L::load(&totals[0]).fma(before, L::load(&totals[1]).mul(now));
        total.store(&mut totals[0]);
        both.store(&mut largest[0]);
        let mut factors = [[0.0; LANES]; 2];
        before.store(&mut factors[0]);
        now.store(&mut factors[1]);
        for (index, (state, later)) in states.iter_mut().zip(later).enumerate() {
            (state.largest, state.total) = (largest[0][index], totals[0][index]);
            let (before, now) = (L::splat(factors[0][index]), L::splat(factors[1][index]));
            let (sums, _) = state.sums.0[..head_dim].as_chunks_mut::<LANES>();
            let (later, _) = later.sums.0[..head_dim].as_chunks::<LANES>();
            for (sums, later) in sums.iter_mut().zip(later) {
                L::load(sums).fma(before, L::load(later).mul(now)).store(sums);
            }
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
                        append::<L, E, M>(from_mut(&mut state), from_ref(later), head_dim);
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
    let mut scaled = Aligned([[M::NONE; HEAD_DIM_MAX / 2]; N]);
    let scale = L::splat(part.scale * M::SCALE);
    for (query, scaled) in queries.iter().zip(&mut scaled.0) {
        let start = query.row * part.query_stride + query.head * head_dim;
        let (chunks, _) = part.queries[start..start + head_dim].as_chunks::<LANES>();
        for (values, scaled) in chunks.iter().zip(scaled.as_chunks_mut().0) {
            M::store(L::load(values).mul(scale), scaled);
        }
    }
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
    // Where the results of a span go that others put behind theirs.
    let slot = |span: usize| {
        share.slot.expect("spans are kept where there is a slot") + span - share.spans.start
    };
    let [states, now] = states;
    let states: &mut [State; N] = states.first_chunk_mut().expect("N is at most as many");
    let now: &mut [State; N] = now.first_chunk_mut().expect("N is at most as many");
    let mut scores = Aligned([[[0.0; LANES]; SPAN / LANES]; N]);
    let mut weights = Aligned([[M::NONE; SPAN / 2]; N]);
    let mut scales_of_values = [[0.0; LANES]; SPAN / BLOCK_TOKENS];
    let mut lanes = Aligned([[0.0; LANES]; N]);
    let mut is_empty = true;
    for span in share.spans.clone() {
        let positions = span * SPAN..end.min((span + 1) * SPAN);
        // Blocks before the window of all queries are not read, but for the first of two.
        let start = positions.start.max(first / TOGETHER * TOGETHER);
        if positions.end <= start {
            if keeps_spans {
                for index in 0..group.count {
                    // SAFETY: each slot belongs to one span of one share.
                    *unsafe { part.slot(slot(span), group.first + index) } = State::EMPTY;
                }
            }
            continue;
        }
        let results = if is_empty && !keeps_spans { &mut *states } else { &mut *now };
        let blocks = start / BLOCK_TOKENS..positions.end.div_ceil(BLOCK_TOKENS);
        macro_rules! scores_of {
            ($block:ident, $together:literal) => {{
                let mut lines: [&[[E; LINE]]; $together] = [&[]; $together];
                for (lines, block) in lines.iter_mut().zip($block..) {
                    *lines = keys[page(block)].as_chunks().0;
                }
                let sums = score::<L, E, M, N, $together>(lines, &scaled.0);
                let place = $block - blocks.start;
                for (scores, sums) in scores.0.iter_mut().zip(sums) {
                    let chunks = scores[place..].iter_mut();
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
        if E::IS_SCALED {
            for (block, target) in blocks.clone().zip(&mut scales_of_values) {
                *target = value_scales[scales(block)];
            }
        }
        let count = positions.end - start;
        // One thing after another for all queries: each has to wait for what it begins with, and others need not.
        let scores_len = blocks.len().next_multiple_of(TOGETHER / BLOCK_TOKENS);
        for ((scores, query), lanes) in scores.0.iter_mut().zip(queries).zip(&mut lanes.0) {
            let within = |position: usize| position.clamp(start, positions.end) - start;
            let seen = within(query.start)..within(query.end);
            largest::<L>(&mut scores[..scores_len], seen).store(lanes);
        }
        for (result, lanes) in results.iter_mut().zip(&lanes.0) {
            result.largest = L::load(lanes).largest();
        }
        for (index, (scores, weights)) in scores.0.iter().zip(&mut weights.0).enumerate() {
            let largest = results[index].largest;
            M::weigh(&scores[..scores_len], largest, &scales_of_values, weights)
                .store(&mut lanes.0[index]);
        }
        for (result, lanes) in results.iter_mut().zip(&lanes.0) {
            result.total = L::load(lanes).sum();
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
                    add_values::<L, E, M, N, $together>(&mut sums, span, &weights.0, first);
                }
                for (result, sums) in results.iter_mut().zip(sums) {
                    let (chunks, _) = result.sums.0.as_chunks_mut::<LANES>();
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
        if keeps_spans {
            for (index, result) in results.iter().enumerate().take(group.count) {
                // SAFETY: as above.
                *unsafe { part.slot(slot(span), group.first + index) } = *result;
            }
        } else if !is_empty {
            append::<L, E, M>(states, now, head_dim);
        }
        is_empty = false;
    }
    if is_empty {
        states.fill(State::EMPTY);
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
    queries: &[[M::Factors; HEAD_DIM_MAX / 2]; N],
) -> [[L; T]; N] {
    let mut sums = [[L::splat(0.0); T]; N];
    for (index, line) in blocks[0].iter().enumerate() {
        macro_rules! pass {
            ($pass:literal) => {{
                let mut lines = [M::line(line, $pass); T];
                for (line, block) in lines.iter_mut().zip(&blocks) {
                    *line = M::line(&block[index], $pass);
                }
                for (sums, factors) in sums.iter_mut().zip(queries) {
                    let factors = factors[index % (HEAD_DIM_MAX / 2)];
                    add_lines::<L, E, M, T>(sums, lines, factors, $pass);
                }
            }};
        }
        pass!(0);
        if M::PASSES == 2 {
            pass!(1);
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
        macro_rules! pass {
            ($pass:literal) => {{
                let mut lines = [M::line(&values[0], $pass); T];
                for (line, values) in lines.iter_mut().zip(values) {
                    *line = M::line(values, $pass);
                }
                for (sums, weights) in sums.iter_mut().zip(weights) {
                    let weights = weights[(first + pair) % (SPAN / 2)];
                    add_lines::<L, E, M, T>(sums, lines, weights, $pass);
                }
            }};
        }
        pass!(0);
        if M::PASSES == 2 {
            pass!(1);
        }
    }
    if !rows.is_multiple_of(2) {
        let values = &lines[rows / 2 * chunks + chunk..];
        let mut lines = [M::first_row(&values[0]); T];
        for (line, values) in lines.iter_mut().zip(values) {
            *line = M::first_row(values);
        }
        for (sums, weights) in sums.iter_mut().zip(weights) {
            add_lines::<L, E, M, T>(sums, lines, weights[(first + rows / 2) % (SPAN / 2)], 0);
        }
    }
}

/// Adds to the sums of a query the products of some lines with its factors, which are in registers no longer than that.
#[inline(always)]
fn add_lines<L: Lanes, E: KvElement, M: Products<L, E>, const T: usize>(
    sums: &mut [L; T],
    lines: [M::Line; T],
    factors: M::Factors,
    pass: usize,
) {
    for (sum, line) in sums.iter_mut().zip(lines) {
        *sum = M::add(*sum, line, factors, pass);
    }
}

/// Lanes of which the largest is the largest score that a query sees; others are made to weigh nothing.
#[inline(always)]
fn largest<L: Lanes>(scores: &mut [[f32; LANES]], seen: std::ops::Range<usize>) -> L {
    let flat = scores.as_flattened_mut();
    flat[..seen.start].fill(f32::NEG_INFINITY);
    flat[seen.end..].fill(f32::NEG_INFINITY);
    let mut largest = L::splat(LOWEST);
    for scores in &*scores {
        largest = largest.max(L::load(scores));
    }
    largest
}

#[inline(always)]
fn finish(part: &Part<'_>, query: &Query, state: &State) {
    let head_dim = part.cache.shape().head_dim;
    let start = (query.row * part.heads + query.head) * head_dim;
    // SAFETY: each query head of each row belongs to one task, and its finish to one worker.
    let output = unsafe { part.output.part(start..start + head_dim) };
    let inverse = 1.0 / state.total;
    for (output, sum) in output.iter_mut().zip(&state.sums.0) {
        *output = sum * inverse;
    }
}
