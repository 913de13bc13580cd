//! A plan packed into what the kernels read, one row a position, the rows of a request side by side.

use std::{any::Any, sync::Arc};

use cuda::{
    DeviceBuffer, Gpu, PinnedBuffer, Stream,
    kernels::{
        BLOCK_TOKENS, LOGPROBS_MAX, SampleRow, TokenBias,
        attention::{Sequence, StepLimits, TaskList},
    },
};
use types::{SlotId, StepPlan, TokenId};

use super::{attention::Planner, slots::Slots, walk::padded_rows};
use crate::{Error, slot::Slot};

/// The numbers of a step.
pub(super) struct Batch {
    /// Rows computed: those of the plan, and some more that only fill a step up.
    pub(super) rows: usize,
    /// Whether each request has one row, and its token is drawn on the GPU. Steps of this kind with as many rows, and
    /// alike in whether they adjust, differ in nothing but their numbers.
    pub(super) is_decode: bool,
    /// Whether logits are changed before tokens are drawn, or log-probabilities are wanted.
    pub(super) adjusts: bool,
    /// Those of the plan.
    pub(super) outputs: Vec<Output>,
    /// Tasks of attention, one list for each window that layers have.
    pub(super) tasks: Vec<TaskList>,
    /// Of rows and outputs, as [`Inputs::views`] divides them.
    words: Vec<i32>,
    tables: Vec<i32>,
    /// Of all rows, as pairs of words.
    biases: Vec<i32>,
}

/// What rows that only fill a step up do: they draw for a slot, and write to a place, that no request has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filler {
    pub(super) slot: usize,
    pub(super) place: usize,
}

/// Memory on the GPU for the numbers of a step.
pub(super) struct Inputs {
    words: DeviceBuffer<i32>,
    tables: DeviceBuffer<i32>,
    biases: DeviceBuffer<i32>,
    tasks: Vec<DeviceBuffer<i32>>,
}

/// A step's numbers on the GPU.
pub(super) struct Views {
    pub(super) rows: usize,
    pub(super) sample: DeviceBuffer<SampleRow>,
    pub(super) biases: DeviceBuffer<TokenBias>,
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
    /// Log-probabilities of so many likely tokens are wanted, and that of the token.
    pub(super) logprobs: Option<u32>,
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
/// Biases and bans of a step at most, of all its requests together.
const BIASES_MAX: usize = 1 << 14;
/// Words of a [`TokenBias`].
const BIAS_WORDS: usize = size_of::<TokenBias>() / 4;
/// Kinds of numbers that each row has one of: its token, position and place.
const ROW_WORDS: usize = 3;

impl Batch {
    /// Packs a plan whose slots are admitted.
    ///
    /// # Panics
    /// If the plan names a slot that was not admitted, or positions of which no token is known or being drawn.
    pub(super) fn new(
        plan: &StepPlan,
        slots: &Slots,
        planner: &Planner,
        vocab_size: usize,
        filler: Filler,
    ) -> Self {
        let rows = plan.token_count();
        let (mut tokens, mut positions) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let (mut places, mut tables) = (Vec::with_capacity(rows), Vec::new());
        let (mut selected, mut outputs, mut sample) = (Vec::new(), Vec::new(), Vec::new());
        let mut sequences = Vec::with_capacity(plan.items.len());
        let (mut biases, mut adjusts) = (Vec::new(), false);
        for item in &plan.items {
            let slot = slots.get(item.slot);
            let [table] = &item.block_tables[..] else {
                panic!("a plan for {} cache groups; this model has one", item.block_tables.len());
            };
            let range = item.positions.start as usize..item.positions.end as usize;
            let row_first = tokens.len();
            for position in range.clone() {
                tokens.push(token_source(slot, item.slot, position));
                positions.push(position as i32);
                let block = table[position / BLOCK_TOKENS].0 as usize;
                places.push((block * BLOCK_TOKENS + position % BLOCK_TOKENS) as i32);
            }
            sequences.push(Sequence {
                row_first,
                row_count: range.len(),
                position_first: range.start,
                table_first: tables.len(),
            });
            tables.extend(table.iter().map(|block| block.0 as i32));
            let mut output = |row: usize, purpose| {
                selected.push(row as i32);
                let own = slots.biases(item.slot);
                let how = sample_row(slot, item.slot, range.end, own, (vocab_size, &mut biases));
                adjusts |= does_adjust(&how);
                sample.extend(words_of(&how));
                let logprobs = slot.sampling.logprobs;
                outputs.push(Output { slot: item.slot, purpose, logprobs });
            };
            if slot.sampling.prompt_logprobs.is_some() {
                let last = range.end.min(slot.prompt_len - 1);
                for position in range.start..last {
                    let purpose = Purpose::Prompt(slot.tokens[position + 1]);
                    output(row_first + position - range.start, purpose);
                }
            }
            if item.sample {
                let purpose = if needs_host(slot) { Purpose::DrawOnHost } else { Purpose::Draw };
                output(tokens.len() - 1, purpose);
            }
        }
        let draws = |output: &Output| output.purpose == Purpose::Draw;
        let is_decode =
            rows == plan.items.len() && rows == outputs.len() && outputs.iter().all(draws);
        let rows = if is_decode { step_rows(rows) } else { rows };
        while tokens.len() < rows {
            selected.push(tokens.len() as i32);
            tokens.push(0);
            positions.push(0);
            places.push(filler.place as i32);
            sample.extend(words_of(&SampleRow::greedy(filler.slot as i32)));
        }
        let words = [sample, tokens, positions, places, selected].concat();
        let tasks = planner.plan(&sequences, rows);
        Self { rows, is_decode, adjusts, outputs, tasks, words, tables, biases }
    }

    /// Rows whose logits are wanted, those that only fill a step up included.
    pub(super) fn output_rows(&self) -> usize {
        if self.is_decode { self.rows } else { self.outputs.len() }
    }

    /// Copies everything to the GPU, by way of pinned memory.
    pub(super) fn upload(
        &self,
        stream: &Stream,
        pinned: &mut PinnedBuffer<i32>,
        inputs: &Inputs,
    ) -> Result<(), Error> {
        let mut first = 0;
        let mut copy = |words: &[i32], to: &DeviceBuffer<i32>| {
            pinned[first..first + words.len()].copy_from_slice(words);
            stream.upload(pinned, first, &to.slice(0..words.len()))?;
            first += words.len();
            Ok::<_, Error>(())
        };
        copy(&self.words, &inputs.words)?;
        copy(&self.tables, &inputs.tables)?;
        copy(&self.biases, &inputs.biases)?;
        for (tasks, to) in self.tasks.iter().zip(&inputs.tasks) {
            copy(tasks.words(), to)?;
        }
        Ok(())
    }
}

impl Inputs {
    /// Memory for steps within the limits, with so many entries of block tables.
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        planner: &Planner,
        limits: StepLimits,
        table_entries: usize,
    ) -> Result<Self, Error> {
        let buffer = |words| DeviceBuffer::new(gpu, words, "the plans of steps");
        // Prompts whose log-probabilities are wanted have an output for each row.
        let words = limits.rows * (ROW_WORDS + 1 + SAMPLE_WORDS);
        let task_words = planner.words_max(limits);
        let tasks: Result<_, _> = (0..planner.lists()).map(|_| buffer(task_words)).collect();
        Ok(Self {
            words: buffer(words)?,
            tables: buffer(table_entries)?,
            biases: buffer(BIAS_WORDS * BIASES_MAX)?,
            tasks: tasks?,
        })
    }

    /// Words that the host has for a step at most.
    pub(super) fn words(&self) -> usize {
        let tasks: usize = self.tasks.iter().map(DeviceBuffer::len).sum();
        self.words.len() + self.tables.len() + self.biases.len() + tasks
    }

    /// Where the numbers of a step with so many rows and outputs are.
    pub(super) fn views(&self, rows: usize, outputs: usize) -> Views {
        let mut first = 0;
        let mut section = |len: usize| {
            first += len;
            self.words.slice(first - len..first)
        };
        Views {
            rows,
            // It has numbers of eight bytes, so it comes first.
            sample: section(outputs * SAMPLE_WORDS).cast(),
            tokens: section(rows),
            positions: section(rows),
            places: section(rows),
            selected: section(outputs),
            biases: self.biases.clone().cast(),
            tables: self.tables.clone(),
            tasks: self.tasks.clone(),
        }
    }

    /// The same memory, to be kept by whoever uses it.
    pub(super) fn buffers(&self) -> impl Any + Send + Sync + use<> {
        (self.words.clone(), self.tables.clone(), self.biases.clone(), self.tasks.clone())
    }
}

/// Rows of a step in which each request has one: few different ones, so that each can be recorded.
fn step_rows(rows: usize) -> usize {
    /// Up to here a row costs more than a graph.
    const EXACT_MAX: usize = 8;
    if rows <= EXACT_MAX { rows } else { padded_rows(rows) }
}

/// The token of a position, or the place where the one that is being drawn will be.
fn token_source(slot: &Slot, id: SlotId, position: usize) -> i32 {
    assert!(position <= slot.tokens.len(), "position {position} of {id} is too far ahead");
    slot.tokens.get(position).map_or(-1 - id.0 as i32, |&token| token as i32)
}

/// Whether the host has to see logits of a step. It then draws all of its tokens, and has to know those of the steps
/// before.
pub(super) fn step_needs_host(plan: &StepPlan, slots: &Slots) -> bool {
    let mut biases = 0;
    plan.items.iter().any(|item| {
        let slot = slots.get(item.slot);
        let sampling = &slot.sampling;
        let is_in_prompt = (item.positions.start as usize) + 1 < slot.prompt_len;
        if item.sample {
            biases += sampling.logit_bias.len() + sampling.stop_token_ids.len();
        }
        (item.sample && needs_host(slot))
            || (is_in_prompt && sampling.prompt_logprobs.is_some())
            || biases > BIASES_MAX
    })
}

/// Whether only the host can draw this request's tokens.
fn needs_host(slot: &Slot) -> bool {
    let sampling = &slot.sampling;
    sampling.typical_p < 1.0 || sampling.logprobs.is_some_and(|count| count as usize > LOGPROBS_MAX)
}

/// How the token at a position is drawn. Appends its `own` biases and its bans to those of the step.
fn sample_row(
    slot: &Slot,
    id: SlotId,
    position: usize,
    own: &[(TokenId, f32)],
    (vocab_size, biases): (usize, &mut Vec<i32>),
) -> SampleRow {
    let sampling = &slot.sampling;
    let is_greedy = sampling.temperature == 0.0;
    let is_token = |token: TokenId| (token as usize) < vocab_size;
    let bias_first = biases.len() / BIAS_WORDS;
    // Tokens of steps under way are not known yet, but their number is.
    let is_stop_banned = position < slot.prompt_len + sampling.tokens_min as usize;
    let bans = sampling.stop_token_ids.iter().filter(|&&token| is_stop_banned && is_token(token));
    let mut append = |token: TokenId, bias: f32| {
        biases.extend([token as i32, bias.to_bits() as i32]);
    };
    own.iter().for_each(|&(token, bias)| append(token, bias));
    let ban_count = bans.map(|&token| append(token, 0.0)).count();
    SampleRow {
        seed: sampling.seed,
        position: position as u64,
        // Finite, so that the largest logit is 0 away from itself at any temperature.
        scale: if is_greedy { 0.0 } else { sampling.temperature.recip().min(f32::MAX) },
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        top_k: i32::try_from(sampling.top_k).unwrap_or(i32::MAX),
        repetition: sampling.repetition_penalty,
        presence: sampling.presence_penalty,
        frequency: sampling.frequency_penalty,
        logprobs: sampling.logprobs.map_or(-1, |count| count.min(LOGPROBS_MAX as u32) as i32),
        bias_first: bias_first as i32,
        bias_count: own.len() as i32,
        ban_count: ban_count as i32,
        slot: id.0 as i32,
    }
}

/// Whether logits are changed before the draw, or reported.
fn does_adjust(row: &SampleRow) -> bool {
    let is_penalised = row.repetition != 1.0 || row.presence != 0.0 || row.frequency != 0.0;
    is_penalised || row.logprobs >= 0 || row.bias_count + row.ban_count > 0
}

/// A [`SampleRow`] as words.
fn words_of(row: &SampleRow) -> [i32; SAMPLE_WORDS] {
    let halves = |value: u64| [value as i32, (value >> 32) as i32];
    let [seed, position] = [halves(row.seed), halves(row.position)];
    let bits = |value: f32| value.to_bits() as i32;
    [
        seed[0],
        seed[1],
        position[0],
        position[1],
        bits(row.scale),
        bits(row.top_p),
        bits(row.min_p),
        row.top_k,
        bits(row.repetition),
        bits(row.presence),
        bits(row.frequency),
        row.logprobs,
        row.bias_first,
        row.bias_count,
        row.ban_count,
        row.slot,
    ]
}

#[cfg(test)]
mod tests {
    use std::{ops::Range, sync::Arc};

    use types::{SamplingParams, SlotAdmission, StepId, WorkItem};

    use super::*;
    use crate::cuda::slots::merged_biases;

    /// Whether a step with these positions of a prompt of ten tokens needs the host, a plain neighbour beside it.
    fn needs(sampling: SamplingParams, positions: Range<u32>, sample: bool) -> bool {
        let mut slots = Slots::new(2, 50);
        for (slot, sampling) in [(0, SamplingParams::greedy()), (1, sampling)] {
            slots.admit(SlotAdmission {
                slot: SlotId(slot),
                tokens: vec![1; 10],
                prompt_len: 10,
                sampling: Arc::new(sampling),
            });
        }
        let item = |slot, positions, sample| WorkItem {
            slot: SlotId(slot),
            positions,
            draft: Vec::new(),
            block_tables: vec![Vec::new()],
            sample,
            gives_way: false,
        };
        let items = vec![item(0, 9..10, true), item(1, positions, sample)];
        let (release, admit, copies) = (Vec::new(), Vec::new(), Vec::new());
        let plan =
            StepPlan { id: StepId(0), release, admit, copies, state_copies: Vec::new(), items };
        step_needs_host(&plan, &slots)
    }

    #[test]
    fn a_step_needs_the_host_for_what_it_computes_and_not_for_what_comes_later() {
        let greedy = SamplingParams::greedy;
        assert!(!needs(greedy(), 0..10, true));
        let many_logprobs = SamplingParams { logprobs: Some(21), ..greedy() };
        assert!(needs(many_logprobs.clone(), 0..10, true));
        assert!(!needs(many_logprobs, 0..5, false), "nothing is drawn yet");
        let typical = SamplingParams { typical_p: 0.5, ..greedy() };
        assert!(needs(typical, 9..10, true));
        let on_gpu = SamplingParams {
            presence_penalty: 0.5,
            logprobs: Some(20),
            logit_bias: vec![(3, 1.0)],
            tokens_min: 5,
            stop_token_ids: vec![2],
            ..greedy()
        };
        assert!(!needs(on_gpu, 9..10, true));
        let biases = SamplingParams { logit_bias: vec![(3, 1.0); BIASES_MAX + 1], ..greedy() };
        assert!(needs(biases, 9..10, true), "more than there is room for");
        let prompt_logprobs = SamplingParams { prompt_logprobs: Some(0), ..greedy() };
        assert!(needs(prompt_logprobs.clone(), 0..5, false), "in the middle of the prompt");
        assert!(needs(prompt_logprobs.clone(), 8..10, true));
        assert!(!needs(prompt_logprobs, 9..10, true), "no token of the prompt follows");
    }

    #[test]
    fn biases_name_known_tokens_once_and_bans_end_with_the_least_length() {
        let sampling = SamplingParams {
            logit_bias: vec![(7, 1.0), (99, 1.0), (3, -2.0), (7, 0.5)],
            tokens_min: 2,
            stop_token_ids: vec![5, 77],
            ..SamplingParams::greedy()
        };
        let slot = Slot::new(SlotAdmission {
            slot: SlotId(4),
            tokens: vec![1; 10],
            prompt_len: 10,
            sampling: Arc::new(sampling),
        });
        let own = merged_biases(&slot.sampling, 50);
        let mut biases = vec![0, 0];
        let words = |token: i32, bias: f32| [token, bias.to_bits() as i32];
        let row = sample_row(&slot, SlotId(4), 11, &own, (50, &mut biases));
        assert_eq!((row.bias_first, row.bias_count, row.ban_count), (1, 2, 1));
        assert_eq!(biases, [words(0, 0.0), words(3, -2.0), words(7, 1.5), words(5, 0.0)].concat());
        assert!(does_adjust(&row));
        let row = sample_row(&slot, SlotId(4), 12, &own, (50, &mut biases));
        assert_eq!((row.bias_first, row.bias_count, row.ban_count), (4, 2, 0), "two are out");
    }
}
