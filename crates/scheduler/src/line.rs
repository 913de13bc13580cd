//! Who waits for what: the accounts of waiting requests, kept with each plan.

use std::{collections::VecDeque, mem, time::Duration};

use queue::Ticket;
use serde::{Deserialize, Serialize};
use types::RequestId;

use crate::{
    Cause, Explanation, Scheduler,
    account::QueueClock,
    explanation::Phase,
    plan::Draft,
    sequence::{Running, Sequence},
};

/// The waiting requests' side of the accounts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) clock: QueueClock,
    /// Arrived since the last plan.
    fresh: Vec<RequestId>,
    /// Passed by in the last plan, because another request computes their beginnings.
    passed_by: Vec<RequestId>,
    /// Accounts of requests that ended and that nobody has asked for yet.
    ended: VecDeque<Explanation>,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self {
            clock: QueueClock::new(),
            fresh: Vec::new(),
            passed_by: Vec::new(),
            ended: VecDeque::new(),
        }
    }

    pub(crate) fn arrived(&mut self, id: RequestId) {
        self.fresh.push(id);
    }
}

impl Scheduler {
    /// A plan was made: for what those wait that it did not start.
    pub(crate) fn keep_line(&mut self, draft: &mut Draft) {
        let Self { line, queue, .. } = self;
        let now = draft.now;
        line.clock.turn(draft.stopped.unwrap_or(Cause::Tokens), now);
        let fresh = mem::take(&mut line.fresh);
        let earlier = mem::replace(&mut line.passed_by, mem::take(&mut draft.passed_by));
        let in_line = fresh.into_iter().chain(earlier).map(|id| (id, None));
        let alone = line.passed_by.iter().map(|id| (*id, Some(Cause::Prefix)));
        for (id, cause) in in_line.chain(alone) {
            if let Some((_, sequence)) = queue.get_mut(id) {
                sequence.account.stay(cause, now, &line.clock);
            }
        }
    }

    /// A request has ended: its account is closed and kept until it is asked for.
    pub(crate) fn close_account(&mut self, ticket: &Ticket, sequence: &Sequence, now: Duration) {
        let settings = &self.settings;
        let kept_max = settings.running_max as usize + settings.waiting_max as usize;
        let Line { clock, ended, .. } = &mut self.line;
        ended.push_back(sequence.account.explain((ticket.id, Phase::Ended), sequence, now, clock));
        if ended.len() > kept_max {
            ended.pop_front();
        }
    }

    /// The accounts of the requests that ended since the last call, in whatever way. As many are kept as can be in the
    /// scheduler at once; of more, the oldest are gone.
    pub fn take_ended(&mut self) -> Vec<Explanation> {
        self.line.ended.drain(..).collect()
    }

    /// The account of each request that has not ended, as of `now`: those that run, then those that wait, in order.
    pub fn explain(&self, now: Duration) -> impl Iterator<Item = Explanation> + '_ {
        let explain = move |phase, ticket: &Ticket, sequence: &Sequence| {
            sequence.account.explain((ticket.id, phase), sequence, now, &self.line.clock)
        };
        let slots = self.slots.in_order().into_iter().filter_map(|slot| self.slots.get(slot));
        let running = slots
            .map(move |Running { ticket, sequence, .. }| explain(Phase::Running, ticket, sequence));
        let waiting = self.queue.iter();
        let waiting =
            waiting.map(move |(ticket, sequence)| explain(Phase::Waiting, ticket, sequence));
        running.chain(waiting)
    }
}
