//! How a step's attention is cut into tasks and shared out. Made once a step; all layers use it.
//!
//! A task is a few query rows of one sequence against one key-value head. It walks its positions span by span; where
//! whole tasks would leave a worker idle, one is cut between two spans, and its parts are put together afterwards.

use std::ops::Range;

use device::cpu::partition;

/// Query heads that a task takes together, rows and heads counted: enough to read each key once for several.
const TASK_QUERIES: usize = 12;
/// Positions of a span: their scores are held at once. Spans begin at multiples of it, whatever the batch.
pub(crate) const SPAN: usize = 128;
/// Positions times queries that a worker may have more than its share before cutting tasks pays for itself.
const IMBALANCE_MAX: usize = 4096;

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

impl Task {
    /// Spans up to its last position.
    fn spans(&self) -> usize {
        (self.first_position + self.rows).div_ceil(SPAN)
    }
}

/// What a worker does of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) task: usize,
    pub(crate) spans: Range<usize>,
    /// Where results go if others do the rest: one slot for all spans from the first on, else one a span.
    pub(crate) slot: Option<usize>,
}

/// A task that several workers share: its slots, in the order in which they are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) task: usize,
    pub(crate) slots: Range<usize>,
}

/// The tasks of a step, shared out among workers by the keys they read.
#[derive(Debug, Default)]
pub struct AttentionTasks {
    tasks: Vec<Task>,
    shares: Vec<Share>,
    workers: Vec<Range<usize>>,
    cuts: Vec<Cut>,
    block_tables: Vec<u32>,
    rows: usize,
    rows_max: usize,
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
        let group = heads / kv_heads;
        let rows_per_task = (TASK_QUERIES / group).max(1);
        let mut tasks = Vec::new();
        for sequence in sequences {
            let end = sequence.first_position + sequence.rows.len();
            assert!(
                sequence.blocks.len() * super::BLOCK_TOKENS >= end,
                "attention: block table too short for {end} positions"
            );
            for kv_head in 0..kv_heads {
                for first in (0..sequence.rows.len()).step_by(rows_per_task) {
                    tasks.push(Task {
                        first_row: sequence.rows.start + first,
                        rows: rows_per_task.min(sequence.rows.len() - first),
                        first_position: sequence.first_position + first,
                        blocks: sequence.blocks.clone(),
                        kv_head,
                    });
                }
            }
        }
        let mut planned = Self {
            rows: sequences.iter().map(|sequence| sequence.rows.end).max().unwrap_or(0),
            rows_max: tasks.iter().map(|task: &Task| task.rows).max().unwrap_or(0),
            blocks_end: block_tables.iter().map(|&block| block as usize + 1).max().unwrap_or(0),
            tasks,
            shares: Vec::new(),
            workers: Vec::new(),
            cuts: Vec::new(),
            block_tables,
            kv_heads,
        };
        planned.share_out(group, threads);
        planned
    }

    /// Gives each worker a run of units of about the same cost: of whole tasks, or of spans if tasks are too coarse.
    fn share_out(&mut self, group: usize, threads: usize) {
        let cost = |task: &Task| task.rows * group * (task.first_position + task.rows);
        let total: usize = self.tasks.iter().map(cost).sum();
        let mut before = 0;
        let mut starts = vec![0];
        for task in &self.tasks {
            before += cost(task);
            starts.push(before);
        }
        // The task in which each worker's share begins, and the cost at which it would ideally begin.
        let ideal: Vec<usize> = (0..=threads)
            .map(|worker| partition(total, threads, worker.min(threads - 1)).start)
            .collect();
        let nearest = |cost: usize| starts.partition_point(|&start| start < cost);
        let whole: Vec<usize> =
            (0..threads).map(|worker| nearest(ideal[worker])).chain([self.tasks.len()]).collect();
        let largest = whole.windows(2).map(|pair| starts[pair[1]] - starts[pair[0]]).max();
        let cuts_tasks = largest.unwrap_or(0) > total / threads + IMBALANCE_MAX;
        // A border lies before a span of a task.
        let border = |worker: usize| -> (usize, usize) {
            if worker == threads {
                return (self.tasks.len(), 0);
            }
            if !cuts_tasks {
                return (whole[worker], 0);
            }
            let task = starts.partition_point(|&start| start <= ideal[worker]) - 1;
            let Some(found) = self.tasks.get(task) else { return (self.tasks.len(), 0) };
            let span = (ideal[worker] - starts[task]) / (found.rows * group * SPAN);
            (task, span.min(found.spans() - 1))
        };
        let borders: Vec<(usize, usize)> = (0..=threads).map(border).collect();
        for pair in borders.windows(2) {
            let first = self.shares.len();
            for task in pair[0].0..self.tasks.len().min(pair[1].0 + 1) {
                let start = if task == pair[0].0 { pair[0].1 } else { 0 };
                let end = if task == pair[1].0 { pair[1].1 } else { self.tasks[task].spans() };
                if start < end {
                    self.shares.push(Share { task, spans: start..end, slot: None });
                }
            }
            self.workers.push(first..self.shares.len());
        }
        let mut slots = 0;
        let mut index = 0;
        while index < self.shares.len() {
            let task = self.shares[index].task;
            let len = self.shares[index..].iter().take_while(|share| share.task == task).count();
            if len > 1 {
                let first = slots;
                for share in &mut self.shares[index..index + len] {
                    share.slot = Some(slots);
                    slots += if share.spans.start == 0 { 1 } else { share.spans.len() };
                }
                self.cuts.push(Cut { task, slots: first..slots });
            }
            index += len;
        }
    }

    /// Rows in the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn of_worker(&self, worker: usize) -> &[Share] {
        &self.shares[self.workers[worker].clone()]
    }

    pub(crate) fn task(&self, index: usize) -> &Task {
        &self.tasks[index]
    }

    pub(crate) fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// Slots for results of parts of tasks.
    pub(crate) fn slots(&self) -> usize {
        self.cuts.last().map_or(0, |cut| cut.slots.end)
    }

    /// Most rows of a task.
    pub(crate) fn rows_max(&self) -> usize {
        self.rows_max
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
    fn each_span_of_each_row_and_head_falls_to_one_worker() {
        let cases: [&[(Range<usize>, usize)]; 3] = [
            &[(0..1, 100), (1..30, 0), (30..31, 3)],
            &[(0..1, 20_000)],
            &[(0..1, 5_000), (1..300, 0), (300..301, 9_999)],
        ];
        for case in cases {
            let mut blocks = 0;
            let sequences: Vec<Sequence> = case
                .iter()
                .map(|(rows, first_position)| {
                    let first = blocks;
                    blocks += (first_position + rows.len()).div_ceil(16);
                    let (rows, first_position) = (rows.clone(), *first_position);
                    Sequence { rows, first_position, blocks: first..blocks }
                })
                .collect();
            for threads in 1..6 {
                let tables = (0..blocks as u32).collect();
                let tasks = AttentionTasks::new(&sequences, tables, 9, 3, threads);
                let mut seen: Vec<Vec<usize>> =
                    tasks.tasks.iter().map(|task| vec![0; task.spans()]).collect();
                let mut slots = vec![0; tasks.slots()];
                for worker in 0..threads {
                    for share in tasks.of_worker(worker) {
                        for span in share.spans.clone() {
                            seen[share.task][span] += 1;
                        }
                        if let Some(slot) = share.slot {
                            let count = if share.spans.start == 0 { 1 } else { share.spans.len() };
                            slots[slot..slot + count].iter_mut().for_each(|slot| *slot += 1);
                        } else {
                            assert_eq!(share.spans, 0..tasks.task(share.task).spans());
                        }
                    }
                }
                assert!(seen.iter().flatten().all(|&count| count == 1), "{threads}: {seen:?}");
                assert!(slots.iter().all(|&count| count == 1), "{threads} threads: {slots:?}");
                let rows: usize = tasks.tasks.iter().map(|task| task.rows).sum();
                assert_eq!(rows, 3 * case.iter().map(|(rows, _)| rows.len()).sum::<usize>());
            }
        }
    }

    #[test]
    fn one_long_sequence_is_spread_over_all_workers() {
        let sequence = Sequence { rows: 0..1, first_position: 9_999, blocks: 0..625 };
        let tasks = AttentionTasks::new(&[sequence], (0..625).collect(), 1, 1, 4);
        let spans: Vec<usize> = (0..4)
            .map(|worker| tasks.of_worker(worker).iter().map(|share| share.spans.len()).sum())
            .collect();
        assert!(spans.iter().all(|&spans| (19..=21).contains(&spans)), "{spans:?}");
        assert_eq!(tasks.cuts().len(), 1);
    }
}
