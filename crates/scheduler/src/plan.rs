//! Putting a step together.

use std::{ops::Range, time::Duration};

use kv::{Found, Miss};
use serde::{Deserialize, Serialize};
use types::{
    CopyDirection, RequestId, SlotAdmission, SlotId, StepId, StepPlan, TokenId, WorkItem, planted,
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

/// Next tokens may give way where the target for them is so many times what the step takes.
const TARGET_STEPS_MIN: f64 = 2.0;

/// A step being put together: what the passes have decided so far.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) now: Duration,
    /// Positions that may still be handed out.
    pub(crate) tokens_left: u32,
    /// A request lost its slot while this step was planned.
    pub(crate) preempted: bool,
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
    /// Requests that the step does no more for than to bring blocks back.
    restored: Vec<RequestId>,
}

/// A step under way, as `commit` needs to know it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Flight {
    pub(crate) id: StepId,
    pub(crate) planned: Duration,
    /// A part of a prompt is in it.
    pub(crate) has_prompts: bool,
    pub(crate) items: Vec<FlightItem>,
    pub(crate) restored: Vec<RequestId>,
    /// Blocks copied.
    pub(crate) copies: u32,
}

/// One item of a step under way. The slot may have been emptied since, so the request is named as well.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FlightItem {
    pub(crate) slot: SlotId,
    pub(crate) request: RequestId,
    /// Those of the draft are the last of them.
    pub(crate) positions: Range<u32>,
    pub(crate) draft: Vec<TokenId>,
    pub(crate) sample: bool,
    /// Log-probabilities of prompt tokens that are to come with it.
    pub(crate) prompt_logprobs: u32,
    /// It is a part of a prompt, of which more is to come.
    pub(crate) is_part: bool,
    pub(crate) gives_way: bool,
}

impl FlightItem {
    /// Whether nothing is in it but the position that a next token is drawn after.
    pub(crate) fn is_next_token(&self) -> bool {
        self.sample && self.positions.len() == 1
    }
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
            pace: self.pace.begin(),
            growth: None,
            stopped: None,
            passed_by: Vec::new(),
            admit: Vec::new(),
            items: Vec::with_capacity(self.slots.len()),
            flight: Vec::with_capacity(self.slots.len()),
            restored: Vec::new(),
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
        self.keep_line(&mut draft);
        self.pace.end(&draft.pace);
        self.let_give_way(&mut draft);
        self.close(draft)
    }

    /// Has parts of prompts give way where somebody new could start at once, and no other step builds on them.
    fn let_give_way(&self, draft: &mut Draft) {
        let has_slot = (self.slots.len() as u32) < self.settings.running_max;
        let is_alone = self.flights_max == 1 && !self.kv.has_states();
        // Who waits for blocks already is not served by leaving out what others compute.
        let is_held_up = self.queue.new_len() > 0 && draft.stopped == Some(Cause::Blocks);
        if !(has_slot && is_alone && self.policy.lets_pass()) || is_held_up {
            return;
        }
        for (item, flight) in draft.items.iter_mut().zip(&mut draft.flight) {
            let running = self.slots.get(item.slot).expect("it was just scheduled");
            let is_end = flight.sample && !flight.is_next_token() && flight.draft.is_empty();
            flight.gives_way = flight.is_part && running.can_give_way()
                || is_end && running.can_end_give_way(flight.positions.len() as u32);
            item.gives_way = flight.gives_way;
        }
        if self.can_tokens_wait(draft) {
            draft.items.iter_mut().for_each(|item| item.gives_way = true);
            draft.flight.iter_mut().for_each(|item| item.gives_way = true);
        }
        draft.items.sort_by_key(|item| item.gives_way);
        draft.flight.sort_by_key(|item| item.gives_way);
    }

    /// Whether all of a step may be left out, where nothing is in it but next tokens and what gives way anyway.
    /// Somebody new would wait until the tokens alone have gone through the model, and with the new prompt they take
    /// hardly longer. They come later by what the step took so far, which has to be little beside the target for them.
    fn can_tokens_wait(&self, draft: &Draft) -> bool {
        let can_wait = |item: &WorkItem| {
            let is_next_token = item.sample && item.positions.len() == 1;
            is_next_token && self.slots.get(item.slot).is_some_and(Running::can_token_wait)
        };
        let target = self.settings.token_latency_target;
        let is_short = target.is_some_and(|target| {
            TARGET_STEPS_MIN * draft.pace.planned_s() <= target.as_secs_f64()
        });
        is_short
            && draft.items.iter().any(|item| item.gives_way)
            && draft.items.iter().all(|item| item.gives_way || can_wait(item))
    }

    fn close(&mut self, draft: Draft) -> Option<StepPlan> {
        let Draft { now, pace, admit, items, flight, restored, .. } = draft;
        let release = self.slots.take_released();
        let copies = self.kv.take_copies();
        // None without an item that begins with it.
        let state_copies = self.kv.take_state_copies();
        if release.is_empty() && admit.is_empty() && copies.is_empty() && items.is_empty() {
            return None;
        }
        let to_host = copies.iter().filter(|copy| copy.direction == CopyDirection::ToHost).count();
        self.counters.blocks_to_host += to_host as u64;
        self.counters.blocks_to_device += (copies.len() - to_host) as u64;
        let id = self.next_step;
        self.next_step = StepId(id.0 + 1);
        self.counters.steps += 1;
        let copied = copies.len() as u32;
        self.flights.push_back(Flight {
            id,
            planned: now,
            has_prompts: pace.has_prompts(),
            items: flight,
            restored,
            copies: copied,
        });
        Some(StepPlan { id, release, admit, copies, state_copies, items })
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
        let block_tables = self.kv.hand_out(&mut running.tables, positions.clone());
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
            is_part: !sample,
            gives_way: false,
        });
        let gives_way = false;
        draft.items.push(WorkItem {
            slot,
            positions,
            draft: guess,
            block_tables,
            sample,
            gives_way,
        });
    }

    /// Has what is in the host's memory of a request that has just started brought back, as far as there is time in the
    /// step. How many positions those are.
    fn bring_back(&mut self, draft: &mut Draft, slot: SlotId) -> u32 {
        draft.pace.set_copies(self.kv.copies());
        let running = self.slots.get_mut(slot).expect("only running requests are scheduled");
        let Running { sequence, tables, planned, on_host_end, .. } = running;
        if *on_host_end <= *planned {
            return 0;
        }
        let (before, blocks_max) = (self.kv.copies(), draft.pace.copy_room());
        let Sequence { key, tokens, .. } = &*sequence;
        let positions = self.kv.bring_back(tables, key, tokens, *on_host_end, blocks_max);
        draft.pace.set_copies(self.kv.copies());
        *planned += positions;
        if self.kv.copies() - before < blocks_max {
            // The rest had to make room for others.
            *on_host_end = *planned;
        }
        sequence.account.brought_back(positions, running.is_first);
        self.counters.host_hit_tokens += u64::from(positions);
        if running.is_first {
            sequence.cached_tokens += positions;
            self.counters.prefix_hit_tokens += u64::from(positions);
        }
        running.computed = running.planned;
        positions
    }

    /// Hands the next chunk of a running request's prompt to the step, as large as limits, budget and time allow, once
    /// all that is to come from the host's memory is there. Says whether there was room for any.
    pub(crate) fn schedule_chunk(&mut self, draft: &mut Draft, slot: SlotId) -> bool {
        let brought_back = self.bring_back(draft, slot);
        let running = self.slots.get(slot).expect("only running requests are scheduled");
        let (start, rest) = (running.planned, running.remaining());
        // One on probation is alone in its step.
        let count = match running.sequence.probation {
            Some(_) => rest.min(draft.tokens_left),
            None => self.chunk(draft, start, rest),
        };
        // Where there is a window, blocks come with their positions, and each of the others is left its next one.
        let reach = self.kv.reach(&running.tables, self.slots.len() as u32 - 1);
        let count = count.min(reach - start);
        // A state can only be kept as it is after a step.
        let kept = self.kv.checkpoint_within(&running.tables, start..start + count);
        let count = kept.map_or(count, |end| end - start);
        if count == 0 || running.on_host_end > start {
            draft.restored.extend((brought_back > 0).then_some(running.ticket.id));
            return false;
        }
        let running = self.slots.get_mut(slot).expect("seen above");
        self.kv.grow(&mut running.tables, start + count).expect("no more than can be reached");
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
    /// positions in the step, if copies leave time for any. What is in the host's memory is brought back from there if
    /// that is sooner than to compute it again. The caller saw that there are a slot and blocks; where there is no time
    /// left in the step, or no blocks after all since hashes collide, nothing changes. The slot, if it started.
    pub(crate) fn start(&mut self, draft: &mut Draft, id: RequestId) -> Option<SlotId> {
        let (_, sequence) = self.queue.get(id).expect("the caller saw it wait");
        let mut tables = self.kv.tables();
        let Sequence { key, tokens, .. } = sequence;
        let found = self.kv.take(&mut tables, key, tokens, sequence.skippable());
        let computed = found.positions;
        let on_host = computed..computed + found.on_host;
        let is_sooner = draft.pace.is_sooner(self.kv.blocks_of(found.on_host), &on_host);
        let has_time = sequence.probation.is_some()
            || self.chunk(draft, computed, sequence.len() - computed) > 0;
        // Asked before blocks are taken, which may put out what was there.
        let is_first = sequence.started.is_none();
        let prefix = is_first.then(|| self.prefix_use(sequence, found, is_sooner));
        draft.pace.set_copies(self.kv.copies());
        // For a long one, room in the pool is made over several steps, each within its time.
        let has_room = has_time
            && self.kv.make_room(&tables, sequence.len(), draft.pace.copy_room())
            && self.kv.grow_to_start(&mut tables, computed + 1, sequence.len()).is_ok();
        draft.pace.set_copies(self.kv.copies());
        if !has_room {
            draft.stopped = has_time.then_some(Cause::Blocks);
            self.kv.release(tables);
            return None;
        }
        let (ticket, mut sequence) = self.queue.remove(id).expect("seen above");
        sequence.account.start(draft.now, &self.line.clock);
        if let Some(prefix) = prefix {
            sequence.account.found(prefix);
        }
        if is_first {
            sequence.started = Some(draft.now);
            sequence.cached_tokens = computed;
            self.recent.observe_start(sequence.len(), computed);
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
            on_host_end: if is_sooner { on_host.end } else { computed },
            is_first,
            spare_positions: 0,
            token_left_out: false,
        };
        let slot = self.slots.insert(running).expect("the caller saw a free slot");
        draft.admit.extend(self.slots.get(slot).map(|running| running.admission(slot)));
        self.schedule_chunk(draft, slot);
        Some(slot)
    }

    /// Whether something of a running request is still to come back from the host's memory.
    pub(crate) fn is_restoring(&self, slot: SlotId) -> bool {
        self.slots.get(slot).is_some_and(|running| running.on_host_end > running.planned)
    }

    /// What a request that starts found of itself, and why not more. What is brought back from the host's memory is
    /// counted when it is.
    fn prefix_use(&self, sequence: &Sequence, found: Found, is_sooner: bool) -> PrefixUse {
        let unwanted = sequence.skippable() + 1 < sequence.len();
        let miss = if unwanted {
            Some(Miss::Unwanted)
        } else if found.on_host > 0 && !is_sooner {
            Some(Miss::HostSlower)
        } else {
            let hit_tokens = found.positions + found.on_host;
            self.kv.miss(&sequence.key, hit_tokens, sequence.skippable())
        };
        PrefixUse { hit_tokens: found.positions, host_tokens: 0, miss }
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
