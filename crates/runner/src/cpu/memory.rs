//! The memory plan: every buffer is sized before the first request.

use kernels::attention::{BLOCK_TOKENS, KvShape};
use models::{Model, Program, RowKind};
use types::CacheGroup;

use super::{
    KvBudget, RunnerOptions,
    groups::{Demand, Groups},
};
use crate::{Error, limits::Limits};

/// Rows of logits computed together at most; more outputs than this take several passes over the head.
const OUTPUT_ROWS_MAX: usize = 64;

/// Sizes of everything.
pub(super) struct MemoryPlan {
    pub(super) cache_groups: Vec<CacheGroup>,
    /// By layer, its cache group.
    pub(super) group_of_layer: Vec<usize>,
    /// A layer's part of one block.
    block: KvShape,
    pub(super) context_max: u32,
    pub(super) position_rows: usize,
    pub(super) output_rows: usize,
}

impl MemoryPlan {
    pub(super) fn new(model: &Model, options: &RunnerOptions) -> Result<Self, Error> {
        let spec = &model.spec;
        let &RunnerOptions { step_tokens_max, slots_max, context_max, .. } = options;
        let context_max =
            Limits { step_tokens_max, slots_max, context_max }.context_max(spec.context_max)?;
        let block = KvShape {
            blocks: 1,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            format: options.kv_format,
        };
        let (layer_bytes, block_tokens) = (block.bytes() as u64, BLOCK_TOKENS as u32);
        let block_bytes = layer_bytes * spec.layers as u64;
        let budget_bytes = options.kv_budget.bytes();
        let kept_bytes =
            options.prefix_cache_bytes.unwrap_or_else(|| 2 * model.program.weight_bytes());
        let groups = Groups::new(&spec.windows, context_max);
        let demand = Demand { slots: slots_max, context: context_max, step: step_tokens_max };
        let mut cache_groups = groups
            .divide(demand, block_tokens, layer_bytes, [budget_bytes, kept_bytes])
            .ok_or(Error::KvBudget { budget_bytes, block_bytes, block_tokens })?;
        // There is no such tier beside a window.
        if let [group] = &mut cache_groups[..]
            && !groups.have_windows()
        {
            let blocks_max = u64::from(u32::MAX / block_tokens);
            group.host_blocks = (options.host_cache_bytes / block_bytes).min(blocks_max) as u32;
        }
        Ok(Self {
            cache_groups,
            group_of_layer: groups.of_layer,
            block,
            context_max,
            position_rows: options.step_tokens_max as usize,
            output_rows: OUTPUT_ROWS_MAX.min(options.slots_max as usize),
        })
    }

    /// The shape of each layer's cache, and of its part of the host's memory.
    pub(super) fn kv(&self) -> impl Iterator<Item = [KvShape; 2]> + '_ {
        self.group_of_layer.iter().map(|group| {
            let CacheGroup { blocks, host_blocks, .. } = self.cache_groups[*group];
            [blocks, host_blocks].map(|blocks| KvShape { blocks: blocks as usize, ..self.block })
        })
    }

    /// Rows of a buffer.
    pub(super) fn rows(&self, kind: RowKind) -> usize {
        match kind {
            RowKind::Position => self.position_rows,
            RowKind::Output => self.output_rows,
        }
    }

    /// Bytes of all activation buffers of a program.
    pub(super) fn workspace_bytes(&self, program: &Program) -> u64 {
        let floats: usize = program
            .float_buffers
            .iter()
            .map(|buffer| 4 * self.rows(buffer.rows) * buffer.width)
            .sum();
        let angles = 4 * self.position_rows * 2 * program.rope.frequencies.len();
        (floats + angles) as u64
    }
}

impl KvBudget {
    fn bytes(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::FractionOfFree(fraction) => {
                /// What is taken to be free where the system does not say.
                const UNKNOWN_FREE_BYTES: u64 = 1 << 30;
                let free = device::cpu::available_memory_bytes().unwrap_or(UNKNOWN_FREE_BYTES);
                (free as f64 * fraction.clamp(0.0, 1.0)) as u64
            }
        }
    }
}
