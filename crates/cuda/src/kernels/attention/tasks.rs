//! From a step's sequences to the task lists that the attention kernels read. Pure: the host knows every length.
//!
//! Sequences with few queries (rows × heads that share a key-value head) go to the kernel for decoding, which splits
//! their keys into spans; all others to the one for prompts. Where a span ends depends on its own sequence alone, so
//! that a row's result does not depend on the other rows of a step.

use super::super::BLOCK_TOKENS;

/// Rows of one sequence in a step. Its keys and values up to the last of these positions are in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// First row in the step.
    pub row_first: usize,
    /// How many rows.
    pub row_count: usize,
    /// The position of the first row.
    pub position_first: usize,
    /// Where its table begins among the block tables.
    pub table_first: usize,
}

/// The sizes that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Query heads that share a key-value head.
    pub group: usize,
    /// Queries of a task when decoding.
    pub decode_queries: usize,
    /// Queries of a task of a prompt.
    pub prefill_queries: usize,
}

/// A task of the kernel for decoding, as its source declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DecodeTask {
    row_first: usize,
    position_first: usize,
    query_first: usize,
    query_count: usize,
    table_first: usize,
    page_first: usize,
    page_count: usize,
    position_end: usize,
    span: usize,
    span_count: usize,
    slot_first: usize,
    counter_first: usize,
}

/// Numbers of a task when decoding.
const DECODE_WORDS: usize = 12;
/// Numbers of a task of a prompt.
const PREFILL_WORDS: usize = 8;
/// Numbers before the tasks: how many there are of each kind.
const HEADER_WORDS: usize = 4;
/// Results of spans that are put together at a time, as in the kernel's source.
const FAN_IN: usize = 8;
/// Pages of a span, of a sequence that is not long.
const SPAN_PAGES: usize = 16;
/// Pages of the largest span.
const SPAN_PAGES_MAX: usize = 1 << 20;
/// Spans of a sequence before they get longer.
const SPANS: usize = 64;
/// Sequences with more queries than this are prompts.
const DECODE_QUERIES_MAX: usize = 16;

/// The tasks of a step for layers that see as far back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskList {
    /// Counts of both kinds, then the tasks of both kinds, as the kernels read them.
    words: Vec<i32>,
    decode: usize,
    prefill: usize,
}

/// What the results of spans take in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Places for results.
    pub slots: usize,
    /// Counters of results that are there.
    pub counters: usize,
}

impl TaskList {
    /// Where the tasks when decoding begin among the words.
    pub const DECODE_START: usize = HEADER_WORDS;

    /// The tasks of a step, within the capacity: spans are longer where it would not suffice.
    pub fn new(
        sequences: &[Sequence],
        tiles: Tiles,
        window: Option<usize>,
        capacity: Capacity,
    ) -> Self {
        let is_few = |sequence: &&Sequence| sequence.row_count * tiles.group <= DECODE_QUERIES_MAX;
        let few: Vec<Sequence> = sequences.iter().filter(is_few).copied().collect();
        let many = sequences.iter().filter(|sequence| !is_few(sequence));
        let mut span_pages = SPAN_PAGES;
        let decode = loop {
            let (tasks, needed) = decode_tasks(&few, tiles, window, span_pages);
            let fits = needed.slots <= capacity.slots && needed.counters <= capacity.counters;
            if fits || span_pages >= SPAN_PAGES_MAX {
                break tasks;
            }
            span_pages *= 2;
        };
        let prefill = prefill_tasks(many, tiles, window);
        let mut words = vec![decode.len() as i32, prefill.len() as i32, 0, 0];
        words.extend(decode.iter().flat_map(DecodeTask::words));
        words.extend(prefill.iter().flatten());
        Self { words, decode: decode.len(), prefill: prefill.len() }
    }

    /// Everything, as it is copied to the GPU.
    pub fn words(&self) -> &[i32] {
        &self.words
    }

    /// Tasks when decoding, and of prompts.
    pub fn counts(&self) -> [usize; 2] {
        [self.decode, self.prefill]
    }

    /// Where the tasks of both kinds begin among the words.
    pub fn starts(&self) -> [usize; 2] {
        [Self::DECODE_START, Self::DECODE_START + self.decode * DECODE_WORDS]
    }

    /// Words that the tasks of any step with so many rows, sequences and pages take at most.
    pub fn words_max(rows: usize, sequences: usize, pages: usize) -> usize {
        // Spans may be as short as one, at either end of a window.
        let spans = pages / SPAN_PAGES + 2 * sequences;
        HEADER_WORDS + spans * 2 * DECODE_WORDS + (rows + sequences) * PREFILL_WORDS
    }
}

impl DecodeTask {
    fn words(&self) -> [i32; DECODE_WORDS] {
        [
            self.row_first,
            self.position_first,
            self.query_first,
            self.query_count,
            self.table_first,
            self.page_first,
            self.page_count,
            self.position_end,
            self.span,
            self.span_count,
            self.slot_first,
            self.counter_first,
        ]
        .map(|number| number as i32)
    }
}

/// A tile of a sequence's queries with the positions it sees.
struct Tile {
    first: usize,
    count: usize,
    /// The first position that its first query sees.
    lowest: usize,
    /// The position of its last query.
    highest: usize,
}

fn tiles_of(
    sequence: &Sequence,
    group: usize,
    queries: usize,
    window: Option<usize>,
) -> impl Iterator<Item = Tile> {
    let all = sequence.row_count * group;
    let position_first = sequence.position_first;
    (0..all).step_by(queries).map(move |first| {
        let count = queries.min(all - first);
        let lowest = position_first + first / group;
        Tile {
            first,
            count,
            lowest: window.map_or(0, |window| (lowest + 1).saturating_sub(window)),
            highest: position_first + (first + count - 1) / group,
        }
    })
}

fn decode_tasks(
    sequences: &[Sequence],
    tiles: Tiles,
    window: Option<usize>,
    span_pages: usize,
) -> (Vec<DecodeTask>, Capacity) {
    let mut tasks = Vec::new();
    let mut used = Capacity { slots: 0, counters: 0 };
    for sequence in sequences {
        let position_end = sequence.position_first + sequence.row_count;
        let mut pages = span_pages;
        while position_end > pages * BLOCK_TOKENS * SPANS {
            pages *= 2;
        }
        for tile in tiles_of(sequence, tiles.group, tiles.decode_queries, window) {
            let (first, end) = (tile.lowest / BLOCK_TOKENS, tile.highest / BLOCK_TOKENS + 1);
            let spans = first / pages..end.div_ceil(pages);
            let span_count = spans.len();
            for span in spans.clone() {
                let page_first = first.max(span * pages);
                tasks.push(DecodeTask {
                    row_first: sequence.row_first,
                    position_first: sequence.position_first,
                    query_first: tile.first,
                    query_count: tile.count,
                    table_first: sequence.table_first + page_first,
                    page_first,
                    page_count: end.min((span + 1) * pages) - page_first,
                    position_end,
                    span: span - spans.start,
                    span_count,
                    slot_first: used.slots,
                    counter_first: used.counters,
                });
            }
            // Results are put together in groups, and those of groups again.
            let mut results = span_count;
            while results > 1 {
                used.slots += results;
                results = results.div_ceil(FAN_IN);
                used.counters += results;
            }
        }
    }
    // Long ones first, so that none is begun when others are done.
    tasks.sort_by_key(|task| std::cmp::Reverse(task.page_count));
    (tasks, used)
}

fn prefill_tasks<'a>(
    sequences: impl Iterator<Item = &'a Sequence>,
    tiles: Tiles,
    window: Option<usize>,
) -> Vec<[i32; PREFILL_WORDS]> {
    let mut tasks: Vec<(u32, [usize; PREFILL_WORDS])> = Vec::new();
    for sequence in sequences {
        let position_end = sequence.position_first + sequence.row_count;
        for tile in tiles_of(sequence, tiles.group, tiles.prefill_queries, window) {
            // By powers of two, so that tiles that read the same keys stay together.
            let cost = (tile.highest / 64 - tile.lowest / 64 + 1).ilog2();
            let task = [
                sequence.row_first,
                sequence.position_first,
                tile.first,
                tile.count,
                sequence.table_first,
                position_end,
                0,
                0,
            ];
            tasks.push((cost, task));
        }
    }
    // Long ones first; of a sequence, the last tile is the longest.
    tasks.reverse();
    tasks.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
    tasks.into_iter().map(|(_, task)| task.map(|number| number as i32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILES: Tiles = Tiles { group: 4, decode_queries: 8, prefill_queries: 128 };
    const AMPLE: Capacity = Capacity { slots: 1 << 20, counters: 1 << 20 };

    fn sequence(row_count: usize, position_first: usize) -> Sequence {
        Sequence { row_first: 0, row_count, position_first, table_first: 0 }
    }

    #[test]
    fn spans_cover_what_is_seen_once_whatever_the_company() {
        for window in [None, Some(1), Some(100), Some(5000)] {
            for position in [0, 15, 16, 255, 256, 1000, 5000, 131_071] {
                let alone = sequence(1, position);
                let (tasks, _) = decode_tasks(&[alone], TILES, window, SPAN_PAGES);
                let mut pages: Vec<usize> = tasks
                    .iter()
                    .flat_map(|task| task.page_first..task.page_first + task.page_count)
                    .collect();
                pages.sort_unstable();
                let lowest = window.map_or(0, |window| (position + 1).saturating_sub(window));
                let expected: Vec<usize> = (lowest / 16..=position / 16).collect();
                assert_eq!(pages, expected, "position {position}, window {window:?}");
                let other = sequence(2, 300);
                let (together, _) = decode_tasks(&[other, alone], TILES, window, SPAN_PAGES);
                for task in &tasks {
                    let same = |other: &&DecodeTask| {
                        other.page_first == task.page_first && other.position_end == position + 1
                    };
                    assert_eq!(together.iter().filter(same).count(), 1);
                }
            }
        }
    }

    #[test]
    fn queries_are_in_exactly_one_task_and_long_tasks_come_first() {
        let sequences =
            [sequence(1000, 0), Sequence { row_first: 1000, ..sequence(5, 77) }, sequence(4, 9)];
        let list = TaskList::new(&sequences, TILES, None, AMPLE);
        let [decode, prefill] = list.counts();
        assert_eq!(decode, 2, "two tiles of the sequence with 16 queries");
        assert_eq!(prefill, (4000_usize.div_ceil(128)) + 1);
        let [_, start] = list.starts();
        let tasks: Vec<&[i32]> = list.words()[start..].chunks(PREFILL_WORDS).collect();
        let queries: i32 = tasks.iter().map(|task| task[3]).sum();
        assert_eq!(queries, 4000 + 20);
        assert!(tasks[0][2] > 2000, "the last rows of a prompt see most");
        assert_eq!(list.words().len(), start + prefill * PREFILL_WORDS);
    }

    #[test]
    fn spans_grow_where_there_is_no_room_for_results() {
        let sequences: Vec<Sequence> = (0..50).map(|_| sequence(1, 4000)).collect();
        let (_, needed) = decode_tasks(&sequences, TILES, None, SPAN_PAGES);
        let capacity = Capacity { slots: needed.slots / 3, counters: needed.counters };
        let list = TaskList::new(&sequences, TILES, None, capacity);
        let slots = |task: &[i32]| task[10] as usize + task[9] as usize;
        let most = list.words()[HEADER_WORDS..].chunks(DECODE_WORDS).map(slots).max().unwrap();
        assert!(most <= capacity.slots, "{most} of {}", capacity.slots);
    }
}
