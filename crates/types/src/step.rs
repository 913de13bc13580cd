//! One step: what the scheduler wants done, and what came of it.

use std::{fmt, ops::Range, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{BlockId, Fault, HostSlot, SamplingParams, SlotId, StepId, TokenId, TokenLogprobs};

/// An immutable order for one step. There is no prefill and no decode: each item computes a range of positions.
///
/// The executor applies it in this order: `release`, `admit`, `copies`, `state_copies`, then all `items` as one batch;
/// and after all plans that were submitted before (see [`Executor`](crate::Executor)).
#[derive(Clone, Debug, PartialEq)]
pub struct StepPlan {
    /// Which step this is.
    pub id: StepId,
    /// Slots whose requests ended or were preempted: the executor forgets them.
    pub release: Vec<SlotId>,
    /// Requests that get a slot, told whole; from here on the plan refers to them by slot.
    pub admit: Vec<SlotAdmission>,
    /// Contents of blocks that move to the host's memory or come back, in this order. Those of one group and direction
    /// that stand side by side write to different places, so they may be done at once.
    pub copies: Vec<BlockCopy>,
    /// States that are copied from one block to another, one after the other in this order: a block may be read by one
    /// and written by the next.
    pub state_copies: Vec<StateCopy>,
    /// The work, at most one item a slot. None in a plan that only releases or copies; its outcome is empty.
    pub items: Vec<WorkItem>,
}

/// A block's content that is copied, all layers of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCopy {
    /// The cache group of both.
    pub group: u32,
    /// Which way.
    pub direction: CopyDirection,
    /// The block of the pool.
    pub block: BlockId,
    /// The place in the host's memory.
    pub slot: HostSlot,
}

/// A state that is copied within the pool of its group, so that a request can go on from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCopy {
    /// The cache group of both.
    pub group: u32,
    /// The checkpoint, which stays as it is.
    pub from: BlockId,
    /// The block whose state the request's next positions change.
    pub to: BlockId,
}

/// Which way a block's content is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyDirection {
    /// From the pool to the host's memory.
    ToHost,
    /// From the host's memory to the pool.
    ToDevice,
}

/// A request that starts, or starts again after preemption.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotAdmission {
    /// The slot it gets.
    pub slot: SlotId,
    /// All tokens known: the prompt, then what was generated before a preemption.
    pub tokens: Vec<TokenId>,
    /// How many of `tokens` are the prompt.
    pub prompt_len: u32,
    /// How its tokens are drawn.
    pub sampling: Arc<SamplingParams>,
}

/// Positions of one request to compute in this step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkItem {
    /// Whose positions.
    pub slot: SlotId,
    /// Positions to run through the model, without a gap after those of the slot's item before. The first item of a
    /// slot may begin beyond 0: its blocks hold the positions before then, from another request or another time.
    ///
    /// The executor knows the token of each: from the admission, or drawn by itself in an earlier step. With two plans
    /// in flight, the token of the last position may be one that the plan before this is only about to draw.
    pub positions: Range<u32>,
    /// The tokens of the last positions, as the scheduler guesses them; none usually. They are not part of the request:
    /// the executor draws the tokens that come after the positions before the draft, after its first token, and so on,
    /// each as if the ones before had been known, up to and with the first that is not the one guessed. What it wrote
    /// into blocks for the others is overwritten by later plans. Only with `sample`, and at most as long as
    /// [`ExecutorInfo`](crate::ExecutorInfo) says.
    pub draft: Vec<TokenId>,
    /// One block table per cache group, covering positions `0..positions.end`.
    ///
    /// Where a group is a [state](crate::CacheContent::State), the table is one block. If positions begin at 0, they
    /// begin with an empty state, whatever is in the block; else with the one in it, which is that of all positions
    /// before. The state after the last position is left there. A later plan may name another block, and begins with a
    /// copy then.
    ///
    /// Where a group has a [`window`](crate::CacheGroup::window), a table's first entries may be [`BlockId::GONE`]:
    /// none of the item's positions sees anything in those blocks, and nothing may be read or written there. Other
    /// entries keep their place in the table.
    pub block_tables: Vec<Vec<BlockId>>,
    /// Draw a token from the logits of the last position before the draft.
    pub sample: bool,
    /// It may be left out, if somebody new comes while the step is computed: it is a part of a prompt of which more is
    /// to come, or the position of a next token in a step in which everything gives way, and a later plan asks for its
    /// positions again. Those that give way stand behind all others, and are left out together. Only where one step is
    /// under way at once.
    pub gives_way: bool,
}

impl WorkItem {
    /// Its positions without those of the draft.
    pub fn known(&self) -> Range<u32> {
        self.positions.start..self.positions.end - self.draft.len() as u32
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// The plan this answers.
    pub id: StepId,
    /// One entry per item that wanted a token, in the plan's order; an item that failed has none. With a draft there is
    /// one more for each of its tokens that was the one drawn.
    pub sampled: Vec<SampledToken>,
    /// For slots that asked: log-probabilities of the prompt tokens that follow the positions computed in this step.
    pub prompt_logprobs: Vec<(SlotId, Vec<TokenLogprobs>)>,
    /// Slots that failed alone, with the reason; their neighbours are unaffected.
    pub failed: Vec<(SlotId, Fault)>,
    /// So many of the last items were left out: none, or all that [give way](WorkItem::gives_way). What the executor
    /// wrote into blocks for them counts as never written.
    pub left_out: u32,
}

impl StepOutcome {
    /// Of a step in which nothing was drawn and nothing failed.
    pub fn empty(id: StepId) -> Self {
        Self {
            id,
            sampled: Vec::new(),
            prompt_logprobs: Vec::new(),
            failed: Vec::new(),
            left_out: 0,
        }
    }
}

/// One token drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledToken {
    /// Whose token.
    pub slot: SlotId,
    /// The token.
    pub token: TokenId,
    /// Its log-probabilities, if asked for.
    pub logprobs: Option<TokenLogprobs>,
}

impl StepPlan {
    /// Positions computed in this step, over all items.
    pub fn token_count(&self) -> usize {
        self.items.iter().map(|item| item.positions.len()).sum()
    }

    /// How many of the last items give way.
    pub fn items_giving_way(&self) -> usize {
        self.items.iter().rev().take_while(|item| item.gives_way).count()
    }
}

impl fmt::Display for StepPlan {
    /// One line, for logs and replays: `step 7: -s2 +s3[14] g0:b5>h0 g0:b5<h7 g1:b2>b4 s0@91..95?3* s3@0..14*`; `*`
    /// marks a draw, `?` a draft's length, `~` what gives way, `>` a copy to the host or of a state and `<` one back,
    /// `g` the cache group.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.id)?;
        for slot in &self.release {
            write!(f, " -{slot}")?;
        }
        for admission in &self.admit {
            write!(f, " +{}[{}]", admission.slot, admission.tokens.len())?;
        }
        for BlockCopy { group, direction, block, slot } in &self.copies {
            let arrow = if *direction == CopyDirection::ToHost { '>' } else { '<' };
            write!(f, " g{group}:{block}{arrow}{slot}")?;
        }
        for StateCopy { group, from, to } in &self.state_copies {
            write!(f, " g{group}:{from}>{to}")?;
        }
        for item in &self.items {
            write!(f, " {}@{}..{}", item.slot, item.positions.start, item.positions.end)?;
            if !item.draft.is_empty() {
                write!(f, "?{}", item.draft.len())?;
            }
            if item.sample {
                f.write_str("*")?;
            }
            if item.gives_way {
                f.write_str("~")?;
            }
        }
        Ok(())
    }
}
