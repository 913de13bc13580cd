//! The contract between the engine and whatever runs the model: the CPU runner, the CUDA runner, a mock, the simulator.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Arrivals, Fault, StepOutcome, StepPlan};

/// Runs plans. Built loaded and ready; its limits never change, so that memory is decided before the first request.
///
/// An executor must not fail for anything that the limits in [`ExecutorInfo`] allow. A fault from `submit` or `wait`
/// means that the executor is unusable: the engine drops it, builds a new one and computes its requests again there.
/// One may be dropped with steps under way: it ends them first, or waits for them.
///
/// # Two steps under way
///
/// Where [`ExecutorInfo::steps_in_flight_max`] is 2, a plan may be submitted while the one before it still runs. What
/// the executor has to see to:
///
/// - **In order.** Plans take effect as if each began when the one before had ended: releases, admissions, copies,
///   writes to KV blocks and states, and draws. So a later plan may give a slot or a block to another request although
///   the plan under way still uses it for the one before.
/// - **Tokens that only the executor knows.** The last position of an item may be the one of the token that the plan
///   before it draws for the same slot. The executor takes it from there; nobody tells it.
/// - **Items in vain.** The engine sees only in a plan's outcome that a request has come to its end, by a stop token or
///   a failure, and may have asked for its next position by then; or the request was aborted since. The item is
///   computed and answered like any other, with a token or a failure, and the answer is thrown away. The slot is
///   released in a later plan.
/// - **Outcomes one by one**, in order, each as soon as its own plan is through.
pub trait Executor: Send {
    /// What this executor can take.
    fn info(&self) -> &ExecutorInfo;

    /// Starts a step. There are never more under way than `info` says; with 2, this does not wait for the one before.
    fn submit(&mut self, plan: StepPlan) -> Result<(), Fault>;

    /// Waits for the oldest step under way.
    fn wait(&mut self) -> Result<StepOutcome, Fault>;

    /// Where the memory went.
    fn memory(&self) -> MemoryReport;

    /// Where to see whether somebody new has come. One that never leaves anything out need not look.
    fn watch(&mut self, _arrivals: Arc<Arrivals>) {}
}

/// Limits of an executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorInfo {
    /// KV memory, one entry per cache group; every item of a plan carries one block table for each.
    pub cache_groups: Vec<CacheGroup>,
    /// Most positions in one step.
    pub step_tokens_max: u32,
    /// Most requests with a slot at once.
    pub slots_max: u32,
    /// Most positions in one request: the model's limit or a smaller setting.
    pub context_max: u32,
    /// Number of logits; valid token ids are below.
    pub vocab_size: u32,
    /// Most steps under way at once, 1 or 2.
    pub steps_in_flight_max: u32,
    /// Most tokens of a draft; 0 for an executor that takes none.
    pub draft_tokens_max: u32,
}

/// Layers that share their block accounting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheGroup {
    /// Blocks in the pool; ids are `0..blocks`.
    pub blocks: u32,
    /// Positions a block holds. Of a state: a checkpoint of it is at a multiple of so many positions.
    pub block_tokens: u32,
    /// How many blocks may come into use so that cached ones are kept; more only if requests hold all of these. All
    /// blocks, unless their memory is taken from the system as they are first used.
    pub blocks_kept: u32,
    /// Blocks' contents that the host's memory holds besides, for blocks that had to make room: slots `0..host_blocks`.
    /// 0 where there is no such tier, and in all groups where one of them does not keep everything.
    pub host_blocks: u32,
    /// What its blocks hold.
    pub content: CacheContent,
}

/// What the blocks of a cache group hold of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheContent {
    /// Keys and values of all positions.
    Everything,
    /// Keys and values of the last positions: as many as a position of these layers sees, itself the last of them.
    Window(u32),
    /// One state that each position changes, in one block, whatever the length. Checkpoints of it are kept for the
    /// prefix cache, in blocks of the same pool: at multiples of the group's `block_tokens` positions, and at least
    /// this many apart.
    State(u32),
}

impl CacheGroup {
    /// A group that keeps everything, whose blocks may all be kept, without a tier in the host's memory.
    pub fn new(blocks: u32, block_tokens: u32) -> Self {
        let content = CacheContent::Everything;
        Self { blocks, block_tokens, blocks_kept: blocks, host_blocks: 0, content }
    }

    /// How many positions are seen of one, where not all are.
    pub fn window(&self) -> Option<u32> {
        match self.content {
            CacheContent::Window(positions) => Some(positions),
            CacheContent::Everything | CacheContent::State(_) => None,
        }
    }

    /// Whether it keeps all positions of a request.
    pub fn keeps_everything(&self) -> bool {
        self.content == CacheContent::Everything
    }

    /// Whether its blocks hold states.
    pub fn is_state(&self) -> bool {
        matches!(self.content, CacheContent::State(_))
    }

    /// Blocks that hold `positions` positions.
    pub fn blocks_for(&self, positions: u32) -> u32 {
        if self.is_state() { positions.min(1) } else { positions.div_ceil(self.block_tokens) }
    }

    /// The first block of `block_tokens` positions that is needed to go on at `position`. It is the first that the
    /// position sees, or the last whole one, as what comes next is found behind that; of a state it is that one alone.
    pub fn first_needed(&self, position: u32) -> u32 {
        let last = (position / self.block_tokens).saturating_sub(1);
        match self.content {
            CacheContent::Everything => 0,
            CacheContent::Window(window) => {
                last.min((position + 1).saturating_sub(window) / self.block_tokens)
            }
            CacheContent::State(_) => last,
        }
    }

    /// Most blocks that a request of so many positions holds, if it computes one at a time and has two under way;
    /// checkpoints do not count, since they are taken only where there is room.
    pub fn blocks_of_one(&self, positions: u32) -> u32 {
        let all = self.blocks_for(positions);
        self.window().map_or(all, |window| {
            // The last whole block is held even where the window is smaller than that.
            let seen = window.max(self.block_tokens.saturating_add(1));
            all.min(seen.div_ceil(self.block_tokens) + 1)
        })
    }

    /// Most positions that one request alone may have: without bound where all that it needs fits the group.
    pub fn positions_of_one(&self) -> u64 {
        if !self.keeps_everything() && self.blocks_of_one(u32::MAX) <= self.blocks {
            return u64::MAX;
        }
        u64::from(self.blocks) * u64::from(self.block_tokens)
    }
}

/// Bytes by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Model weights as held for computing.
    pub weights_bytes: u64,
    /// The KV pool.
    pub kv_bytes: u64,
    /// Contents of blocks in the host's memory.
    pub host_kv_bytes: u64,
    /// Activations, logits and scratch.
    pub workspace_bytes: u64,
}
