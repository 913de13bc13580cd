//! The memory plan: every buffer is sized before the first request.

use kernels::attention::{BLOCK_TOKENS, KvShape};
use models::{Model, Program, RowKind};

use super::{KvBudget, RunnerOptions};
use crate::{Error, limits::Limits};

/// Rows of logits computed together at most; more outputs than this take several passes over the head.
const OUTPUT_ROWS_MAX: usize = 64;

/// Sizes of everything.
pub(super) struct MemoryPlan {
    pub(super) kv: KvShape,
    /// Blocks up to which cached ones are kept rather than used again.
    pub(super) blocks_kept: u32,
    /// Blocks' contents besides, for those that made room.
    pub(super) host_blocks: u32,
    /// How far the layers see, where none sees everything.
    pub(super) window: Option<u32>,
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
        let block_bytes = (block.bytes() * spec.layers) as u64;
        let budget_bytes = options.kv_budget.bytes();
        // No more blocks than all slots can fill: the prefix cache lives in what requests leave of them.
        let useful =
            u64::from(options.slots_max) * u64::from(context_max).div_ceil(BLOCK_TOKENS as u64);
        let blocks = (budget_bytes / block_bytes).min(useful).min(u64::from(u32::MAX) / 16);
        if blocks == 0 {
            let block_tokens = BLOCK_TOKENS as u32;
            return Err(Error::KvBudget { budget_bytes, block_bytes, block_tokens });
        }
        let kept_bytes =
            options.prefix_cache_bytes.unwrap_or_else(|| 2 * model.program.weight_bytes());
        let window = widest_window(&spec.windows).filter(|window| *window < context_max);
        // There is no such tier beside a window.
        let host_bytes = if window.is_some() { 0 } else { options.host_cache_bytes };
        Ok(Self {
            host_blocks: (host_bytes / block_bytes).min(u64::from(u32::MAX) / 16) as u32,
            window,
            blocks_kept: (kept_bytes / block_bytes).min(blocks) as u32,
            kv: KvShape { blocks: blocks as usize, ..block },
            context_max,
            position_rows: options.step_tokens_max as usize,
            output_rows: OUTPUT_ROWS_MAX.min(options.slots_max as usize),
        })
    }

    /// The shape of a layer's part of the host's memory.
    pub(super) fn host_kv(&self) -> KvShape {
        KvShape { blocks: self.host_blocks as usize, ..self.kv }
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

/// All layers are in one cache group, which keeps as much as that one needs which sees farthest.
fn widest_window(windows: &[Option<usize>]) -> Option<u32> {
    let widest = windows.iter().map(|window| window.unwrap_or(usize::MAX)).max()?;
    widest.try_into().ok()
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
