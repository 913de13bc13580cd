//! How a step's attention is cut into tasks and shared out. Made once a step; all layers use it.

use std::ops::Range;

use device::cpu::partition;

/// Query rows that a task takes at least, where its sequence has them: enough to read each key once for several rows.
const TASK_QUERIES: usize = 8;

/// Rows of one sequence in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its rows in the batch.
    pub rows: Range<usize>,
    /// The position of its first row.
    pub first_position: usize,
    /// Where its block table lies in the step's table of tables.
    pub blocks: Range<usize>,
}

/// A few rows of one sequence against one key-value head.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    pub(crate) first_position: usize,
    pub(crate) blocks: Range<usize>,
    pub(crate) kv_head: usize,
}

/// The tasks of a step, shared out among workers by the keys they read.
#[derive(Debug, Default)]
pub struct AttentionTasks {
    tasks: Vec<Task>,
    workers: Vec<Range<usize>>,
    block_tables: Vec<u32>,
    rows: usize,
    blocks_end: usize,
    kv_heads: usize,
}

impl AttentionTasks {
    /// Plans the attention of `sequences`, whose block tables are parts of `block_tables`.
    ///
    /// # Panics
    /// If a block table is too short for its positions.
    pub fn new(
        sequences: &[Sequence],
        block_tables: Vec<u32>,
        heads: usize,
        kv_heads: usize,
        threads: usize,
    ) -> Self {
        let rows_per_task = (TASK_QUERIES / (heads / kv_heads)).max(1);
        let mut tasks = Vec::new();
        let mut costs_before = vec![0_u64];
        for sequence in sequences {
            let end = sequence.first_position + sequence.rows.len();
            assert!(
                sequence.blocks.len() * super::BLOCK_TOKENS >= end,
                "attention: block table too short for {end} positions"
            );
            for kv_head in 0..kv_heads {
                for first in (0..sequence.rows.len()).step_by(rows_per_task) {
                    let rows = rows_per_task.min(sequence.rows.len() - first);
                    let first_position = sequence.first_position + first;
                    tasks.push(Task {
                        first_row: sequence.rows.start + first,
                        rows,
                        first_position,
                        blocks: sequence.blocks.clone(),
                        kv_head,
                    });
                    let cost = (rows * (first_position + rows)) as u64;
                    costs_before.push(costs_before[tasks.len() - 1] + cost);
                }
            }
        }
        let total = usize::try_from(costs_before[tasks.len()]).expect("costs fit");
        let cut = |cost: usize| costs_before.partition_point(|&before| before < cost as u64);
        let workers = (0..threads)
            .map(|worker| {
                let share = partition(total, threads, worker);
                cut(share.start)..if worker + 1 == threads { tasks.len() } else { cut(share.end) }
            })
            .collect();
        Self {
            rows: sequences.iter().map(|sequence| sequence.rows.end).max().unwrap_or(0),
            blocks_end: block_tables.iter().map(|&block| block as usize + 1).max().unwrap_or(0),
            tasks,
            workers,
            block_tables,
            kv_heads,
        }
    }

    /// Rows in the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn of_worker(&self, worker: usize) -> &[Task] {
        &self.tasks[self.workers[worker].clone()]
    }

    pub(crate) fn block_table(&self, task: &Task) -> &[u32] {
        &self.block_tables[task.blocks.clone()]
    }

    pub(crate) fn blocks_end(&self) -> usize {
        self.blocks_end
    }

    pub(crate) fn kv_heads(&self) -> usize {
        self.kv_heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_and_head_falls_to_one_worker() {
        let sequences = [
            Sequence { rows: 0..1, first_position: 100, blocks: 0..7 },
            Sequence { rows: 1..30, first_position: 0, blocks: 7..9 },
            Sequence { rows: 30..31, first_position: 3, blocks: 9..10 },
        ];
        for threads in 1..6 {
            let tasks = AttentionTasks::new(&sequences, (0..10).collect(), 9, 3, threads);
            let mut seen = vec![0; 31 * 3];
            for worker in 0..threads {
                for task in tasks.of_worker(worker) {
                    for row in task.first_row..task.first_row + task.rows {
                        seen[row * 3 + task.kv_head] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|&count| count == 1), "{threads} threads: {seen:?}");
        }
    }
}
