//! Drives a runner by hand: plans made directly, without a scheduler, so that what a test varies is exactly what it
//! says.

use std::sync::Arc;

use types::{
    Arrivals, BlockId, CacheGroup, Executor, SamplingParams, SlotAdmission, SlotId, StepId,
    StepOutcome, StepPlan, TokenId, TokenLogprobs, WorkItem,
};

/// One sequence to generate.
#[derive(Clone)]
pub struct Job {
    /// Tokens to start from.
    pub prompt: Vec<TokenId>,
    /// Tokens to generate.
    pub count: usize,
    /// How they are drawn.
    pub sampling: SamplingParams,
}

/// What came of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// The tokens drawn.
    pub tokens: Vec<TokenId>,
    /// Their log-probabilities, where asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Those of the prompt.
    pub prompt_logprobs: Vec<TokenLogprobs>,
}

/// Circumstances that must make no difference.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Most positions of one request in a step.
    pub chunk: usize,
    /// Preempt every request when it has this many tokens of output.
    pub preempt_after: Option<usize>,
    /// Hand blocks out from the end of the pool.
    pub blocks_backwards: bool,
    /// Somebody new comes in every second step, and parts of prompts give way.
    pub giving_way: bool,
}

impl Default for Circumstances {
    fn default() -> Self {
        Self { chunk: usize::MAX, preempt_after: None, blocks_backwards: false, giving_way: false }
    }
}

struct Running {
    job: Job,
    slot: SlotId,
    tokens: Vec<TokenId>,
    computed: usize,
    preempted: bool,
    generated: Generated,
}

/// Runs all jobs together, each in a slot of its own.
///
/// # Panics
/// If the runner fails, or the jobs do not fit it.
pub fn run(
    runner: &mut impl Executor,
    jobs: &[Job],
    circumstances: Circumstances,
) -> Vec<Generated> {
    let info = runner.info().clone();
    let mut running: Vec<Running> = jobs
        .iter()
        .enumerate()
        .map(|(index, job)| Running {
            job: job.clone(),
            slot: SlotId(index as u32),
            tokens: job.prompt.clone(),
            computed: 0,
            preempted: false,
            generated: Generated::default(),
        })
        .collect();
    let mut admit: Vec<SlotAdmission> = running.iter().map(admission).collect();
    let mut release = Vec::new();
    let arrivals = Arc::<Arrivals>::default();
    runner.watch(Arc::clone(&arrivals));
    for step in 0.. {
        let mut budget = info.step_tokens_max as usize;
        let mut items = Vec::new();
        for request in running.iter().filter(|request| !request.is_done()) {
            let missing = request.tokens.len() - request.computed;
            let count = missing.min(circumstances.chunk).min(budget);
            if count == 0 {
                continue;
            }
            budget -= count;
            let end = request.computed + count;
            let table = |group: &CacheGroup| {
                let first = request.slot.0 * (group.blocks / info.slots_max);
                let blocks = first..first + group.blocks_for(end as u32);
                let backwards = |block| group.blocks - 1 - block;
                let id =
                    |block| if circumstances.blocks_backwards { backwards(block) } else { block };
                blocks.map(|block| BlockId(id(block))).collect()
            };
            items.push(WorkItem {
                slot: request.slot,
                positions: request.computed as u32..end as u32,
                draft: Vec::new(),
                block_tables: info.cache_groups.iter().map(table).collect(),
                sample: end == request.tokens.len(),
                gives_way: circumstances.giving_way
                    && end < request.tokens.len()
                    && request.job.sampling.prompt_logprobs.is_none(),
            });
        }
        if items.is_empty() {
            break;
        }
        // Next tokens as well now and then, where nothing else is in the step.
        let can_give_way = |item: &WorkItem| item.gives_way || item.positions.len() == 1;
        if step % 4 == 0 && circumstances.giving_way && items.iter().all(can_give_way) {
            items.iter_mut().for_each(|item| item.gives_way = true);
        }
        items.sort_by_key(|item| item.gives_way);
        let mut ends: Vec<(SlotId, usize)> =
            items.iter().map(|item| (item.slot, item.positions.end as usize)).collect();
        let plan = StepPlan {
            id: StepId(step),
            release: std::mem::take(&mut release),
            admit: std::mem::take(&mut admit),
            copies: Vec::new(),
            state_copies: Vec::new(),
            items,
        };
        let giving_way = plan.items_giving_way();
        let is_interrupted = circumstances.giving_way && step % 2 == 0;
        if is_interrupted {
            arrivals.send();
        }
        runner.submit(plan).expect("the runner takes the plan");
        let outcome = runner.wait().expect("the step succeeds");
        if is_interrupted {
            arrivals.notice();
        }
        assert_eq!(outcome.failed, []);
        let left_out = outcome.left_out as usize;
        assert_eq!(left_out, if is_interrupted { giving_way } else { 0 });
        ends.truncate(ends.len() - left_out);
        for (slot, end) in ends {
            running[slot.0 as usize].computed = end;
        }
        fold(&mut running, outcome);
        for request in &mut running {
            let due = circumstances
                .preempt_after
                .is_some_and(|after| request.generated.tokens.len() == after);
            if due && !request.preempted && !request.is_done() {
                request.preempted = true;
                request.computed = 0;
                request.generated.prompt_logprobs.clear();
                release.push(request.slot);
                admit.push(admission(request));
            }
        }
    }
    runner
        .submit(StepPlan {
            id: StepId(u64::MAX),
            release: running.iter().map(|request| request.slot).collect(),
            admit: Vec::new(),
            copies: Vec::new(),
            state_copies: Vec::new(),
            items: Vec::new(),
        })
        .and_then(|()| runner.wait())
        .expect("releasing succeeds");
    running.into_iter().map(|request| request.generated).collect()
}

impl Running {
    fn is_done(&self) -> bool {
        self.generated.tokens.len() == self.job.count
    }
}

fn admission(request: &Running) -> SlotAdmission {
    SlotAdmission {
        slot: request.slot,
        tokens: request.tokens.clone(),
        prompt_len: request.job.prompt.len() as u32,
        sampling: Arc::new(request.job.sampling.clone()),
    }
}

fn fold(running: &mut [Running], outcome: StepOutcome) {
    for (slot, logprobs) in outcome.prompt_logprobs {
        running[slot.0 as usize].generated.prompt_logprobs.extend(logprobs);
    }
    for sampled in outcome.sampled {
        let request = &mut running[sampled.slot.0 as usize];
        request.tokens.push(sampled.token);
        request.generated.tokens.push(sampled.token);
        request.generated.logprobs.extend(sampled.logprobs);
    }
}
