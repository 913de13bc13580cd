//! How a step's attention is cut into tasks for the kernels beside this file, and with which shapes they are compiled
//! and launched. Made once a step on the host and uploaded; all layers with the same window use it.
//!
//! A task is a tile of queries of one sequence, and for decode one span of its positions. The query heads that share
//! a key-value head are taken together: query `q` of a sequence is head `q % group` of its row `q / group`. A unit of
//! work is a task for one key-value head; the kernels number units `task × kv_heads + head`.

/// Positions of a KV block.
pub const BLOCK_TOKENS: usize = 16;
/// Results of spans that the decode kernel puts together at once (`FAN_IN` there).
const FAN_IN: usize = 16;
/// Pages up to which a tile is never cut: putting spans together costs about as much as reading so many.
const UNCUT_PAGES: usize = 32;
/// Fewest pages of a span.
const SPAN_PAGES_MIN: usize = 8;
/// Units that a multiprocessor should have at least if it has several, so that all end at about the same time.
const ROUNDS: usize = 3;
/// Tiles of queries that the decode kernel should take of a sequence at most: each reads all keys once more.
const DECODE_TILES_MAX: usize = 8;

/// Rows of one sequence in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Its first row in the step.
    pub row_first: usize,
    /// Its rows.
    pub row_count: usize,
    /// The position of its first row.
    pub position_first: usize,
    /// Where its block table begins among the step's tables.
    pub table_first: usize,
}

impl Sequence {
    fn position_end(&self) -> usize {
        self.position_first + self.row_count
    }
}

/// A tile of a sequence's queries: which, and the positions that any of them sees.
struct Tile {
    query_first: usize,
    query_count: usize,
    position_begin: usize,
    position_end: usize,
}

impl Tile {
    /// First page, and one past the last.
    fn pages(&self) -> (usize, usize) {
        (self.position_begin / BLOCK_TOKENS, self.position_end.div_ceil(BLOCK_TOKENS))
    }

    fn page_count(&self) -> usize {
        let (begin, end) = self.pages();
        end - begin
    }
}

fn tiles(
    sequence: &Sequence,
    group: usize,
    query_tile: usize,
    window: Option<usize>,
) -> impl DoubleEndedIterator<Item = Tile> {
    let (position, queries) = (sequence.position_first, sequence.row_count * group);
    (0..queries.div_ceil(query_tile)).map(move |index| {
        let query_first = index * query_tile;
        let query_count = query_tile.min(queries - query_first);
        let lowest = position + query_first / group;
        let highest = position + (query_first + query_count - 1) / group;
        Tile {
            query_first,
            query_count,
            position_begin: window.map_or(0, |window| (lowest + 1).saturating_sub(window)),
            position_end: highest + 1,
        }
    })
}

fn number(value: usize) -> i32 {
    i32::try_from(value).expect("numbers of rows, positions and blocks fit 31 bits")
}

/// Where the decode kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Multiprocessors of the device.
    pub multiprocessors: usize,
    /// Blocks on all of them at once.
    pub blocks: usize,
}

/// How the decode kernel is compiled and launched for a model on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeShape {
    /// Width of a head.
    pub head_dim: usize,
    /// Query heads a key-value head.
    pub group: usize,
    /// Warps of a block.
    pub warps: usize,
    /// Pages of a warp's ring.
    pub stages: usize,
    /// Queries of a task.
    pub query_tile: usize,
}

impl DecodeShape {
    /// The shape with up to `warps_max` warps, as many as fit into the shared memory of a block.
    ///
    /// # Panics
    /// If not even two warps fit.
    fn new(head_dim: usize, group: usize, shared_bytes_max: usize, warps_max: usize) -> Self {
        let query_tile = match group {
            9.. if head_dim <= 128 => 16,
            5.. => 8,
            _ => 4,
        };
        [8, 4, 2]
            .into_iter()
            .filter(|&warps| warps <= warps_max)
            .map(|warps| Self { head_dim, group, warps, stages: 2, query_tile })
            .find(|shape| shape.shared_bytes() <= shared_bytes_max)
            .expect("decode attention: too little shared memory")
    }

    /// For steps of few rows, in which a unit should be over soon.
    pub fn wide(head_dim: usize, group: usize, shared_bytes_max: usize) -> Self {
        Self::new(head_dim, group, shared_bytes_max, if head_dim > 128 { 4 } else { 8 })
    }

    /// For steps of more rows, in which warps should not wait for each other: with more of them, a unit with a short
    /// context is over before their results are put together.
    pub fn narrow(head_dim: usize, group: usize, shared_bytes_max: usize) -> Self {
        Self::new(head_dim, group, shared_bytes_max, 4)
    }

    /// The macros with which `decode.cu` is compiled.
    pub fn macros(&self) -> [(&'static str, usize); 5] {
        [
            ("HEAD_DIM", self.head_dim),
            ("GROUP", self.group),
            ("WARPS", self.warps),
            ("STAGES", self.stages),
            ("QUERY_TILE", self.query_tile),
        ]
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        self.warps * 32
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(&self) -> usize {
        let ring = self.stages * 2 * BLOCK_TOKENS * (2 * self.head_dim + 16);
        self.warps * (ring + self.query_tile * (4 * self.head_dim + 24)) + 32
    }

    /// Numbers of a slot of the kernel's `partials`, for one key-value head.
    pub fn partial_len(&self) -> usize {
        self.query_tile * (self.head_dim + 2)
    }

    /// Whether this kernel should take a sequence with so many rows, rather than the one for prefill.
    pub fn takes(&self, row_count: usize) -> bool {
        row_count * self.group <= DECODE_TILES_MAX * self.query_tile
    }
}

/// A task of the decode kernel, as it reads it.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeTask {
    /// The sequence's first row in the step.
    pub row_first: i32,
    /// The position of that row.
    pub position_first: i32,
    /// First query of the tile.
    pub query_first: i32,
    /// Its queries.
    pub query_count: i32,
    /// Where the block of the span's first page stands among the step's tables.
    pub table_first: i32,
    /// Number of that page in the sequence.
    pub page_first: i32,
    /// Pages of the span.
    pub page_count: i32,
    /// One past the sequence's last position.
    pub position_end: i32,
    /// Number of the span among those of the tile.
    pub span: i32,
    /// Spans of the tile.
    pub span_count: i32,
    /// Where the results of the tile's spans begin, those of groups of spans after them.
    pub slot_first: i32,
    /// Where the counters of its groups begin.
    pub counter_first: i32,
}

/// The decode tasks of a step.
#[derive(Clone, Debug, Default)]
pub struct DecodePlan {
    /// The tasks, long ones first.
    pub tasks: Vec<DecodeTask>,
    /// Slots of the kernel's `partials` that it uses, each `kv_heads × partial_len` numbers.
    pub slots: usize,
    /// Counters of the kernel's `arrivals` that it uses, each `kv_heads` numbers.
    pub counters: usize,
}

impl DecodePlan {
    /// Plans anew for `sequences`. Long tiles are cut into spans where there are too few of them to keep the device
    /// busy.
    pub fn plan(
        &mut self,
        sequences: &[Sequence],
        shape: &DecodeShape,
        kv_heads: usize,
        grid: Grid,
        window: Option<usize>,
    ) {
        self.tasks.clear();
        (self.slots, self.counters) = (0, 0);
        let tiles_of = |sequence| tiles(sequence, shape.group, shape.query_tile, window);
        let pages: Vec<usize> =
            sequences.iter().flat_map(tiles_of).map(|tile| tile.page_count()).collect();
        let span_pages = span_pages(&pages, kv_heads, grid);
        for sequence in sequences {
            for tile in tiles_of(sequence) {
                let (first, pages) = (tile.pages().0, tile.page_count());
                let spans = span_count(pages, span_pages);
                for span in 0..spans {
                    let begin = first + pages * span / spans;
                    let end = first + pages * (span + 1) / spans;
                    self.tasks.push(DecodeTask {
                        row_first: number(sequence.row_first),
                        position_first: number(sequence.position_first),
                        query_first: number(tile.query_first),
                        query_count: number(tile.query_count),
                        table_first: number(sequence.table_first + begin),
                        page_first: number(begin),
                        page_count: number(end - begin),
                        position_end: number(sequence.position_end()),
                        span: number(span),
                        span_count: number(spans),
                        slot_first: number(self.slots),
                        counter_first: number(self.counters),
                    });
                }
                let mut level = spans;
                while level > 1 {
                    self.slots += level;
                    level = level.div_ceil(FAN_IN);
                    self.counters += level;
                }
            }
        }
        // Blocks take units in turn: with long ones first they end within one unit of each other.
        self.tasks.sort_by_key(|task| std::cmp::Reverse(task.page_count));
    }

    /// Most tasks of any plan for up to `tiles` tiles of queries. There are never more counters than tasks, nor more
    /// than 5 slots for 4 tasks.
    pub fn tasks_max(tiles: usize, kv_heads: usize, grid: Grid) -> usize {
        tiles + (ROUNDS * grid.multiprocessors).max(grid.blocks).div_ceil(kv_heads) + 1
    }
}

/// Spans of a tile if a span has up to `span_pages`.
fn span_count(pages: usize, span_pages: usize) -> usize {
    if pages <= UNCUT_PAGES { 1 } else { pages.div_ceil(span_pages) }
}

/// Pages up to which a span should go, for tiles with so many pages.
fn span_pages(pages: &[usize], kv_heads: usize, grid: Grid) -> usize {
    let pages_all = pages.iter().sum::<usize>() * kv_heads;
    let units = |span_pages: usize| {
        pages.iter().map(|&pages| span_count(pages, span_pages)).sum::<usize>() * kv_heads
    };
    // One unit a block, if that leaves few blocks idle.
    if pages.len() * kv_heads <= grid.multiprocessors {
        let near = pages_all.div_ceil(grid.blocks).max(SPAN_PAGES_MIN);
        let fits = (near..=near + near / 4).find(|&span_pages| units(span_pages) <= grid.blocks);
        if let Some(span_pages) = fits {
            return span_pages;
        }
    }
    // Blocks of one multiprocessor share its rate, so that it is multiprocessors that have to end together.
    let share = pages_all.div_ceil(grid.multiprocessors);
    share.div_ceil(ROUNDS).max(SPAN_PAGES_MIN)
}

/// How a prefill kernel is compiled and launched for a model on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefillShape {
    /// The macros with which it is compiled.
    pub macros: Vec<(&'static str, usize)>,
    /// Query heads a key-value head.
    pub group: usize,
    /// Queries of a task.
    pub query_tile: usize,
    /// Keys of a tile.
    pub key_tile: usize,
    /// Threads of a block.
    pub threads: usize,
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
}

impl PrefillShape {
    /// The kernel in `prefill.cu`, for every device.
    ///
    /// # Panics
    /// If its smallest shape does not fit.
    pub fn portable(head_dim: usize, group: usize, shared_bytes_max: usize) -> Self {
        let candidates: &[(usize, usize, usize)] = match head_dim {
            129.. => &[(8, 1, 64), (4, 1, 32)],
            81.. => &[(4, 2, 32)],
            _ => &[(4, 2, 64)],
        };
        candidates
            .iter()
            .map(|&(warps, row_tiles, key_tile)| {
                let query_tile = 16 * row_tiles * warps;
                Self {
                    macros: vec![
                        ("HEAD_DIM", head_dim),
                        ("GROUP", group),
                        ("WARPS", warps),
                        ("ROW_TILES", row_tiles),
                        ("KEY_TILE", key_tile),
                    ],
                    group,
                    query_tile,
                    key_tile,
                    threads: warps * 32,
                    shared_bytes: (query_tile + 2 * key_tile) * (2 * head_dim + 16),
                }
            })
            .find(|shape| shape.shared_bytes <= shared_bytes_max)
            .expect("prefill attention: too little shared memory")
    }

    /// The kernel in `prefill_hopper.cu`, for compute capability 9.0.
    pub fn hopper(head_dim: usize, group: usize) -> Self {
        let (key_tile, query_stages, value_stages) =
            if head_dim > 128 { (64, 1, 2) } else { (128, 2, 3) };
        let (consumers, key_stages) = (2, 2);
        let query_tile = 64 * consumers;
        let rows = query_stages * query_tile + (key_stages + value_stages) * key_tile;
        Self {
            macros: vec![
                ("HEAD_DIM", head_dim),
                ("GROUP", group),
                ("CONSUMERS", consumers),
                ("KEY_TILE", key_tile),
                ("QUERY_STAGES", query_stages),
                ("KEY_STAGES", key_stages),
                ("VALUE_STAGES", value_stages),
            ],
            group,
            query_tile,
            key_tile,
            threads: 128 * (consumers + 1),
            shared_bytes: 1280 + 128 * head_dim.div_ceil(64) * rows,
        }
    }
}

/// A task of a prefill kernel, as it reads it.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefillTask {
    /// The sequence's first row in the step.
    pub row_first: i32,
    /// The position of that row.
    pub position_first: i32,
    /// First query of the tile.
    pub query_first: i32,
    /// Its queries.
    pub query_count: i32,
    /// Where the sequence's table begins among the step's tables.
    pub table_first: i32,
    /// One past the sequence's last position.
    pub position_end: i32,
    /// Nothing: the kernels read groups of four numbers.
    pub unused: [i32; 2],
}

/// The prefill tasks of a step.
#[derive(Clone, Debug, Default)]
pub struct PrefillPlan {
    /// The tasks, long ones first.
    pub tasks: Vec<PrefillTask>,
    order: Vec<(u32, PrefillTask)>,
}

impl PrefillPlan {
    /// Plans anew for `sequences`. Tasks of like length stay with their sequence, so that blocks that work at the
    /// same time read the same keys; that they are not quite in order is made good by blocks taking whichever is
    /// next.
    pub fn plan(&mut self, sequences: &[Sequence], shape: &PrefillShape, window: Option<usize>) {
        self.order.clear();
        for sequence in sequences {
            for tile in tiles(sequence, shape.group, shape.query_tile, window).rev() {
                let first = tile.position_begin / shape.key_tile;
                let key_tiles = tile.position_end.div_ceil(shape.key_tile) - first;
                let task = PrefillTask {
                    row_first: number(sequence.row_first),
                    position_first: number(sequence.position_first),
                    query_first: number(tile.query_first),
                    query_count: number(tile.query_count),
                    table_first: number(sequence.table_first),
                    position_end: number(sequence.position_end()),
                    unused: [0; 2],
                };
                self.order.push((key_tiles.ilog2(), task));
            }
        }
        self.order.sort_by_key(|&(octave, _)| std::cmp::Reverse(octave));
        self.tasks.clear();
        self.tasks.extend(self.order.iter().map(|&(_, task)| task));
    }

    /// Most tasks of any plan for up to so many rows of so many sequences.
    pub fn tasks_max(rows: usize, sequences: usize, shape: &PrefillShape) -> usize {
        rows * shape.group / shape.query_tile + sequences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequences with rows and first positions as given, one after another.
    fn sequences(rows: &[(usize, usize)]) -> Vec<Sequence> {
        let (mut row_first, mut table_first) = (0, 0);
        rows.iter()
            .map(|&(row_count, position_first)| {
                let sequence = Sequence { row_first, row_count, position_first, table_first };
                row_first += row_count;
                table_first += (position_first + row_count).div_ceil(BLOCK_TOKENS);
                sequence
            })
            .collect()
    }

    fn decode(
        rows: &[(usize, usize)],
        shape: &DecodeShape,
        kv_heads: usize,
        blocks: usize,
        window: Option<usize>,
    ) -> DecodePlan {
        let mut plan = DecodePlan::default();
        let grid = Grid { multiprocessors: blocks.min(132), blocks };
        plan.plan(&sequences(rows), shape, kv_heads, grid, window);
        plan
    }

    const CASES: [&[(usize, usize)]; 6] = [
        &[],
        &[(1, 0)],
        &[(1, 32_767)],
        &[(1, 200_000)],
        &[(1, 100), (3, 5_000), (1, 0), (7, 13), (1, 32_000)],
        &[(1, 1_023); 200],
    ];

    #[test]
    fn each_query_meets_each_page_that_it_sees_once() {
        for (group, kv_heads, grid) in [(4, 8, 264), (7, 2, 132), (16, 1, 40), (3, 3, 264)] {
            let shape = DecodeShape::narrow(128, group, 232_448);
            for window in [None, Some(1), Some(100), Some(4_096)] {
                for rows in CASES {
                    let plan = decode(rows, &shape, kv_heads, grid, window);
                    for sequence in sequences(rows) {
                        check_queries(&sequence, &plan, &shape, window);
                    }
                }
            }
        }
    }

    fn check_queries(
        sequence: &Sequence,
        plan: &DecodePlan,
        shape: &DecodeShape,
        window: Option<usize>,
    ) {
        for query in 0..sequence.row_count * shape.group {
            let position = sequence.position_first + query / shape.group;
            let begin = window.map_or(0, |window| (position + 1).saturating_sub(window));
            let mut spans: Vec<&DecodeTask> = plan
                .tasks
                .iter()
                .filter(|task| {
                    let queries = task.query_first..task.query_first + task.query_count;
                    task.row_first as usize == sequence.row_first
                        && queries.contains(&(query as i32))
                })
                .collect();
            spans.sort_by_key(|task| task.span);
            let first = spans[0].page_first;
            assert!(first as usize <= begin / BLOCK_TOKENS);
            let mut next = first;
            for (index, task) in spans.iter().enumerate() {
                assert_eq!((task.span, task.span_count), (index as i32, spans.len() as i32));
                assert_eq!(task.page_first, next);
                assert!(task.page_count >= 1);
                assert_eq!(task.table_first - task.page_first, sequence.table_first as i32);
                assert_eq!(task.position_end as usize, sequence.position_end());
                next += task.page_count;
            }
            assert!(next as usize > position / BLOCK_TOKENS);
            assert!((next as usize) <= sequence.position_end().div_ceil(BLOCK_TOKENS));
        }
    }

    #[test]
    fn slots_and_counters_are_not_shared() {
        let shape = DecodeShape::narrow(64, 3, 232_448);
        let grid = Grid { multiprocessors: 132, blocks: 132 };
        for rows in CASES {
            let plan = decode(rows, &shape, 3, 132, None);
            let (mut slots, mut counters) = (vec![0; plan.slots], vec![0; plan.counters]);
            for task in plan.tasks.iter().filter(|task| task.span == 0 && task.span_count > 1) {
                let (mut slot, mut counter) =
                    (task.slot_first as usize, task.counter_first as usize);
                let mut level = task.span_count as usize;
                while level > 1 {
                    slots[slot..slot + level].iter_mut().for_each(|used| *used += 1);
                    slot += level;
                    level = level.div_ceil(FAN_IN);
                    counters[counter..counter + level].iter_mut().for_each(|used| *used += 1);
                    counter += level;
                }
            }
            assert!(slots.iter().chain(&counters).all(|&used| used == 1));
            let tiles = rows.iter().map(|row| (row.0 * 3).div_ceil(shape.query_tile)).sum();
            let most = DecodePlan::tasks_max(tiles, 3, grid);
            assert!(plan.tasks.len() <= most && plan.counters <= most);
            assert!(plan.slots * 4 <= most * 5);
        }
    }

    #[test]
    fn long_sequences_fill_the_device_and_short_ones_stay_whole() {
        let shape = DecodeShape::narrow(128, 4, 232_448);
        let one = decode(&[(1, 32_767)], &shape, 8, 264, None);
        assert!((32..=33).contains(&one.tasks.len()));
        assert!(one.tasks.iter().all(|task| (62..=66).contains(&task.page_count)));
        for rows in [&[(1, 199); 256][..], &[(1, 1_023); 256], &[(1, 199)], &[(1, 511); 3]] {
            let plan = decode(rows, &shape, 8, 264, None);
            assert_eq!(plan.tasks.len(), rows.len());
            assert_eq!((plan.slots, plan.counters), (0, 0));
        }
        // One long sequence among short ones must not hold up the others' blocks.
        let mut rows = vec![(1, 199); 63];
        rows.push((1, 32_767));
        let plan = decode(&rows, &shape, 8, 264, None);
        let pages: i32 = plan.tasks.iter().map(|task| task.page_count).sum();
        assert!(plan.tasks[0].page_count * 132 <= pages * 8 / 2);
        assert!(plan.tasks.is_sorted_by_key(|task| -task.page_count));
    }

    #[test]
    fn prefill_tasks_cover_all_queries_and_begin_with_long_ones() {
        let rows = [(1_000, 0), (1, 0), (17, 4_000), (300, 500)];
        for shape in [PrefillShape::hopper(128, 4), PrefillShape::portable(96, 3, 101_376)] {
            let mut plan = PrefillPlan::default();
            for window in [None, Some(64)] {
                plan.plan(&sequences(&rows), &shape, window);
                for sequence in sequences(&rows) {
                    let mut covered = vec![0; sequence.row_count * shape.group];
                    let own = |task: &&PrefillTask| task.row_first as usize == sequence.row_first;
                    for task in plan.tasks.iter().filter(own) {
                        let first = task.query_first as usize;
                        let tile = &mut covered[first..first + task.query_count as usize];
                        tile.iter_mut().for_each(|count| *count += 1);
                        assert!(task.query_count as usize <= shape.query_tile);
                        assert_eq!(task.position_end as usize, sequence.position_end());
                    }
                    assert!(covered.iter().all(|&count| count == 1));
                }
                let rows = rows.iter().map(|row| row.0).sum();
                assert!(plan.tasks.len() <= PrefillPlan::tasks_max(rows, 4, &shape));
            }
            plan.plan(&sequences(&rows), &shape, None);
            assert_eq!(plan.tasks[0].position_first, 4_000);
            let ends = plan.tasks.iter().map(|task| {
                let last = task.query_first + task.query_count - 1;
                (task.position_first + last / shape.group as i32) as usize / shape.key_tile + 1
            });
            let ends: Vec<usize> = ends.collect();
            assert!(ends.windows(2).all(|pair| pair[0].ilog2() >= pair[1].ilog2()), "{ends:?}");
        }
    }

    #[test]
    fn shapes_fit_their_devices() {
        for head_dim in [64, 80, 96, 128, 256] {
            for group in 1..=16 {
                for shared in [101_376, 166_912, 232_448] {
                    for shape in [DecodeShape::narrow, DecodeShape::wide] {
                        let decode = shape(head_dim, group, shared);
                        assert!(decode.shared_bytes() <= shared && decode.warps >= 2);
                        assert!(decode.partial_len().is_multiple_of(4) && decode.takes(1));
                    }
                    let prefill = PrefillShape::portable(head_dim, group, shared);
                    assert!(prefill.shared_bytes <= shared);
                }
                // A little is declared in the kernel itself.
                assert!(PrefillShape::hopper(head_dim, group).shared_bytes <= 232_448 - 128);
            }
        }
    }
}
