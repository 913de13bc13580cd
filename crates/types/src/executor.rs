//! The contract between the engine and whatever runs the model: the CPU runner, the CUDA runner, a mock, the simulator.

use crate::{Fault, StepOutcome, StepPlan};

/// Runs plans. Built loaded and ready; its limits never change, so that memory is decided before the first request.
///
/// An executor must not fail for anything that the limits in [`ExecutorInfo`] allow. A fault from `submit` or `wait`
/// means that the executor is unusable: the engine builds a new one and computes its requests again.
pub trait Executor: Send {
    /// What this executor can take.
    fn info(&self) -> &ExecutorInfo;

    /// Starts a step. At most two steps are under way at once, and the engine keeps to one where `info` says so.
    fn submit(&mut self, plan: StepPlan) -> Result<(), Fault>;

    /// Waits for the oldest step under way.
    fn wait(&mut self) -> Result<StepOutcome, Fault>;

    /// Where the memory went.
    fn memory(&self) -> MemoryReport;
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
}

/// Layers that share their block accounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheGroup {
    /// Blocks in the pool; ids are `0..blocks`.
    pub blocks: u32,
    /// Positions a block holds.
    pub block_tokens: u32,
}

/// Bytes by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Model weights as held for computing.
    pub weights_bytes: u64,
    /// The KV pool.
    pub kv_bytes: u64,
    /// Activations, logits and scratch.
    pub workspace_bytes: u64,
}
