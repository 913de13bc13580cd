//! The tasks of a step as they are copied to the GPU.

use super::tasks::{
    DecodePlan, DecodeShape, DecodeTask, Grid, PrefillPlan, PrefillShape, PrefillTask, Sequence,
};

/// Most rows of a step for which the wide kernel for few rows of a sequence is the faster one.
const WIDE_ROWS_MAX: usize = 8;

/// How steps are cut into tasks for a model on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPlanner {
    /// Of the kernels for few rows of a sequence, the wide and the narrow one, and where they run.
    pub(super) decode: [(DecodeShape, Grid); 2],
    /// Of the kernel for prompts.
    pub(super) prefill: PrefillShape,
}

/// The most that there is in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Rows.
    pub rows: usize,
    /// Sequences.
    pub sequences: usize,
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
    /// Which of the kernels for few rows of a sequence steps of so many rows use.
    pub(super) fn decode_kernel(rows: usize) -> usize {
        usize::from(rows > WIDE_ROWS_MAX)
    }

    /// The tasks of a step of so many rows, of which some may be no sequence's.
    pub fn plan(
        &self,
        sequences: &[Sequence],
        rows: usize,
        kv_heads: usize,
        window: Option<usize>,
    ) -> TaskList {
        let (shape, grid) = &self.decode[Self::decode_kernel(rows)];
        let (few, many): (Vec<Sequence>, Vec<Sequence>) =
            sequences.iter().partition(|sequence| shape.takes(sequence.row_count));
        let (mut decode, mut prefill) = (DecodePlan::default(), PrefillPlan::default());
        decode.plan(&few, shape, kv_heads, *grid, window);
        prefill.plan(&many, &self.prefill, window);
        let mut words = vec![decode.tasks.len() as i32, prefill.tasks.len() as i32, 0, 0];
        words.extend(decode.tasks.iter().flat_map(decode_words));
        words.extend(prefill.tasks.iter().flat_map(prefill_words));
        TaskList { words, decode: decode.tasks.len(), prefill: prefill.tasks.len() }
    }

    /// Most tasks of the kernel for few rows.
    pub(super) fn decode_tasks_max(&self, limits: StepLimits) -> usize {
        let StepLimits { rows, sequences, kv_heads } = limits;
        let tasks = self.decode.map(|(shape, grid)| {
            let tiles = rows * shape.group / shape.query_tile + sequences;
            DecodePlan::tasks_max(tiles, kv_heads, grid)
        });
        tasks.into_iter().max().unwrap_or(0)
    }

    /// Words that the tasks of any step within the limits take.
    pub fn words_max(&self, limits: StepLimits) -> usize {
        let prefill = PrefillPlan::tasks_max(limits.rows, limits.sequences, &self.prefill);
        HEADER_WORDS + DECODE_WORDS * self.decode_tasks_max(limits) + PREFILL_WORDS * prefill
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
            decode: [
                (DecodeShape::wide(128, 4, 232_448), Grid { multiprocessors: 132, blocks: 132 }),
                (DecodeShape::narrow(128, 4, 232_448), Grid { multiprocessors: 132, blocks: 264 }),
            ],
            prefill: PrefillShape::hopper(128, 4),
        };
        let sequence = |row_first, row_count, position_first, table_first| Sequence {
            row_first,
            row_count,
            position_first,
            table_first,
        };
        let sequences =
            [sequence(0, 1, 5000, 0), sequence(1, 500, 0, 313), sequence(501, 2, 0, 345)];
        let list = planner.plan(&sequences, 503, 8, None);
        let [decode, prefill] = list.counts();
        assert!(decode >= 3 && prefill == (500 * 4_usize).div_ceil(128));
        let [_, start] = list.starts();
        assert_eq!(list.words().len(), start + prefill * PREFILL_WORDS);
        assert_eq!(&list.words()[..2], [decode as i32, prefill as i32]);
        assert!(list.words()[start..].chunks(PREFILL_WORDS).all(|task| task[0] == 1));
        let limits = StepLimits { rows: 503, sequences: 3, kv_heads: 8 };
        assert!(list.words().len() <= planner.words_max(limits));
    }
}
