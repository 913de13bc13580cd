//! A plan packed into what the kernels read, one row a position, the rows of a request side by side. All of it is
//! copied to the GPU at once.

use cuda::{
    DeviceBuffer,
    kernels::{
        BLOCK_TOKENS, SampleRow,
        attention::{Sequence, TaskList},
    },
};
use types::{SamplingParams, SlotId, StepPlan, TokenId};

use super::{attention::Planner, slots::Slots};
use crate::slot::Slot;

/// The numbers of a step, and where each kind begins among them.
pub(super) struct Batch {
    /// Everything, as it is copied.
    pub(super) words: Vec<i32>,
    pub(super) rows: usize,
    pub(super) outputs: Vec<Output>,
    /// Tasks of attention, one list for each window that layers have.
    pub(super) tasks: Vec<TaskList>,
    sections: Sections,
}

/// First word of each section; each ends where the next begins.
#[derive(Clone, Debug, Default)]
struct Sections {
    sample: usize,
    tokens: usize,
    positions: usize,
    places: usize,
    selected: usize,
    tables: usize,
    tasks: Vec<usize>,
}

/// The sections on the GPU.
pub(super) struct BatchViews {
    pub(super) sample: DeviceBuffer<SampleRow>,
    pub(super) tokens: DeviceBuffer<i32>,
    pub(super) positions: DeviceBuffer<i32>,
    pub(super) places: DeviceBuffer<i32>,
    /// Rows whose logits are wanted.
    pub(super) selected: DeviceBuffer<i32>,
    pub(super) tables: DeviceBuffer<i32>,
    pub(super) tasks: Vec<DeviceBuffer<i32>>,
}

/// A row whose logits are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) slot: SlotId,
    pub(super) purpose: Purpose,
}

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Draw the next token on the GPU.
    Draw,
    /// Draw the next token on the host, which knows what the GPU does not.
    DrawOnHost,
    /// Tell the log-probability of the prompt's next token.
    Prompt(TokenId),
}

/// Words of a [`SampleRow`].
const SAMPLE_WORDS: usize = size_of::<SampleRow>() / 4;
/// Sections begin at multiples of this many words, so that kernels may read four at once.
const ALIGNMENT: usize = 4;

impl Batch {
    /// Packs a plan whose slots are admitted.
    ///
    /// # Panics
    /// If the plan names a slot that was not admitted, or positions of which no token is known or being drawn.
    pub(super) fn new(plan: &StepPlan, slots: &Slots, planner: &Planner) -> Self {
        let rows = plan.token_count();
        let (mut tokens, mut positions) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let (mut places, mut tables) = (Vec::with_capacity(rows), Vec::new());
        let (mut selected, mut outputs, mut sample) = (Vec::new(), Vec::new(), Vec::new());
        let mut sequences = Vec::with_capacity(plan.items.len());
        for item in &plan.items {
            let slot = slots.get(item.slot);
            let [table] = &item.block_tables[..] else {
                panic!("a plan for {} cache groups; this model has one", item.block_tables.len());
            };
            let range = item.positions.start as usize..item.positions.end as usize;
            let first_row = tokens.len();
            for position in range.clone() {
                tokens.push(token_source(slot, item.slot, position));
                positions.push(position as i32);
                let block = table[position / BLOCK_TOKENS].0 as usize;
                places.push((block * BLOCK_TOKENS + position % BLOCK_TOKENS) as i32);
            }
            sequences.push(Sequence {
                row_first: first_row,
                row_count: range.len(),
                position_first: range.start,
                table_first: tables.len(),
            });
            tables.extend(table.iter().map(|block| block.0 as i32));
            let mut output = |row: usize, purpose| {
                selected.push(row as i32);
                sample.push(sample_row(&slot.sampling, item.slot, range.end));
                outputs.push(Output { slot: item.slot, purpose });
            };
            if slot.sampling.prompt_logprobs.is_some() {
                let last = range.end.min(slot.prompt_len - 1);
                for position in range.start..last {
                    let purpose = Purpose::Prompt(slot.tokens[position + 1]);
                    output(first_row + position - range.start, purpose);
                }
            }
            if item.sample {
                let purpose = if needs_host(slot) { Purpose::DrawOnHost } else { Purpose::Draw };
                output(tokens.len() - 1, purpose);
            }
        }
        let tasks = planner.plan(&sequences);
        let mut words: Vec<i32> = Vec::with_capacity(4 * rows + tables.len() + 1024);
        let mut section = |values: &[i32]| {
            let first = words.len();
            words.extend_from_slice(values);
            words.resize(words.len().next_multiple_of(ALIGNMENT), 0);
            first
        };
        let sample: Vec<i32> = sample.iter().flat_map(sample_words).collect();
        let sections = Sections {
            sample: section(&sample),
            tokens: section(&tokens),
            positions: section(&positions),
            places: section(&places),
            selected: section(&selected),
            tables: section(&tables),
            tasks: tasks.iter().map(|tasks| section(tasks.words())).collect(),
        };
        Self { words, rows, outputs, tasks, sections }
    }

    /// Where the sections are in a buffer to which the words are copied.
    pub(super) fn views(&self, buffer: &DeviceBuffer<i32>) -> BatchViews {
        let &Sections { sample, tokens, positions, places, selected, tables, ref tasks } =
            &self.sections;
        let task_words =
            |(&first, tasks): (&usize, &TaskList)| buffer.slice(first..first + tasks.words().len());
        let outputs = self.outputs.len();
        BatchViews {
            sample: buffer.slice(sample..sample + outputs * SAMPLE_WORDS).cast(),
            tokens: buffer.slice(tokens..tokens + self.rows),
            positions: buffer.slice(positions..positions + self.rows),
            places: buffer.slice(places..places + self.rows),
            selected: buffer.slice(selected..selected + outputs),
            tables: buffer.slice(tables..tasks[0]),
            tasks: tasks.iter().zip(&self.tasks).map(task_words).collect(),
        }
    }

    /// Whether the host has to see logits of this step.
    pub(super) fn needs_host(&self) -> bool {
        self.outputs.iter().any(|output| output.purpose != Purpose::Draw)
    }
}

/// Words that a batch can have at most.
pub(super) fn words_max(rows: usize, slots: usize, pages: usize, windows: usize) -> usize {
    // Prompts whose log-probabilities are wanted have an output for each row.
    let per_row = 4 + SAMPLE_WORDS;
    let tasks = windows * (TaskList::words_max(rows, slots, pages) + ALIGNMENT);
    rows * per_row + slots * SAMPLE_WORDS + pages + tasks + 6 * ALIGNMENT
}

/// The token of a position, or the place where the one that is being drawn will be.
fn token_source(slot: &Slot, id: SlotId, position: usize) -> i32 {
    assert!(position <= slot.tokens.len(), "position {position} of {id} is too far ahead");
    slot.tokens.get(position).map_or(-1 - id.0 as i32, |&token| token as i32)
}

/// Whether only the host can draw this request's tokens.
pub(super) fn needs_host(slot: &Slot) -> bool {
    let sampling = &slot.sampling;
    slot.occurrences.is_some()
        || !sampling.logit_bias.is_empty()
        || sampling.logprobs.is_some()
        || sampling.typical_p < 1.0
        || (sampling.tokens_min > 0 && !sampling.stop_token_ids.is_empty())
}

fn sample_row(sampling: &SamplingParams, slot: SlotId, position: usize) -> SampleRow {
    let is_greedy = sampling.temperature == 0.0;
    SampleRow {
        seed: sampling.seed,
        position: position as u64,
        // Finite, so that the largest logit is 0 away from itself at any temperature.
        scale: if is_greedy { 0.0 } else { sampling.temperature.recip().min(f32::MAX) },
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        top_k: i32::try_from(sampling.top_k).unwrap_or(i32::MAX),
        slot: slot.0 as i32,
        unused: 0,
    }
}

fn sample_words(row: &SampleRow) -> [i32; SAMPLE_WORDS] {
    let halves = |value: u64| [value as i32, (value >> 32) as i32];
    let [seed, position] = [halves(row.seed), halves(row.position)];
    [
        seed[0],
        seed[1],
        position[0],
        position[1],
        row.scale.to_bits() as i32,
        row.top_p.to_bits() as i32,
        row.min_p.to_bits() as i32,
        row.top_k,
        row.slot,
        row.unused,
    ]
}
