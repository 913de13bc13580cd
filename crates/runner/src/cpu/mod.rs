//! The executor for CPUs. A step runs on the caller's thread and the pool's: `submit` computes, `wait` hands over.

mod batch;
mod groups;
mod memory;
mod profile;
mod walk;

pub use profile::{Profile, Work};

use std::{collections::VecDeque, sync::Arc};

use device::cpu::{Cpu, Isa};
use kernels::attention::KvFormat;
use models::Model;
use types::{
    Arrivals, Executor, ExecutorInfo, Fault, MemoryReport, SampledToken, SlotId, StepOutcome,
    StepPlan, TokenLogprobs, WorkItem,
};

use self::{
    batch::{Batch, Output, Purpose, TaskShape},
    memory::MemoryPlan,
    walk::{Step, Walker},
};
use crate::{
    Error,
    sampling::{sample, token_logprobs},
    slot::Slot,
};

/// Limits of a runner.
#[derive(Clone, Debug)]
pub struct RunnerOptions {
    /// Most positions in one step.
    pub step_tokens_max: u32,
    /// Most requests at once.
    pub slots_max: u32,
    /// Most positions in a request; the model's own limit if absent.
    pub context_max: Option<u32>,
    /// Memory for the KV cache.
    pub kv_budget: KvBudget,
    /// How much of that memory is taken from the system so that what is cached can be kept; more only as running
    /// requests need it. Twice the weights if absent.
    pub prefix_cache_bytes: Option<u64>,
    /// Memory for what made room in the KV cache. On a CPU it is of the same kind, and 0 is the sensible choice; a tier
    /// works here nevertheless, as it does where it is of use.
    pub host_cache_bytes: u64,
    /// How keys and values are stored.
    pub kv_format: KvFormat,
}

/// Memory for the KV cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KvBudget {
    /// This many bytes.
    Bytes(u64),
    /// This part of what is free when the runner is built.
    FractionOfFree(f64),
}

/// Runs plans on a CPU.
pub struct CpuRunner {
    cpu: Arc<Cpu>,
    model: Arc<Model>,
    info: ExecutorInfo,
    memory: MemoryReport,
    output_rows: usize,
    walker: Walker,
    slots: Slots,
    outcomes: VecDeque<StepOutcome>,
    arrivals: Arc<Arrivals>,
}

/// Requests by slot.
struct Slots(Vec<Option<Slot>>);

impl Slots {
    fn get(&self, slot: SlotId) -> &Slot {
        self.0[slot.0 as usize].as_ref().expect("the plan admitted this slot")
    }

    fn get_mut(&mut self, slot: SlotId) -> &mut Slot {
        self.0[slot.0 as usize].as_mut().expect("the plan admitted this slot")
    }
}

/// A step of which all but one of so many parts is done is brought to its end, whoever comes.
const DONE_PARTS: usize = 8;
/// Drafts are no longer than this: the rest of one is hardly ever right.
const DRAFT_TOKENS_MAX: u32 = 16;

/// What came of one output.
enum Computed {
    Sampled(Result<SampledToken, Fault>),
    Prompt(Result<TokenLogprobs, Fault>),
    /// A draft was wrong before it.
    Vain,
}

/// Outputs that one thread computes, with their logits.
struct Job<'a> {
    outputs: &'a [Output],
    logits: &'a mut [f32],
    /// With a draft, the tokens of a request are drawn one after the other, each after those before it.
    drafted: Option<Slot>,
    computed: Vec<Computed>,
}

impl CpuRunner {
    /// Allocates everything a model needs to run within the limits.
    pub fn new(cpu: Arc<Cpu>, model: Arc<Model>, options: &RunnerOptions) -> Result<Self, Error> {
        let memory = MemoryPlan::new(&model, options)?;
        let walker = Walker::new(&model.program, &memory);
        let info = ExecutorInfo {
            cache_groups: memory.cache_groups.clone(),
            step_tokens_max: options.step_tokens_max,
            slots_max: options.slots_max,
            context_max: memory.context_max,
            vocab_size: model.spec.vocab_size as u32,
            steps_in_flight_max: 1,
            draft_tokens_max: DRAFT_TOKENS_MAX,
        };
        let report = MemoryReport {
            weights_bytes: model.program.weight_bytes(),
            kv_bytes: walker.kv_bytes(),
            host_kv_bytes: walker.host_kv_bytes(),
            workspace_bytes: memory.workspace_bytes(&model.program),
        };
        Ok(Self {
            cpu,
            model,
            memory: report,
            output_rows: memory.output_rows,
            walker,
            slots: Slots((0..options.slots_max).map(|_| None).collect()),
            outcomes: VecDeque::new(),
            arrivals: Arc::default(),
            info,
        })
    }

    /// Takes the times of steps from here on.
    pub fn start_profile(&mut self) {
        self.walker.profiler.start();
    }

    /// Where the time of steps went since the profile was started; takes no more times.
    pub fn finish_profile(&mut self) -> Profile {
        self.walker.profiler.finish()
    }

    /// Computes a plan's outputs, a few rows of logits at a time.
    fn outputs(&mut self, plan: &StepPlan, batch: &Batch) -> Vec<Computed> {
        let cpu = &*self.cpu;
        let (spec, program) = (&self.model.spec, &self.model.program);
        let step = Step { cpu, spec, program, batch };
        let mut computed = Vec::with_capacity(batch.outputs.len());
        for outputs in batch.outputs.chunks(self.output_rows) {
            let rows: Vec<usize> = outputs.iter().map(|output| output.row).collect();
            self.walker.head(step, &rows);
            let begun = self.walker.profiler.now();
            let mut logits = &mut self.walker.floats[program.logits.0][..];
            let mut jobs = Vec::with_capacity(outputs.len());
            let is_one_job = |one: &Output, other: &Output| {
                one.item == other.item && !plan.items[one.item].draft.is_empty()
            };
            for outputs in outputs.chunk_by(is_one_job) {
                let (own, rest) = logits.split_at_mut(outputs.len() * spec.vocab_size);
                logits = rest;
                let item = &plan.items[outputs[0].item];
                let place = &mut self.slots.0[item.slot.0 as usize];
                let drafted = if item.draft.is_empty() { None } else { place.take() };
                jobs.push(Job { outputs, logits: own, drafted, computed: Vec::new() });
            }
            let slots = &self.slots;
            // One row alone is left to one thread: the largest of 50,000 logits is found in about the time that a round
            // of the pool takes, and all else is next to nothing beside the step.
            cpu.pool.for_each(&mut jobs, |_, job| {
                let Job { outputs, logits, drafted, computed } = job;
                let item = &plan.items[outputs[0].item];
                for (output, logits) in outputs.iter().zip(logits.chunks_mut(spec.vocab_size)) {
                    computed.push(match drafted {
                        Some(slot) => drawn_after_draft(cpu.isa, item, slot, output, logits),
                        None => single(cpu.isa, slots.get(item.slot), item.slot, output, logits),
                    });
                }
            });
            for Job { outputs, drafted, computed: of_job, .. } in jobs {
                if drafted.is_some() {
                    self.slots.0[plan.items[outputs[0].item].slot.0 as usize] = drafted;
                }
                computed.extend(of_job);
            }
            self.walker.profiler.count(begun, || Work::Sampling);
        }
        computed
    }

    /// Computes all positions of a step; leaves out what gives way when somebody new comes while most of the work is
    /// still to be done. It is taken off the plan then. How many items that were.
    fn body(&mut self, plan: &mut StepPlan, batch: &mut Batch, shape: TaskShape) -> u32 {
        let (cpu, spec, program) = (&*self.cpu, &self.model.spec, &self.model.program);
        let giving_way = plan.items_giving_way();
        let mut left_out = 0;
        self.walker.begin(Step { cpu, spec, program, batch });
        for (index, op) in program.body.iter().enumerate() {
            let is_early = index * DONE_PARTS < program.body.len() * (DONE_PARTS - 1);
            if left_out < giving_way && is_early && self.arrivals.is_anyone_new() {
                left_out = giving_way;
                plan.items.truncate(plan.items.len() - giving_way);
                if plan.items.is_empty() {
                    break;
                }
                // What is left are the first rows.
                *batch = Batch::new(plan, &self.slots, shape);
            }
            self.walker.run(Step { cpu, spec, program, batch }, op, batch.rows(), &[]);
        }
        left_out as u32
    }

    fn outcome(&mut self, plan: &mut StepPlan) -> StepOutcome {
        let mut outcome = StepOutcome::empty(plan.id);
        if plan.items.is_empty() {
            return outcome;
        }
        let shape = TaskShape {
            groups: self.info.cache_groups.len(),
            heads: self.model.spec.heads,
            kv_heads: self.model.spec.kv_heads,
            threads: self.cpu.pool.threads(),
        };
        let mut batch = Batch::new(plan, &self.slots, shape);
        outcome.left_out = self.body(plan, &mut batch, shape);
        if plan.items.is_empty() {
            return outcome;
        }
        let computed = self.outputs(plan, &batch);
        for (output, computed) in batch.outputs.iter().zip(computed) {
            let slot = plan.items[output.item].slot;
            let has_failed = outcome.failed.last().is_some_and(|(failed, _)| *failed == slot);
            match computed {
                _ if has_failed => {}
                Computed::Vain => {}
                Computed::Sampled(Ok(sampled)) => {
                    if plan.items[output.item].draft.is_empty() {
                        self.slots.get_mut(slot).push(sampled.token);
                    }
                    outcome.sampled.push(sampled);
                }
                Computed::Prompt(Ok(logprobs)) => match outcome.prompt_logprobs.last_mut() {
                    Some((last, list)) if *last == slot => list.push(logprobs),
                    _ => outcome.prompt_logprobs.push((slot, vec![logprobs])),
                },
                Computed::Sampled(Err(fault)) | Computed::Prompt(Err(fault)) => {
                    outcome.prompt_logprobs.retain(|(other, _)| *other != slot);
                    outcome.sampled.retain(|sampled| sampled.slot != slot);
                    outcome.failed.push((slot, fault));
                }
            }
        }
        outcome
    }
}

/// What one output of an item without a draft gives.
fn single(isa: Isa, slot: &Slot, slot_id: SlotId, output: &Output, logits: &mut [f32]) -> Computed {
    match output.purpose {
        Purpose::Sample => {
            Computed::Sampled(sample(isa, logits, slot).map(|(token, logprobs)| SampledToken {
                slot: slot_id,
                token,
                logprobs,
            }))
        }
        Purpose::Prompt(token) => {
            let count = slot.sampling.prompt_logprobs.unwrap_or(0) as usize;
            Computed::Prompt(token_logprobs(isa, logits, token, count))
        }
    }
}

/// The token after the draft's first ones, if these were right, which is to say drawn themselves.
fn drawn_after_draft(
    isa: Isa,
    item: &WorkItem,
    slot: &mut Slot,
    output: &Output,
    logits: &mut [f32],
) -> Computed {
    let known = item.known().end as usize;
    let guessed = output.place;
    let drawn = slot.tokens.get(known..).unwrap_or_default();
    if drawn.len() != guessed || *drawn != item.draft[..guessed] {
        return Computed::Vain;
    }
    let computed = single(isa, slot, item.slot, output, logits);
    if let Computed::Sampled(Ok(sampled)) = &computed {
        slot.push(sampled.token);
    }
    computed
}

impl Executor for CpuRunner {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn submit(&mut self, mut plan: StepPlan) -> Result<(), Fault> {
        for slot in plan.release.drain(..) {
            self.slots.0[slot.0 as usize] = None;
        }
        for admission in plan.admit.drain(..) {
            let place = admission.slot.0 as usize;
            self.slots.0[place] = Some(Slot::new(admission));
        }
        let begun = self.walker.profiler.now();
        self.walker.copy(&self.cpu, &plan.copies);
        let outcome = self.outcome(&mut plan);
        self.walker.profiler.count_step(begun);
        self.outcomes.push_back(outcome);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutcome, Fault> {
        self.outcomes.pop_front().ok_or_else(|| Fault::internal("no step is under way"))
    }

    fn memory(&self) -> MemoryReport {
        self.memory
    }

    fn watch(&mut self, arrivals: Arc<Arrivals>) {
        self.arrivals = arrivals;
    }
}
