//! The executor for one NVIDIA GPU.
//!
//! `submit` packs a plan, copies it to the GPU and puts all kernels of the step into the stream; `wait` waits for the
//! tokens. Two steps may be under way: the host packs and launches one while the GPU computes the one before, whose
//! last tokens the next one reads in the GPU's memory.
//!
//! Tokens are drawn on the GPU, but for steps with a request that wants what its kernels do not do (typical sampling,
//! log-probabilities of a prompt or of more than 20 tokens): logits are copied to the host and drawn from by the same
//! code as on a CPU; `submit` waits for such a step.

mod attention;
mod batch;
mod host;
mod load;
mod memory;
mod profile;
mod slots;
mod staging;
mod walk;

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use ::cuda::{
    Event, Graph, Multiplier, PinnedBuffer,
    kernels::{BLOCK_TOKENS, Draw, Report, attention::StepLimits},
};
use device::cpu::Isa;
use types::{
    CacheGroup, Executor, ExecutorInfo, Fault, MemoryReport, SampledToken, StepId, StepOutcome,
    StepPlan, TokenId, TokenLogprobs,
};

use self::{
    attention::Planner,
    batch::{Batch, Filler, Inputs, Output, Purpose, Views, step_needs_host},
    host::{HostTier, staged_pairs},
    memory::{Workspace, block_bytes, caches},
    profile::Profiler,
    slots::{Admission, Slots},
    walk::Walker,
};
pub use self::{
    load::{CudaLoadOptions, CudaModel},
    profile::{CudaProfile, Family},
};
use crate::{
    Error,
    limits::Limits,
    sampling::{sample, token_logprobs},
};

/// Limits of a runner.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// Most positions in one step.
    pub step_tokens_max: u32,
    /// Most requests at once.
    pub slots_max: u32,
    /// Most positions in a request; the model's own limit if absent.
    pub context_max: Option<u32>,
    /// Memory for the KV cache.
    pub budget: GpuBudget,
    /// Memory of the host for what made room there, pinned.
    pub host_cache_bytes: u64,
    /// Measure ways to multiply at start, which takes a second.
    pub tune: bool,
}

/// Memory for the KV cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GpuBudget {
    /// This many bytes.
    Bytes(u64),
    /// What is left of this part of the GPU's memory after weights, activations and other programs.
    FractionOfAll(f64),
}

/// Runs plans on a GPU.
pub struct CudaRunner {
    /// Steps in which each request has one row, recorded, by their number of rows and whether they adjust logits. None
    /// where one was run once.
    graphs: HashMap<(usize, bool), Option<Graph>>,
    model: Arc<CudaModel>,
    info: ExecutorInfo,
    memory: MemoryReport,
    walker: Walker,
    host: Option<HostTier>,
    slots: Slots,
    inputs: Inputs,
    filler: Filler,
    /// Used in turn by the steps under way.
    lanes: [Lane; 2],
    next_lane: usize,
    under_way: VecDeque<UnderWay>,
    host_logits: PinnedBuffer<f32>,
    isa: Isa,
}

/// What a step under way has of its own.
struct Lane {
    /// What is copied to the host and back.
    copies: PinnedBuffer<i32>,
    words: PinnedBuffer<i32>,
    /// Of requests whose tokens are to be counted.
    counted: PinnedBuffer<i32>,
    drawn: PinnedBuffer<i32>,
    reports: PinnedBuffer<Report>,
    done: Event,
}

/// A step that was submitted and not waited for.
enum UnderWay {
    OnGpu { id: StepId, lane: usize, outputs: Vec<(Output, Admission)> },
    Done(StepOutcome),
}

/// Rows of logits that the host takes at a time.
const HOST_ROWS: usize = 16;
/// Numbers of rows for which ways to multiply are measured at start.
const TUNED_ROWS: [usize; 7] = [32, 64, 128, 256, 512, 1024, 2048];

impl CudaRunner {
    /// Takes everything that a model needs to run within the limits.
    pub fn new(model: Arc<CudaModel>, options: &CudaOptions) -> Result<Self, Error> {
        let spec = &model.spec;
        let gpu = model.gpu().clone();
        model.stream.make_current()?;
        let &CudaOptions { step_tokens_max, slots_max, context_max, .. } = options;
        let context_max =
            Limits { step_tokens_max, slots_max, context_max }.context_max(spec.context_max)?;
        let work = Workspace::new(&model, options, context_max as usize)?;
        let slots_max = options.slots_max as usize;
        let table_entries = slots_max * (context_max as usize).div_ceil(BLOCK_TOKENS);
        let limits = StepLimits { rows: work.rows, sequences: slots_max, kv_heads: spec.kv_heads };
        let planner = Planner::new(&model, &model.stream, limits)?;
        let inputs = Inputs::new(&gpu, &planner, limits, table_entries)?;
        let lane = || {
            Ok::<_, Error>(Lane {
                copies: staged_pairs(&gpu)?,
                words: PinnedBuffer::zeroed(&gpu, inputs.words())?,
                counted: PinnedBuffer::zeroed(&gpu, context_max as usize)?,
                drawn: PinnedBuffer::zeroed(&gpu, slots_max)?,
                reports: PinnedBuffer::zeroed(&gpu, slots_max)?,
                done: Event::new(&gpu)?,
            })
        };
        let lanes = [lane()?, lane()?];
        let host_logits = PinnedBuffer::zeroed(&gpu, HOST_ROWS * spec.vocab_size)?;
        let multiplier = Multiplier::new(&gpu)?;
        model.stream.synchronize()?;
        let block_bytes = block_bytes(spec);
        let budget_bytes = match options.budget {
            GpuBudget::Bytes(bytes) => bytes,
            GpuBudget::FractionOfAll(fraction) => {
                let all = gpu.properties().memory_bytes;
                let used = all.saturating_sub(gpu.free_bytes()?);
                ((all as f64 * fraction) as u64).saturating_sub(used)
            }
        };
        // No more blocks than all slots can fill: the prefix cache lives in what requests leave of them.
        let blocks = (budget_bytes / block_bytes).min(table_entries as u64).min(1 << 27) as u32;
        if blocks == 0 {
            let block_tokens = BLOCK_TOKENS as u32;
            return Err(Error::KvBudget { budget_bytes, block_bytes, block_tokens });
        }
        let caches = caches(spec, &model.stream, blocks as usize)?;
        let host_blocks = (options.host_cache_bytes / block_bytes).min(1 << 27) as u32;
        let host = HostTier::new(&model.stream, &caches, blocks as usize, host_blocks)?;
        let group = CacheGroup::new(blocks, BLOCK_TOKENS as u32);
        let info = ExecutorInfo {
            cache_groups: vec![CacheGroup { host_blocks, ..group }],
            step_tokens_max: options.step_tokens_max,
            slots_max: options.slots_max,
            context_max,
            vocab_size: spec.vocab_size as u32,
            steps_in_flight_max: 2,
            draft_tokens_max: 0,
        };
        let memory = MemoryReport {
            weights_bytes: model.weights_bytes,
            kv_bytes: u64::from(blocks) * block_bytes,
            host_kv_bytes: host.as_ref().map_or(0, HostTier::bytes),
            workspace_bytes: work.bytes + planner.scratch.bytes(),
        };
        let tiled = model.kernels.tiled.scratch(&model.stream)?;
        let mut walker =
            Walker { work, caches, planner, multiplier, tiled, profiler: Profiler::default() };
        if options.tune {
            let rows_max = walker.work.rows;
            for rows in TUNED_ROWS.into_iter().filter(|&rows| rows <= rows_max) {
                walker.tune(&model, rows)?;
            }
        }
        model.stream.synchronize()?;
        Ok(Self {
            graphs: HashMap::new(),
            slots: Slots::new(options.slots_max, model.spec.vocab_size),
            // The block after the last one.
            filler: Filler { slot: slots_max, place: blocks as usize * BLOCK_TOKENS },
            inputs,
            model,
            info,
            memory,
            walker,
            host,
            lanes,
            next_lane: 0,
            under_way: VecDeque::new(),
            host_logits,
            isa: Isa::detect(),
        })
    }

    /// Takes the times of steps from here on. Each step is then waited for.
    pub fn start_profile(&mut self) {
        self.walker.profiler.start();
    }

    /// Where the time of steps went since the profile was started; takes no more times.
    pub fn finish_profile(&mut self) -> CudaProfile {
        self.walker.profiler.finish()
    }

    fn start(&mut self, plan: &StepPlan, needs_host: bool) -> Result<UnderWay, Error> {
        let id = plan.id;
        if plan.items.is_empty() && plan.copies.is_empty() {
            return Ok(UnderWay::Done(StepOutcome::empty(id)));
        }
        let model = Arc::clone(&self.model);
        let stream = &*model.stream;
        let index = self.next_lane;
        self.next_lane = 1 - index;
        let lane = &mut self.lanes[index];
        self.walker.profiler.begin(stream)?;
        // Before the upload, which no kernel of the step overtakes: some read older blocks before they wait.
        if let Some(host) = self.host.as_ref().filter(|_| !plan.copies.is_empty()) {
            host.copy(stream, &model.kernels.copy, &mut lane.copies, &plan.copies)?;
            self.walker.profiler.mark(stream, Family::Copies)?;
        }
        if plan.items.is_empty() {
            lane.done.record(stream)?;
            self.walker.profiler.end()?;
            return Ok(UnderWay::OnGpu { id, lane: index, outputs: Vec::new() });
        }
        let vocab_size = model.spec.vocab_size;
        let batch = Batch::new(plan, &self.slots, &self.walker.planner, vocab_size, self.filler);
        batch.upload(stream, &mut lane.words, &self.inputs)?;
        self.walker.profiler.mark(stream, Family::Upload)?;
        let views = self.inputs.views(batch.rows, batch.output_rows());
        let under_way = if needs_host {
            self.walker.body(&model, &views, Some(&batch.tasks))?;
            UnderWay::Done(self.outputs_on_host(id, &batch, &views)?)
        } else {
            self.count(&batch, index)?;
            match self.graph(&batch, &views)? {
                Some(graph) => stream.play(graph)?,
                None => {
                    self.walker.body(&model, &views, Some(&batch.tasks))?;
                    outputs_on_gpu(&mut self.walker, &model, &views, batch.adjusts)?;
                }
            }
            let count = batch.outputs.len();
            let (work, lane) = (&self.walker.work, &mut self.lanes[index]);
            stream.download(&work.drawn.slice(0..count), &mut lane.drawn)?;
            if batch.outputs.iter().any(|output| output.logprobs.is_some()) {
                stream.download(&work.reports.slice(0..count), &mut lane.reports)?;
            }
            let admitted = |output: &Output| (*output, self.slots.admission(output.slot));
            let outputs = batch.outputs.iter().map(admitted).collect();
            UnderWay::OnGpu { id, lane: index, outputs }
        };
        self.lanes[index].done.record(stream)?;
        self.walker.profiler.end()?;
        Ok(under_way)
    }

    /// Has the GPU count the tokens of requests with penalties, where it has not.
    fn count(&mut self, batch: &Batch, lane: usize) -> Result<(), Error> {
        let (model, work) = (&self.model, &self.walker.work);
        let vocab_size = model.spec.vocab_size;
        let staged = &mut self.lanes[lane].counted;
        let mut first = 0;
        for output in &batch.outputs {
            if !self.slots.needs_count(output.slot) {
                continue;
            }
            let slot = self.slots.get(output.slot);
            let end = slot.tokens.len();
            if first + end > staged.len() {
                // What was staged is copied after this.
                model.stream.synchronize()?;
                first = 0;
            }
            for (to, &token) in staged[first..first + end].iter_mut().zip(&slot.tokens) {
                *to = token as i32;
            }
            let tokens = work.counted.slice(0..end);
            model.stream.upload(staged, first, &tokens)?;
            first += end;
            let place = output.slot.0 as usize;
            let counts = work.counts.slice(place * vocab_size..(place + 1) * vocab_size);
            model.kernels.sample.count(&model.stream, &tokens, slot.prompt_len, &counts)?;
            self.slots.set_counted(output.slot, true);
        }
        Ok(())
    }

    /// The recorded step that does what a batch needs, if it is of the kind that is recorded. The first one of its size
    /// is not: the libraries do something for the first time then, which cannot be recorded.
    fn graph(&mut self, batch: &Batch, views: &Views) -> Result<Option<&Graph>, Error> {
        if !batch.is_decode || self.walker.profiler.is_on() || self.model.stream.checks() {
            return Ok(None);
        }
        match self.graphs.entry((batch.rows, batch.adjusts)) {
            Entry::Vacant(vacant) => {
                vacant.insert(None);
                Ok(None)
            }
            Entry::Occupied(occupied) => {
                let graph = occupied.into_mut();
                if graph.is_none() {
                    let (walker, model) = (&mut self.walker, &self.model);
                    let keep = (Arc::clone(model), walker.buffers(), self.inputs.buffers());
                    let mut failed = None;
                    let recorded = model.stream.record(Arc::new(keep), || {
                        let body = walker.body(model, views, None);
                        let adjusts = batch.adjusts;
                        let all = body.and_then(|()| outputs_on_gpu(walker, model, views, adjusts));
                        failed = all.err();
                        Ok(())
                    });
                    match failed {
                        Some(error) => return Err(error),
                        None => *graph = Some(recorded?),
                    }
                }
                Ok(graph.as_ref())
            }
        }
    }

    /// Draws on the host, a few rows of logits at a time.
    fn outputs_on_host(
        &mut self,
        id: StepId,
        batch: &Batch,
        views: &Views,
    ) -> Result<StepOutcome, Error> {
        let model = Arc::clone(&self.model);
        let vocabulary = model.spec.vocab_size;
        let mut outcome = StepOutcome::empty(id);
        for first in (0..batch.outputs.len()).step_by(HOST_ROWS) {
            let range = first..batch.outputs.len().min(first + HOST_ROWS);
            self.walker.head(&model, &views.selected.slice(range.clone()))?;
            let logits = self.walker.work.logits.slice(0..range.len() * vocabulary);
            model.stream.download(&logits, &mut self.host_logits)?;
            model.stream.synchronize()?;
            let rows = self.host_logits.chunks_mut(vocabulary);
            for (output, logits) in batch.outputs[range].iter().zip(rows) {
                draw_on_host(self.isa, *output, logits, &mut self.slots, &mut outcome);
            }
        }
        Ok(outcome)
    }

    fn finish(&mut self, under_way: UnderWay) -> Result<StepOutcome, Error> {
        let (id, lane, outputs) = match under_way {
            UnderWay::Done(outcome) => return Ok(outcome),
            UnderWay::OnGpu { id, lane, outputs } => (id, &self.lanes[lane], outputs),
        };
        lane.done.wait()?;
        let mut outcome = StepOutcome::empty(id);
        let drawn = lane.drawn.iter().zip(&*lane.reports);
        for ((output, admission), (&token, report)) in outputs.into_iter().zip(drawn) {
            let slot = output.slot;
            match u32::try_from(token) {
                Ok(token) => {
                    self.slots.push(slot, admission, token);
                    let logprobs = output.logprobs.map(|count| logprobs(token, report, count));
                    outcome.sampled.push(SampledToken { slot, token, logprobs });
                }
                Err(_) => outcome.failed.push((slot, crate::sampling::not_finite())),
            }
        }
        Ok(outcome)
    }

    /// Ends the steps under way on the GPU, so that all tokens are known here.
    fn settle(&mut self) -> Result<(), Error> {
        for _ in 0..self.under_way.len() {
            let oldest = self.under_way.pop_front().expect("there are that many");
            let outcome = self.finish(oldest)?;
            self.under_way.push_back(UnderWay::Done(outcome));
        }
        Ok(())
    }
}

impl Drop for CudaRunner {
    fn drop(&mut self) {
        // What is under way uses the buffers. An error here was seen before.
        let _ = self.model.stream.synchronize();
    }
}

impl Executor for CudaRunner {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn submit(&mut self, mut plan: StepPlan) -> Result<(), Fault> {
        self.model.stream.make_current().map_err(Error::from)?;
        let mut release = std::mem::take(&mut plan.release);
        release.drain(..).for_each(|slot| self.slots.release(slot));
        let mut admit = std::mem::take(&mut plan.admit);
        admit.drain(..).for_each(|admission| self.slots.admit(admission));
        let needs_host = step_needs_host(&plan, &self.slots);
        if needs_host {
            self.settle()?;
        }
        let under_way = self.start(&plan, needs_host)?;
        self.under_way.push_back(under_way);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutcome, Fault> {
        self.model.stream.make_current().map_err(Error::from)?;
        let oldest = self.under_way.pop_front();
        let oldest = oldest.ok_or_else(|| Fault::internal("no step is under way"))?;
        Ok(self.finish(oldest)?)
    }

    fn memory(&self) -> MemoryReport {
        self.memory
    }
}

/// Draws the tokens of a step's outputs.
fn outputs_on_gpu(
    walker: &mut Walker,
    model: &CudaModel,
    views: &Views,
    adjusts: bool,
) -> Result<(), Error> {
    let outputs = views.selected.len();
    for first in (0..outputs).step_by(walker.work.output_rows) {
        let range = first..outputs.min(first + walker.work.output_rows);
        walker.head(model, &views.selected.slice(range.clone()))?;
        let work = &walker.work;
        let draw = Draw {
            logits: &work.logits,
            rows: &views.sample.slice(range.clone()),
            adjusts,
            biases: &views.biases,
            counts: &work.counts,
            reports: &work.reports.slice(range.clone()),
            tokens: &work.drawn.slice(range),
            last_tokens: &work.last_tokens,
            vocabulary: model.spec.vocab_size,
        };
        model.kernels.sample.draw(&model.stream, &draw)?;
        walker.profiler.mark(&model.stream, Family::Sampling)?;
    }
    Ok(())
}

/// What the GPU reports of a token, with so many others.
fn logprobs(token: TokenId, report: &Report, count: u32) -> TokenLogprobs {
    let top = report.top.iter().take(count as usize);
    let top = top.map(|other| (other.token as TokenId, other.logprob)).collect();
    TokenLogprobs { token, logprob: report.logprob, top }
}

/// Draws one output's token, or tells a prompt token's log-probability, and adds it to the outcome.
fn draw_on_host(
    isa: Isa,
    output: Output,
    logits: &mut [f32],
    slots: &mut Slots,
    outcome: &mut StepOutcome,
) {
    let slot = output.slot;
    if outcome.failed.last().is_some_and(|(failed, _)| *failed == slot) {
        return;
    }
    let held = slots.get(slot);
    let result = match output.purpose {
        Purpose::Prompt(token) => {
            let count = held.sampling.prompt_logprobs.unwrap_or(0) as usize;
            token_logprobs(isa, logits, token, count).map(|logprobs| {
                match outcome.prompt_logprobs.last_mut() {
                    Some((last, list)) if *last == slot => list.push(logprobs),
                    _ => outcome.prompt_logprobs.push((slot, vec![logprobs])),
                }
            })
        }
        Purpose::Draw | Purpose::DrawOnHost => {
            sample(isa, logits, held).map(|(token, logprobs)| {
                slots.push(slot, slots.admission(slot), token);
                slots.set_counted(slot, false);
                outcome.sampled.push(SampledToken { slot, token, logprobs });
            })
        }
    };
    if let Err(fault) = result {
        outcome.prompt_logprobs.retain(|(other, _)| *other != slot);
        outcome.failed.push((slot, fault));
    }
}
