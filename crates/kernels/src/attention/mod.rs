//! Causal attention of queries over a paged cache of keys and values, in one pass with a running softmax (Milakov and
//! Gimelshein 2018), so that no score matrix is ever held.
//!
//! Query heads are grouped over key-value heads (Ainslie et al. 2023): head `h` reads key-value head `h / (heads /
//! kv_heads)`. Keys are walked in spans of 128 positions, each for itself, and the results put together in order from
//! position 0 (Dao 2023), so that a row's result does not depend on which other rows are computed with it, on how its
//! sequence is cut into steps or on who computes which span.

mod cache;
mod lanes;
mod products;
mod scalar;
mod tasks;

#[cfg(test)]
mod cases;

pub use cache::{BLOCK_TOKENS, KvFormat, KvLayer, KvShape};
pub(crate) use cache::{Bytes, KvElement, LINE};
pub use tasks::{AttentionTasks, Sequence};

use device::cpu::{Cpu, DisjointSlice, Rung, partition};

use crate::lanes::{launch, launch_pairs};
use lanes::State;
use tasks::{Cut, SPAN, Share, Task};

/// Widest head supported.
pub const HEAD_DIM_MAX: usize = 256;

/// Arguments of [`attention`].
pub struct Attention<'a> {
    /// `[rows][query_stride]`, heads one after another from the start of a row.
    pub queries: &'a [f32],
    /// Values from one query row to the next.
    pub query_stride: usize,
    /// Query heads.
    pub heads: usize,
    /// What to do: the same for all layers of a step.
    pub tasks: &'a AttentionTasks,
    /// The layer's keys and values, this step's included.
    pub cache: &'a KvLayer,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// See only this many positions, the row's own included.
    pub window: Option<usize>,
    /// `[rows][heads × head_dim]`
    pub output: &'a mut [f32],
}

pub(crate) struct Part<'a> {
    queries: &'a [f32],
    query_stride: usize,
    heads: usize,
    work: Work<'a>,
    all: &'a AttentionTasks,
    cache: &'a KvLayer,
    scale: f32,
    window: usize,
    output: &'a DisjointSlice<'a, f32>,
    slots: &'a DisjointSlice<'a, State>,
    queries_max: usize,
}

/// What a worker is to do.
enum Work<'a> {
    /// Compute spans.
    Shares(&'a [Share]),
    /// Put the spans of tasks together that several workers computed.
    Cuts(&'a [Cut]),
}

/// One query head of one row.
#[derive(Clone, Copy)]
struct Query {
    row: usize,
    head: usize,
    /// First position it sees.
    start: usize,
    /// One past the last position it sees: its own position and one.
    end: usize,
}

impl Part<'_> {
    /// The result of a query, by its number in its task, in a slot.
    ///
    /// # Safety
    /// No other thread may use it at the same time.
    #[expect(clippy::mut_from_ref, reason = "this is the purpose; the condition is stated")]
    unsafe fn slot(&self, slot: usize, query: usize) -> &mut State {
        let index = slot * self.queries_max + query;
        // SAFETY: the caller's condition.
        unsafe { &mut self.slots.part(index..index + 1)[0] }
    }

    /// The queries of a task: all heads that share its key-value head, for each of its rows.
    fn queries_of(&self, task: &Task) -> impl Iterator<Item = Query> {
        let group = self.heads / self.cache.shape().kv_heads;
        let (first_head, window) = (task.kv_head * group, self.window);
        let (first_row, first_position) = (task.first_row, task.first_position);
        (0..task.rows).flat_map(move |index| {
            let end = first_position + index + 1;
            let start = end.saturating_sub(window);
            (first_head..first_head + group).map(move |head| Query {
                row: first_row + index,
                head,
                start,
                end,
            })
        })
    }
}

/// Computes attention for all rows of a step.
///
/// # Panics
/// If a buffer is too small or the shapes do not fit.
pub fn attention(cpu: &Cpu, args: Attention<'_>) {
    let Attention { queries, query_stride, heads, tasks, cache, scale, window, output } = args;
    let KvShape { kv_heads, head_dim, blocks, .. } = cache.shape();
    assert!(heads.is_multiple_of(kv_heads), "attention: heads do not divide into groups");
    assert!(head_dim <= HEAD_DIM_MAX, "attention: head too wide");
    assert!(queries.len() >= tasks.rows() * query_stride, "attention: queries too short");
    assert!(query_stride >= heads * head_dim, "attention: query rows too short");
    assert!(output.len() >= tasks.rows() * heads * head_dim, "attention: output too short");
    assert!(tasks.blocks_end() <= blocks, "attention: block outside of the cache");
    assert!(tasks.kv_heads() == kv_heads, "attention: tasks made for another shape");
    let output = DisjointSlice::new(output);
    let window = window.unwrap_or(usize::MAX);
    let queries_max = tasks.rows_max() * heads / kv_heads;
    let mut slots = vec![State::EMPTY; tasks.slots() * queries_max];
    let slots = DisjointSlice::new(&mut slots);
    let part = |work| Part {
        queries,
        query_stride,
        heads,
        work,
        all: tasks,
        cache,
        scale,
        window,
        output: &output,
        slots: &slots,
        queries_max,
    };
    if cpu.isa.rung() == Rung::Scalar {
        cpu.pool.run(&|worker| scalar::run(part(Work::Shares(tasks.of_worker(worker)))));
        return;
    }
    let has_pairs = cpu.isa.rung().has_bf16_pairs() && cache.shape().format == KvFormat::Bf16;
    let compute = |work| {
        let part = part(work);
        if has_pairs { launch_pairs(cpu.isa, part) } else { launch(cpu.isa, part) }
    };
    cpu.pool.run(&|worker| compute(Work::Shares(tasks.of_worker(worker))));
    if !tasks.cuts().is_empty() {
        let cuts = tasks.cuts();
        cpu.pool.run(&|worker| {
            compute(Work::Cuts(&cuts[partition(cuts.len(), cpu.pool.threads(), worker)]));
        });
    }
}
