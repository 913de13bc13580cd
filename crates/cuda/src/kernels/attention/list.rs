//! The tasks of a step as they are copied to the GPU.

use super::tasks::{
    DecodePlan, DecodeShape, DecodeTask, PrefillPlan, PrefillShape, PrefillTask, Sequence,
};

/// How steps are cut into tasks for a model on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPlanner {
    /// Of the kernel for few rows.
    pub(super) decode: DecodeShape,
    /// Of the kernel for prompts.
    pub(super) prefill: PrefillShape,
    /// Blocks of the kernel for few rows.
    pub(super) decode_blocks: usize,
}

/// The most that there is in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Rows.
    pub rows: usize,
    /// Sequences.
    pub sequences: usize,
    /// Pages, of all sequences together.
    pub pages: usize,
    /// Key-value heads of the model.
    pub kv_heads: usize,
}

/// The tasks of a step, for layers that see as far back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskList {
    /// Counts of both kinds, then the tasks of both kinds, as the kernels read them.
    words: Vec<i32>,
    decode: usize,
    prefill: usize,
}

/// Numbers before the tasks: how many there are of each kind.
const HEADER_WORDS: usize = 4;
const DECODE_WORDS: usize = size_of::<DecodeTask>() / 4;
const PREFILL_WORDS: usize = size_of::<PrefillTask>() / 4;

impl TaskPlanner {
    /// The tasks of a step.
    pub fn plan(&self, sequences: &[Sequence], kv_heads: usize, window: Option<usize>) -> TaskList {
        let (few, many): (Vec<Sequence>, Vec<Sequence>) =
            sequences.iter().partition(|sequence| self.decode.takes(sequence.row_count));
        let (mut decode, mut prefill) = (DecodePlan::default(), PrefillPlan::default());
        decode.plan(&few, &self.decode, kv_heads, self.decode_blocks, window);
        prefill.plan(&many, &self.prefill, window);
        let mut words = vec![decode.tasks.len() as i32, prefill.tasks.len() as i32, 0, 0];
        words.extend(decode.tasks.iter().flat_map(decode_words));
        words.extend(prefill.tasks.iter().flat_map(prefill_words));
        TaskList { words, decode: decode.tasks.len(), prefill: prefill.tasks.len() }
    }

    /// Most tasks of the kernel for few rows.
    pub(super) fn decode_tasks_max(&self, limits: StepLimits) -> usize {
        let StepLimits { rows, sequences, pages, kv_heads } = limits;
        let tiles = rows * self.decode.group / self.decode.query_tile + sequences;
        // A tile reads the pages of its sequence once more for each that the sequence has.
        let pages = pages * self.tiles_of_few();
        DecodePlan::tasks_max(tiles, pages, &self.decode, kv_heads, self.decode_blocks)
    }

    /// Words that the tasks of any step within the limits take.
    pub fn words_max(&self, limits: StepLimits) -> usize {
        let prefill = PrefillPlan::tasks_max(limits.rows, limits.sequences, &self.prefill);
        HEADER_WORDS + DECODE_WORDS * self.decode_tasks_max(limits) + PREFILL_WORDS * prefill
    }

    /// Most tiles that a sequence has in the kernel for few rows.
    fn tiles_of_few(&self) -> usize {
        let rows = (1..).take_while(|&rows| self.decode.takes(rows)).last().unwrap_or(1);
        (rows * self.decode.group).div_ceil(self.decode.query_tile)
    }
}

impl TaskList {
    /// Where the tasks for few rows begin among the words.
    pub(super) const DECODE_START: usize = HEADER_WORDS;

    /// Everything, as it is copied to the GPU.
    pub fn words(&self) -> &[i32] {
        &self.words
    }

    /// Tasks for few rows, and of prompts.
    pub fn counts(&self) -> [usize; 2] {
        [self.decode, self.prefill]
    }

    /// Where the tasks of both kinds begin among the words.
    pub(super) fn starts(&self) -> [usize; 2] {
        [Self::DECODE_START, Self::DECODE_START + self.decode * DECODE_WORDS]
    }
}

fn decode_words(task: &DecodeTask) -> [i32; DECODE_WORDS] {
    [
        task.row_first,
        task.position_first,
        task.query_first,
        task.query_count,
        task.table_first,
        task.page_first,
        task.page_count,
        task.position_end,
        task.span,
        task.span_count,
        task.slot_first,
        task.counter_first,
    ]
}

fn prefill_words(task: &PrefillTask) -> [i32; PREFILL_WORDS] {
    [
        task.row_first,
        task.position_first,
        task.query_first,
        task.query_count,
        task.table_first,
        task.position_end,
        task.unused[0],
        task.unused[1],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_and_prompts_go_their_ways_and_words_fit() {
        let planner = TaskPlanner {
            decode: DecodeShape::new(128, 4, 232_448),
            prefill: PrefillShape::hopper(128, 4),
            decode_blocks: 132,
        };
        let sequence = |row_first, row_count, position_first, table_first| Sequence {
            row_first,
            row_count,
            position_first,
            table_first,
        };
        let sequences =
            [sequence(0, 1, 5000, 0), sequence(1, 500, 0, 313), sequence(501, 2, 0, 345)];
        let list = planner.plan(&sequences, 8, None);
        let [decode, prefill] = list.counts();
        assert!(decode >= 3 && prefill == (500 * 4_usize).div_ceil(128));
        let [_, start] = list.starts();
        assert_eq!(list.words().len(), start + prefill * PREFILL_WORDS);
        assert_eq!(&list.words()[..2], [decode as i32, prefill as i32]);
        assert!(list.words()[start..].chunks(PREFILL_WORDS).all(|task| task[0] == 1));
        let limits = StepLimits { rows: 503, sequences: 3, pages: 346, kv_heads: 8 };
        assert!(list.words().len() <= planner.words_max(limits));
    }
}
