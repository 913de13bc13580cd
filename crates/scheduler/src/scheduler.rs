//! The scheduler's state, and how requests enter and leave it.

use std::{collections::VecDeque, time::Duration};

use kv::KvManager;
use queue::{ActivePolicy, Arrival, QueueFull, Ticket, WaitingQueue};
use serde::{Deserialize, Serialize};
use types::{
    ExecutorInfo, Fault, Request, RequestEvent, RequestId, Service, SlotId, StepId, planted,
    planted::Planted,
};

use crate::{
    Error, Forecast, Limits, Settings,
    account::Account,
    line::Line,
    outputs::{LENGTH_ASSUMED, OutputLengths},
    pace::Pace,
    plan::Flight,
    recent::{Came, Recent},
    sequence::{Running, Sequence, cost},
    slots::Slots,
};

/// Decides what each step computes. One for each executor; see the crate's documentation.
///
/// Serialized, it is all that it knows: one that is read back decides the same from then on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Scheduler {
    pub(crate) settings: Settings,
    pub(crate) limits: Limits,
    pub(crate) queue: WaitingQueue<Sequence>,
    pub(crate) slots: Slots,
    pub(crate) kv: KvManager,
    /// The steps under way, the oldest first.
    pub(crate) flights: VecDeque<Flight>,
    pub(crate) flights_max: usize,
    pub(crate) next_step: StepId,
    /// When the last step ended.
    pub(crate) committed: Duration,
    pub(crate) policy: ActivePolicy,
    pub(crate) outputs: OutputLengths,
    pub(crate) pace: Pace,
    pub(crate) recent: Recent,
    pub(crate) line: Line,
    pub(crate) counters: Counters,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Plans made.
    pub steps: u64,
    /// Requests that lost their slot to others and were queued again.
    pub preemptions: u64,
    /// Tokens of the requests that started.
    pub prefix_queried_tokens: u64,
    /// Of those, the ones that were cached.
    pub prefix_hit_tokens: u64,
    /// Positions brought back from the host's memory, for requests that started and those that started again.
    pub host_hit_tokens: u64,
    /// Positions of prompts that steps left out for somebody new.
    pub left_out_tokens: u64,
    /// Blocks copied to the host's memory.
    pub blocks_to_host: u64,
    /// Blocks copied back from there.
    pub blocks_to_device: u64,
    /// Tokens guessed.
    pub drafted_tokens: u64,
    /// Of those, the ones that were right.
    pub accepted_tokens: u64,
}

impl Scheduler {
    /// A scheduler for an executor with these limits.
    pub fn new(info: &ExecutorInfo, settings: Settings) -> Result<Self, Error> {
        let settings = settings.within(info)?;
        Ok(Self {
            limits: Limits::of(info),
            queue: WaitingQueue::new(settings.waiting_max as usize),
            slots: Slots::new(settings.running_max),
            kv: KvManager::new(&info.cache_groups, settings.prefix_cache)?,
            flights: VecDeque::new(),
            flights_max: info.steps_in_flight_max.max(1) as usize,
            next_step: StepId(0),
            committed: Duration::ZERO,
            policy: settings.policy.start(&settings.tenant_weights),
            outputs: OutputLengths::new(),
            pace: Pace::new(settings.token_latency_target),
            recent: Recent::default(),
            line: Line::new(),
            counters: Counters::default(),
            settings,
        })
    }

    /// Lets a request in that arrived at `now`. One that can never fit, or for which the queue has no room, is refused.
    /// An id comes once.
    pub fn submit(&mut self, request: Request, now: Duration) -> Result<(), Error> {
        let tokens_max =
            self.limits.check(&request.prompt, &request.sampling, request.tokens_max)?;
        // Not by what answers are measured to be: places given at different times could not be compared.
        let cost = cost(request.prompt.len() as u32, tokens_max.min(LENGTH_ASSUMED));
        let len = request.prompt.len() as u32;
        if self.queue.is_full() {
            let forecast = self.forecast(now);
            let wait = forecast.wait(now, &request.service, len, tokens_max, 0);
            let wait = wait.unwrap_or(Forecast::UNMEASURED_WAIT);
            return Err(QueueFull { limit: self.queue.limit(), wait }.into());
        }
        let Service { priority, due, ref tenant, ref cache_salt } = request.service;
        let key = self.kv.key(cache_salt.clone(), &request.prompt);
        let arrival = Arrival { now, priority, tenant: tenant.clone(), cost, due };
        let place = self.policy.place(&arrival);
        self.policy.arrived(&arrival);
        self.recent.observe_arrival(Came { arrival, len, tokens_max });
        let id = request.id;
        let account = Account::new(now, self.queue.len(), self.slots.len());
        let sequence = Sequence::new(request, tokens_max, cost, key, account);
        self.queue.push(id, place, now, sequence);
        self.line.arrived(id);
        self.pace.arrive(now);
        Ok(())
    }

    /// Forgets a request, wherever it is; what steps under way bring for it is dropped. Says whether it was there.
    pub fn abort(&mut self, id: RequestId, now: Duration) -> bool {
        let vacated = self.slots.of(id).and_then(|slot| self.vacate(slot));
        let vacated = vacated.map(|Vacated { ticket, sequence, .. }| (ticket, sequence));
        let waiting = || {
            let is_ignored = planted::strikes(Planted::IgnoredAbort);
            if is_ignored { None } else { self.queue.remove(id) }
        };
        match vacated.or_else(waiting) {
            Some((ticket, sequence)) => {
                self.settle(&ticket, &sequence, now);
                true
            }
            None => false,
        }
    }

    /// A request has ended, in whatever way: what it cost is known now.
    fn settle(&mut self, ticket: &Ticket, sequence: &Sequence, now: Duration) {
        self.policy.ended(&sequence.tenant, sequence.cost, sequence.real_cost());
        let generated = sequence.generated();
        if generated > 0 {
            self.outputs.observe_end(generated, generated >= sequence.tokens_max);
        }
        self.close_account(ticket, sequence, now);
    }

    /// Ends every request with `fault`.
    pub fn end_all(&mut self, fault: &Fault, now: Duration) -> Vec<(RequestId, RequestEvent)> {
        let running: Vec<RequestId> = self.slots.iter().map(|(_, r)| r.ticket.id).collect();
        let waiting: Vec<RequestId> = self.queue.iter().map(|(ticket, _)| ticket.id).collect();
        let all = running.into_iter().chain(waiting);
        all.inspect(|id| assert!(self.abort(*id, now), "{id} was listed"))
            .map(|id| (id, RequestEvent::Failed(fault.clone())))
            .collect()
    }

    /// Takes a request out of its slot and frees its blocks.
    pub(crate) fn vacate(&mut self, slot: SlotId) -> Option<Vacated> {
        let Running { ticket, sequence, tables, planned, .. } = self.slots.remove(slot)?;
        self.kv.release(tables);
        Some(Vacated { ticket, sequence, planned })
    }

    /// Takes a request out that failed alone, wherever it is: what it computed may be wrong.
    pub(crate) fn drop_spoilt(&mut self, id: RequestId, now: Duration) {
        let slot = self.slots.of(id);
        match slot.and_then(|slot| self.slots.remove(slot)) {
            Some(Running { ticket, sequence, tables, .. }) => {
                self.kv.release_spoilt(tables, &sequence.key, &sequence.tokens);
                self.settle(&ticket, &sequence, now);
            }
            None => drop(self.abort(id, now)),
        }
    }

    /// A request, wherever it is.
    pub(crate) fn sequence_mut(&mut self, id: RequestId) -> Option<&mut Sequence> {
        match self.slots.of(id) {
            Some(slot) => self.slots.get_mut(slot).map(|running| &mut running.sequence),
            None => self.queue.get_mut(id).map(|(_, sequence)| sequence),
        }
    }

    /// Whether there is nothing to do: no request, and no slot of which the executor is still to be told.
    pub fn is_idle(&self) -> bool {
        self.slots.len() == 0 && self.queue.is_empty() && !self.slots.has_released()
    }

    /// Steps under way.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Requests with a slot.
    pub fn running(&self) -> usize {
        self.slots.len()
    }

    /// Requests that wait, preempted ones included.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Requests that wait and never had a slot; these count against `waiting_max`.
    pub fn waiting_new(&self) -> usize {
        self.queue.new_len()
    }

    /// Whose slot it is.
    pub fn request_in(&self, slot: SlotId) -> Option<RequestId> {
        self.slots.get(slot).map(|running| running.ticket.id)
    }

    /// Whether a request runs.
    pub fn has_slot(&self, id: RequestId) -> bool {
        self.slots.of(id).is_some()
    }

    /// KV blocks in use and in all, over all cache groups.
    pub fn kv_blocks(&self) -> (u64, u64) {
        (self.kv.blocks_used(), self.kv.blocks_total())
    }

    /// Blocks whose contents are in the host's memory and as many as can be, over all cache groups.
    pub fn host_blocks(&self) -> (u64, u64) {
        self.kv.host_blocks()
    }

    /// Counts since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What each request must keep to.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The settings that hold, after the executor's limits.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// A request that lost its slot, with all that is needed to compute it again.
pub(crate) struct Vacated {
    pub(crate) ticket: Ticket,
    pub(crate) sequence: Sequence,
    /// Positions that steps had computed or were computing.
    pub(crate) planned: u32,
}
