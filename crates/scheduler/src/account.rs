//! Keeping account of where each request's time goes, by cause.
//!
//! A request in line waits for whatever the whole queue waits for, so that is kept once, by a clock of the queue: a
//! request's share of it is the difference between two readings. What a request waits for on its own, and its time in
//! steps, it keeps itself. A step's time is charged when its outcome comes; time with a slot and outside of any step
//! until then is charged to what it waited for. So each moment is charged once.

use std::{ops::Range, time::Duration};

use serde::{Deserialize, Serialize};
use types::RequestId;

use crate::{
    Cause, Explanation, Preemption, PrefixUse, Steps, Times,
    explanation::{PREEMPTIONS_LISTED_MAX, Phase},
    sequence::Sequence,
};

/// What the queue waits for, over time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct QueueClock {
    cause: Cause,
    since: Duration,
    times: Times,
}

impl QueueClock {
    pub(crate) fn new() -> Self {
        Self { cause: Cause::Step, since: Duration::ZERO, times: Times::default() }
    }

    /// From `now` on, the queue waits for this.
    pub(crate) fn turn(&mut self, cause: Cause, now: Duration) {
        self.times = self.read(now);
        self.cause = cause;
        self.since = self.since.max(now);
    }

    fn read(&self, now: Duration) -> Times {
        let mut times = self.times;
        times.add(self.cause, now.saturating_sub(self.since));
        times
    }
}

/// The account of one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    arrived: Duration,
    /// Up to when the times below are complete.
    since: Duration,
    waits: Waits,
    times: Times,
    waiting_at_arrival: u32,
    running_at_arrival: u32,
    prefix: PrefixUse,
    steps: Steps,
    preemptions: Vec<Preemption>,
    /// Positions that were computed before it was preempted.
    reached: u32,
    recomputed_tokens: u64,
    restored_tokens: u64,
    drafted_tokens: u32,
    accepted_tokens: u32,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Waits {
    /// This, and no other request needs to.
    Alone(Cause),
    /// Whatever the queue waits for, from this reading of its clock on.
    InLine(Times),
    /// It has a slot, and until the step begins in which it takes part, it is this.
    InSlot(Cause),
}

/// A step that has ended, as each request in it sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    pub(crate) begun: Duration,
    pub(crate) ended: Duration,
    pub(crate) requests: u32,
    pub(crate) positions: u32,
}

impl Account {
    pub(crate) fn new(arrived: Duration, waiting: usize, running: usize) -> Self {
        Self {
            arrived,
            since: arrived,
            waits: Waits::Alone(Cause::Step),
            times: Times::default(),
            waiting_at_arrival: waiting as u32,
            running_at_arrival: running as u32,
            prefix: PrefixUse::default(),
            steps: Steps::default(),
            preemptions: Vec::new(),
            reached: 0,
            recomputed_tokens: 0,
            restored_tokens: 0,
            drafted_tokens: 0,
            accepted_tokens: 0,
        }
    }

    /// Completes the times up to `now`.
    fn settle(&mut self, now: Duration, queue: &QueueClock) {
        match self.waits {
            Waits::Alone(cause) | Waits::InSlot(cause) => {
                self.times.add(cause, now.saturating_sub(self.since));
            }
            Waits::InLine(reading) => self.times.add_difference(&queue.read(now), &reading),
        }
        self.since = self.since.max(now);
    }

    /// A plan was made, and it still waits: for a reason of its own, or with all others. What it waits for since it
    /// lost its slot stays what it is.
    pub(crate) fn stay(&mut self, alone: Option<Cause>, now: Duration, queue: &QueueClock) {
        if matches!(self.waits, Waits::Alone(Cause::Preempted | Cause::Recovery)) {
            return;
        }
        self.settle(now, queue);
        self.waits = alone.map_or_else(|| Waits::InLine(queue.read(now)), Waits::Alone);
    }

    /// It got a slot.
    pub(crate) fn start(&mut self, now: Duration, queue: &QueueClock) {
        self.settle(now, queue);
        self.waits = Waits::InSlot(Cause::Step);
    }

    /// What it found in the cache when it first got a slot.
    pub(crate) fn found(&mut self, prefix: PrefixUse) {
        self.prefix = prefix;
    }

    /// So many positions of it are brought back from the host's memory, in its first slot or a later one.
    pub(crate) fn brought_back(&mut self, positions: u32, is_first: bool) {
        if is_first {
            self.prefix.hit_tokens += positions;
            self.prefix.host_tokens += positions;
        } else {
            self.restored_tokens += u64::from(positions);
        }
    }

    /// It lost its slot with so many positions computed; what it waits for until it gets another.
    pub(crate) fn lose_slot(
        &mut self,
        cause: Cause,
        computed: u32,
        now: Duration,
        queue: &QueueClock,
    ) {
        // A step that is lost was of no use.
        if cause == Cause::Recovery {
            self.waits = Waits::Alone(cause);
        }
        self.settle(now, queue);
        self.waits = Waits::Alone(cause);
        self.reached = self.reached.max(computed);
    }

    /// Why it was preempted.
    pub(crate) fn preempted(&mut self, preemption: Preemption) {
        if self.preemptions.len() < PREEMPTIONS_LISTED_MAX {
            self.preemptions.push(preemption);
        }
    }

    /// A step ended in which these positions of it were computed.
    pub(crate) fn take_part(&mut self, step: &Shared, positions: &Range<u32>, prompt_len: u32) {
        let (cause, count) = if positions.start < self.reached {
            let again = positions.end.min(self.reached) - positions.start;
            self.recomputed_tokens += u64::from(again);
            (Cause::Recompute, &mut self.steps.recompute)
        } else if positions.start < prompt_len {
            (Cause::Prefill, &mut self.steps.prefill)
        } else {
            (Cause::Decode, &mut self.steps.decode)
        };
        *count += 1;
        let others = step.requests - 1;
        self.steps.others += u64::from(others);
        self.steps.others_max = self.steps.others_max.max(others);
        self.steps.positions_of_others += u64::from(step.positions) - positions.len() as u64;
        self.charge(step, cause);
    }

    /// A step ended that did nothing but bring blocks of it back.
    pub(crate) fn restored(&mut self, step: &Shared) {
        self.charge(step, Cause::Restore);
    }

    fn charge(&mut self, step: &Shared, cause: Cause) {
        // One that lost its slot meanwhile waits already, and a moment is charged once.
        let Waits::InSlot(gap) = self.waits else { return };
        let begun = step.begun.max(self.since);
        self.times.add(gap, begun.saturating_sub(self.since));
        self.times.add(cause, step.ended.saturating_sub(begun));
        self.since = begun.max(step.ended);
        self.waits = Waits::InSlot(Cause::Stalled);
    }

    /// So many of its next tokens were guessed, and the first of them rightly.
    pub(crate) fn guessed(&mut self, guessed: u32, accepted: u32) {
        self.drafted_tokens += guessed;
        self.accepted_tokens += accepted;
    }

    /// The account as of `now`.
    pub(crate) fn explain(
        &self,
        (id, phase): (RequestId, Phase),
        sequence: &Sequence,
        now: Duration,
        queue: &QueueClock,
    ) -> Explanation {
        let mut account = self.clone();
        account.settle(now, queue);
        Explanation {
            id,
            phase,
            tenant: sequence.tenant.clone(),
            arrived: account.arrived,
            until: account.since,
            prompt_tokens: sequence.prompt_len,
            generated_tokens: sequence.generated(),
            waiting_at_arrival: account.waiting_at_arrival,
            running_at_arrival: account.running_at_arrival,
            times: account.times,
            prefix: account.prefix,
            steps: account.steps,
            preemptions: sequence.preemptions,
            preemptions_listed: account.preemptions,
            recomputed_tokens: account.recomputed_tokens,
            restored_tokens: account.restored_tokens,
            drafted_tokens: account.drafted_tokens,
            accepted_tokens: account.accepted_tokens,
        }
    }
}
