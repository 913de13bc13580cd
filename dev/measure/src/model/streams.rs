//! Requests side by side in a runner, step by step, without a scheduler: what is timed is the runner alone.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use types::{
    BlockId, CacheGroup, Executor, SamplingParams, SlotAdmission, SlotId, StepId, StepOutcome,
    StepPlan, TokenId, WorkItem,
};

/// Requests that run together, each in a slot with blocks of its own.
pub(crate) struct Streams<'r, E> {
    runner: &'r mut E,
    admit: Vec<SlotAdmission>,
    streams: Vec<Stream>,
    step: u64,
}

#[derive(Clone, Copy)]
struct Stream {
    /// Positions computed.
    computed: u32,
    /// Tokens there are.
    tokens: u32,
}

/// What came of a step.
pub(crate) struct Stepped {
    /// How long it took.
    pub(crate) seconds: f64,
    /// What the runner says.
    pub(crate) outcome: StepOutcome,
}

impl<'r, E: Executor> Streams<'r, E> {
    /// Requests with these prompts, to be begun by the first step.
    pub(crate) fn new(
        runner: &'r mut E,
        prompts: Vec<Vec<TokenId>>,
        sampling: &SamplingParams,
    ) -> Self {
        let stream = |prompt: &Vec<TokenId>| Stream { computed: 0, tokens: prompt.len() as u32 };
        let streams = prompts.iter().map(stream).collect();
        let admission = |(slot, tokens): (usize, Vec<TokenId>)| {
            let seed = slot as u64;
            SlotAdmission {
                slot: SlotId(slot as u32),
                prompt_len: tokens.len() as u32,
                tokens,
                sampling: Arc::new(SamplingParams { seed, ..sampling.clone() }),
            }
        };
        let admit = prompts.into_iter().enumerate().map(admission).collect();
        Self { runner, admit, streams, step: 0 }
    }

    /// Runs a step: of each request in turn all positions that wait, as far as the runner's budget goes.
    pub(crate) fn step(&mut self) -> Result<Stepped> {
        let plan = self.plan();
        self.run(plan)
    }

    /// Begins a step, without waiting for it.
    pub(crate) fn submit(&mut self) -> Result<()> {
        let plan = self.plan();
        self.step += 1;
        Ok(self.runner.submit(plan)?)
    }

    fn plan(&mut self) -> StepPlan {
        let info = self.runner.info();
        let mut budget = info.step_tokens_max;
        let mut items = Vec::with_capacity(self.streams.len());
        for (slot, stream) in self.streams.iter_mut().enumerate() {
            let count = (stream.tokens - stream.computed).min(budget);
            if count == 0 {
                continue;
            }
            budget -= count;
            let positions = stream.computed..stream.computed + count;
            stream.computed = positions.end;
            let sample = positions.end == stream.tokens;
            stream.tokens += u32::from(sample);
            let table = |group: &CacheGroup| {
                let first = slot as u32 * (group.blocks / info.slots_max);
                (first..first + group.blocks_for(positions.end)).map(BlockId).collect()
            };
            let block_tables = info.cache_groups.iter().map(table).collect();
            let slot = SlotId(slot as u32);
            items.push(WorkItem {
                slot,
                positions,
                draft: Vec::new(),
                block_tables,
                sample,
                gives_way: false,
            });
        }
        let admit = std::mem::take(&mut self.admit);
        StepPlan {
            id: StepId(self.step),
            release: Vec::new(),
            admit,
            copies: Vec::new(),
            state_copies: Vec::new(),
            items,
        }
    }

    /// Whether a request still has positions of its prompt to compute.
    pub(crate) fn is_in_prompts(&self) -> bool {
        self.streams
            .iter()
            .any(|stream| stream.tokens - stream.computed > 1 || stream.computed == 0)
    }

    /// Steps until all prompts are computed. The first token of each request is drawn then.
    pub(crate) fn finish_prompts(&mut self) -> Result<()> {
        while self.is_in_prompts() {
            self.step()?;
        }
        Ok(())
    }

    /// What runs them.
    pub(crate) fn runner(&mut self) -> &mut E {
        self.runner
    }

    /// Gives the slots back.
    pub(crate) fn end(mut self) -> Result<()> {
        let release = (0..self.streams.len() as u32).map(SlotId).collect();
        let id = StepId(self.step);
        self.run(StepPlan {
            id,
            release,
            admit: Vec::new(),
            copies: Vec::new(),
            state_copies: Vec::new(),
            items: Vec::new(),
        })?;
        Ok(())
    }

    fn run(&mut self, plan: StepPlan) -> Result<Stepped> {
        self.step += 1;
        let begun = Instant::now();
        self.runner.submit(plan)?;
        let outcome = self.runner.wait()?;
        let seconds = begun.elapsed().as_secs_f64();
        ensure!(outcome.failed.is_empty(), "requests failed: {:?}", outcome.failed);
        Ok(Stepped { seconds, outcome })
    }
}

/// A prompt of any length, another for each stream.
pub(crate) fn prompt(vocab_size: usize, stream: usize, len: usize) -> Vec<TokenId> {
    (0..len).map(|place| ((place * 37 + stream * 101 + 10) % vocab_size) as TokenId).collect()
}
