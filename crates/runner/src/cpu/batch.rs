//! A plan packed into rows: one row a position, the rows of a request side by side.

use kernels::attention::{AttentionTasks, BLOCK_TOKENS, Sequence};
use types::{BlockId, StepPlan, TokenId};

use super::Slots;

/// The rows of a step.
pub(super) struct Batch {
    pub(super) tokens: Vec<TokenId>,
    pub(super) positions: Vec<u32>,
    /// By cache group.
    pub(super) groups: Vec<GroupRows>,
    pub(super) outputs: Vec<Output>,
}

/// Where the rows of a step are in a cache group's blocks.
pub(super) struct GroupRows {
    /// Where each row's key and value go: `block × 16 + offset`.
    pub(super) places: Vec<u32>,
    pub(super) attention: AttentionTasks,
}

/// A row whose logits are wanted.
pub(super) struct Output {
    pub(super) row: usize,
    /// Index of its item in the plan.
    pub(super) item: usize,
    /// How many tokens of its item's draft it comes after.
    pub(super) place: usize,
    pub(super) purpose: Purpose,
}

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Draw the next token.
    Sample,
    /// Tell the log-probability of the prompt's next token.
    Prompt(TokenId),
}

/// Cache groups and heads of the model and threads of the pool: what attention tasks depend on besides the plan.
#[derive(Clone, Copy)]
pub(super) struct TaskShape {
    pub(super) groups: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) threads: usize,
}

impl Batch {
    /// Packs a plan whose slots are admitted.
    ///
    /// # Panics
    /// If the plan names a slot that was not admitted or positions whose tokens are not known.
    pub(super) fn new(plan: &StepPlan, slots: &Slots, shape: TaskShape) -> Self {
        let rows = plan.token_count();
        let mut tokens = Vec::with_capacity(rows);
        let mut positions = Vec::with_capacity(rows);
        let mut outputs = Vec::new();
        for (index, item) in plan.items.iter().enumerate() {
            let slot = slots.get(item.slot);
            let range = item.positions.start as usize..item.positions.end as usize;
            let known_end = item.known().end as usize;
            let first_row = tokens.len();
            tokens.extend_from_slice(&slot.tokens[range.start..known_end]);
            tokens.extend_from_slice(&item.draft);
            positions.extend(item.positions.clone());
            if slot.sampling.prompt_logprobs.is_some() {
                let last = known_end.min(slot.prompt_len - 1);
                outputs.extend((range.start..last).map(|position| Output {
                    row: first_row + position - range.start,
                    item: index,
                    place: 0,
                    purpose: Purpose::Prompt(slot.tokens[position + 1]),
                }));
            }
            if item.sample {
                // The last known token, and each of the draft.
                let first = tokens.len() - 1 - item.draft.len();
                outputs.extend((0..=item.draft.len()).map(|place| Output {
                    row: first + place,
                    item: index,
                    place,
                    purpose: Purpose::Sample,
                }));
            }
        }
        let groups = (0..shape.groups).map(|group| GroupRows::new(plan, group, shape)).collect();
        Self { tokens, positions, groups, outputs }
    }

    /// Rows in the batch.
    pub(super) fn rows(&self) -> usize {
        self.tokens.len()
    }
}

impl GroupRows {
    fn new(plan: &StepPlan, group: usize, shape: TaskShape) -> Self {
        let mut places = Vec::with_capacity(plan.token_count());
        let (mut sequences, mut block_tables) = (Vec::new(), Vec::new());
        for item in &plan.items {
            assert_eq!(item.block_tables.len(), shape.groups, "a plan for other cache groups");
            let table = &item.block_tables[group];
            let (first_row, first_block) = (places.len(), block_tables.len());
            let range = item.positions.start as usize..item.positions.end as usize;
            places.extend(range.clone().map(|position| {
                table[position / BLOCK_TOKENS].0 * BLOCK_TOKENS as u32
                    + (position % BLOCK_TOKENS) as u32
            }));
            // Kernels take blocks two by two and may read one that is not seen: one of the request's own instead.
            let held = table.iter().find(|block| **block != BlockId::GONE).expect("one is written");
            let readable = |block: &BlockId| if *block == BlockId::GONE { held.0 } else { block.0 };
            block_tables.extend(table.iter().map(readable));
            sequences.push(Sequence {
                rows: first_row..places.len(),
                first_position: range.start,
                blocks: first_block..block_tables.len(),
            });
        }
        let TaskShape { heads, kv_heads, threads, .. } = shape;
        let attention = AttentionTasks::new(&sequences, block_tables, heads, kv_heads, threads);
        Self { places, attention }
    }
}
