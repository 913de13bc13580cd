//! Putting a step together.

use std::{ops::Range, time::Duration};

use kv::Miss;
use queue::QueueState;
use types::{
    RequestId, SlotAdmission, SlotId, StepId, StepPlan, TokenId, WorkItem, planted,
    planted::Planted,
};

use crate::{
    Cause, PrefixUse, Scheduler,
    drafter::Drafter,
    growth::Growth,
    pace::StepPace,
    passes,
    sequence::{Running, Sequence},
};

/// A step being put together: what the passes have decided so far.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) now: Duration,
    /// Positions that may still be handed out.
    pub(crate) tokens_left: u32,
    /// A request lost its slot while this step was planned.
    pub(crate) preempted: bool,
    /// Requests that left the queue for the first time.
    pub(crate) served: u64,
    /// What the step takes, and how much more it may.
    pub(crate) pace: StepPace,
    /// What is running, as it is expected to grow; worked out when somebody wants to start.
    pub(crate) growth: Option<Growth>,
    /// Why no more requests started; if nothing is said, because the step was full.
    pub(crate) stopped: Option<Cause>,
    /// Requests that wait for another to compute what both begin with.
    pub(crate) passed_by: Vec<RequestId>,
    admit: Vec<SlotAdmission>,
    items: Vec<WorkItem>,
    flight: Vec<FlightItem>,
}

/// A step under way, as `commit` needs to know it.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) id: StepId,
    pub(crate) planned: Duration,
    /// A part of a prompt is in it.
    pub(crate) has_prompts: bool,
    pub(crate) items: Vec<FlightItem>,
}

/// One item of a step under way. The slot may have been emptied since, so the request is named as well.
#[derive(Debug)]
pub(crate) struct FlightItem {
    pub(crate) slot: SlotId,
    pub(crate) request: RequestId,
    /// Those of the draft are the last of them.
    pub(crate) positions: Range<u32>,
    pub(crate) draft: Vec<TokenId>,
    pub(crate) sample: bool,
    /// Log-probabilities of prompt tokens that are to come with it.
    pub(crate) prompt_logprobs: u32,
}

impl Scheduler {
    /// The next step, or nothing while as many are under way as the executor takes, or when there is nothing to do
    /// before one of them is committed.
    ///
    /// With a step under way, a request whose token is being drawn there gets the position of that token in this one.
    ///
    /// The last requests to end leave slots of which the executor is told in a plan without items, so that it lets
    /// go of what it holds for them; its outcome is empty.
    pub fn plan(&mut self, now: Duration) -> Option<StepPlan> {
        if self.flights.len() >= self.flights_max {
            return None;
        }
        let mut draft = Draft {
            now,
            tokens_left: self.settings.step_tokens_max,
            preempted: false,
            served: 0,
            pace: self.pace.begin(),
            growth: None,
            stopped: None,
            passed_by: Vec::new(),
            admit: Vec::new(),
            items: Vec::with_capacity(self.slots.len()),
            flight: Vec::with_capacity(self.slots.len()),
        };
        if !self.flights.is_empty() && passes::is_probation_due(self, &mut draft) {
            return None;
        }
        if passes::probation(self, &mut draft) {
            draft.stopped = Some(Cause::Recovery);
        } else {
            passes::make_way(self, &mut draft);
            passes::decode(self, &mut draft);
            passes::prompts(self, &mut draft);
        }
        let state = self.queue_state(draft.stopped);
        self.meter.observe(now, draft.served, state);
        self.keep_line(&mut draft);
        self.pace.end(&draft.pace);
        self.close(draft)
    }

    /// What the queue is like when no more requests started, for the reason given.
    pub(crate) fn queue_state(&self, stopped: Option<Cause>) -> QueueState {
        match stopped {
            _ if self.queue.new_len() == 0 => QueueState::Empty,
            Some(Cause::Slot | Cause::Blocks) => QueueState::Full,
            _ => QueueState::Filling,
        }
    }

    fn close(&mut self, draft: Draft) -> Option<StepPlan> {
        let Draft { now, pace, admit, items, flight, .. } = draft;
        let release = self.slots.take_released();
        if release.is_empty() && items.is_empty() {
            return None;
        }
        let id = self.next_step;
        self.next_step = StepId(id.0 + 1);
        self.counters.steps += 1;
        let has_prompts = pace.has_prompts();
        self.flights.push_back(Flight { id, planned: now, has_prompts, items: flight });
        Some(StepPlan { id, release, admit, items })
    }

    /// Hands the next `count` positions of a running request to the step, and after the last of its tokens those of a
    /// guess of what comes next. Their blocks are there.
    pub(crate) fn schedule(
        &mut self,
        draft: &mut Draft,
        slot: SlotId,
        count: u32,
        guess: Vec<TokenId>,
    ) {
        let running = self.slots.get_mut(slot).expect("only running requests are scheduled");
        let guessed = guess.len() as u32;
        let positions = running.planned..running.planned + count + guessed;
        running.planned += count;
        let sample = running.planned == running.expected_len();
        running.drawing += u32::from(sample);
        running.drafted = guessed;
        let block_tables = self.kv.covering(&running.tables, positions.end);
        let asked = running.sequence.sampling.prompt_logprobs.is_some();
        let followed = positions.end.min(running.sequence.prompt_len - 1);
        if !planted::strikes(Planted::ExceededBudget) {
            draft.tokens_left -= count + guessed;
        }
        draft.flight.push(FlightItem {
            slot,
            request: running.ticket.id,
            positions: positions.clone(),
            draft: guess.clone(),
            sample,
            prompt_logprobs: if asked { followed.saturating_sub(positions.start) } else { 0 },
        });
        draft.items.push(WorkItem { slot, positions, draft: guess, block_tables, sample });
    }

    /// Hands the next chunk of a running request's prompt to the step, as large as limits, budget and time allow. Says
    /// whether there was room for any.
    pub(crate) fn schedule_chunk(&mut self, draft: &mut Draft, slot: SlotId) -> bool {
        let running = self.slots.get(slot).expect("only running requests are scheduled");
        let (start, rest) = (running.planned, running.remaining());
        // One on probation is alone in its step.
        let count = match running.sequence.probation {
            Some(_) => rest.min(draft.tokens_left),
            None => self.chunk(draft, start, rest),
        };
        if count == 0 {
            return false;
        }
        self.schedule(draft, slot, count, Vec::new());
        draft.pace.add_prompt(&(start..start + count), count == rest);
        true
    }

    /// How many positions from `start` on of a prompt of which `rest` are left the step can take.
    fn chunk(&self, draft: &Draft, start: u32, rest: u32) -> u32 {
        let count = rest.min(self.settings.prefill_chunk_max).min(draft.tokens_left);
        draft.pace.room(start, count, rest)
    }

    /// Gives a waiting request a slot, the blocks of all its tokens, those that are cached among them, and its first
    /// positions in the step. The caller saw that there are a slot and blocks; where there is no time left in the step,
    /// or no blocks after all since hashes collide, nothing changes. Says whether it started.
    pub(crate) fn start(&mut self, draft: &mut Draft, id: RequestId) -> bool {
        let (_, sequence) = self.queue.get(id).expect("the caller saw it wait");
        let mut tables = self.kv.tables();
        let Sequence { key, tokens, .. } = sequence;
        let computed = self.kv.take(&mut tables, key, tokens, sequence.skippable());
        let has_time = sequence.probation.is_some()
            || self.chunk(draft, computed, sequence.len() - computed) > 0;
        // Asked before blocks are taken, which may put out what was there.
        let prefix = sequence.started.is_none().then(|| self.prefix_use(sequence, computed));
        if !has_time || self.kv.grow(&mut tables, sequence.len()).is_err() {
            draft.stopped = has_time.then_some(Cause::Blocks);
            self.kv.release(tables);
            return false;
        }
        let (ticket, mut sequence) = self.queue.remove(id).expect("seen above");
        sequence.account.start(draft.now, &self.line.clock);
        if let Some(prefix) = prefix {
            sequence.account.found(prefix);
        }
        if sequence.started.is_none() {
            sequence.started = Some(draft.now);
            sequence.cached_tokens = computed;
            draft.served += 1;
            self.policy.started(ticket.rank.place, &sequence.tenant, sequence.cost);
            self.counters.prefix_queried_tokens += u64::from(sequence.len());
            self.counters.prefix_hit_tokens += u64::from(computed);
        }
        if let Some(growth) = &mut draft.growth {
            growth.add(sequence.len(), self.expected_growth(&sequence, 0));
        }
        let running = Running {
            ticket,
            sequence,
            tables,
            computed,
            planned: computed,
            drawing: 0,
            drafted: 0,
        };
        let slot = self.slots.insert(running).expect("the caller saw a free slot");
        draft.admit.extend(self.slots.get(slot).map(|running| running.admission(slot)));
        let has_positions = self.schedule_chunk(draft, slot);
        assert!(has_positions, "there was time for some");
        true
    }

    /// What a request that starts found of itself, and why not more.
    fn prefix_use(&self, sequence: &Sequence, hit_tokens: u32) -> PrefixUse {
        let unwanted = sequence.skippable() + 1 < sequence.len();
        let miss = if unwanted {
            Some(Miss::Unwanted)
        } else {
            self.kv.miss(&sequence.key, hit_tokens, sequence.skippable())
        };
        PrefixUse { hit_tokens, miss }
    }

    /// What a running request that is about to draw may say after that, and the blocks for it: at most `tokens_max`
    /// tokens, and none that are not worth their time or for which there are no blocks.
    pub(crate) fn guess(&mut self, draft: &Draft, slot: SlotId, tokens_max: u32) -> Vec<TokenId> {
        let requests = self.slots.len();
        let running = self.slots.get_mut(slot).expect("only running requests are scheduled");
        let sequence = &mut running.sequence;
        let left = sequence.tokens_max - sequence.generated() - 1;
        let tokens_max = tokens_max.min(self.settings.draft_tokens_max).min(left);
        if tokens_max == 0 || draft.preempted || sequence.probation.is_some() {
            return Vec::new();
        }
        let drafter = sequence.drafter.get_or_insert_with(|| Box::new(Drafter::new()));
        drafter.follow(&sequence.tokens);
        let guess = drafter.guess(tokens_max, |right| draft.pace.is_worth(right, requests));
        // Each running request gets a block for its own position, if it needs one, before any is there for guesses.
        let wanted = guess.len() as u32;
        let has_blocks =
            |pool: &kv::BlockPool| pool.free() > requests as u32 + pool.blocks_for(wanted);
        if wanted == 0 || !self.kv.pools().iter().all(has_blocks) {
            return Vec::new();
        }
        let positions = running.planned + 1 + wanted;
        match self.kv.grow(&mut running.tables, positions) {
            Ok(()) => guess,
            Err(_) => Vec::new(),
        }
    }

    /// By how many tokens a request is expected to grow, as far as admission reckons with it.
    pub(crate) fn expected_growth(&self, sequence: &Sequence, drawing: u32) -> u32 {
        let generated = sequence.generated() + drawing;
        let rest = self.outputs.expected_rest(generated, sequence.tokens_max);
        (u64::from(rest) * u64::from(self.settings.kv_growth_percent) / 100) as u32
    }

    /// What is running, as it is expected to grow.
    pub(crate) fn growth(&self) -> Growth {
        Growth::of(self.slots.iter().map(|(_, running)| {
            let rest = self.expected_growth(&running.sequence, running.drawing);
            (running.expected_len(), rest)
        }))
    }
}
