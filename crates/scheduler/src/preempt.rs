//! Taking room from running requests.
//!
//! The blocks are freed, and the request returns to its place in the queue with its tokens. Those of its blocks that
//! others do not need meanwhile it finds again; what had to make room is brought back from the host's memory if it is
//! there and that is sooner, and computed again if not. A token that a step under way is drawing for
//! it reaches it there, so nothing is drawn twice.

use std::{collections::BTreeMap, time::Duration};

use types::{Fault, RequestEvent, RequestId, SlotId, planted, planted::Planted};

use crate::{Cause, Preemption, PreemptionReason, Scheduler, plan::Draft, scheduler::Vacated};

impl Scheduler {
    /// Finds a block for the next position of the request in `slot`, if it needs one. Whoever has the highest rank
    /// gives way until there is one, at last the request itself. Says whether the request still runs.
    pub(crate) fn make_room(&mut self, draft: &mut Draft, slot: SlotId) -> bool {
        loop {
            let running = self.slots.get_mut(slot).expect("the caller saw it run");
            if self.kv.grow(&mut running.tables, running.planned + 1).is_ok() {
                return true;
            }
            let id = running.ticket.id;
            let last = self.slots.last().expect("at least this one runs");
            let by = (last != slot).then_some(id);
            self.preempt(draft, last, by, PreemptionReason::Blocks);
            if last == slot {
                return false;
            }
        }
    }

    pub(crate) fn preempt(
        &mut self,
        draft: &mut Draft,
        slot: SlotId,
        by: Option<RequestId>,
        reason: PreemptionReason,
    ) {
        draft.preempted = true;
        self.counters.preemptions += 1;
        let vacated = self.vacate(slot).expect("the victim runs");
        let Vacated { ticket, mut sequence, planned: computed_tokens } = vacated;
        sequence.preemptions += 1;
        let (account, clock) = (&mut sequence.account, &self.line.clock);
        account.lose_slot(Cause::Preempted, computed_tokens, draft.now, clock);
        account.preempted(Preemption { by, reason, computed_tokens });
        if !planted::strikes(Planted::LostRequest) {
            self.queue.put_back(ticket, sequence);
        }
    }

    /// The executor failed and a new one takes its place: everything that runs returns to the queue, to be computed
    /// again there. The requests of the steps under way, which are lost at `now`, are put on probation, since a device
    /// may report a fault late; one that was on probation already is to blame, and ends with `fault`.
    pub fn requeue_all(&mut self, fault: &Fault, now: Duration) -> Vec<(RequestId, RequestEvent)> {
        let lost = std::mem::take(&mut self.flights).into_iter().flat_map(|flight| flight.items);
        // Of two items of one request, the later one counts.
        let suspects: BTreeMap<RequestId, u32> =
            lost.map(|item| (item.request, item.positions.end - item.draft.len() as u32)).collect();
        let mut events = Vec::new();
        for (id, end) in suspects {
            let Some(sequence) = self.sequence_mut(id) else { continue };
            if sequence.probation.is_some() {
                self.abort(id, now);
                events.push((id, RequestEvent::Failed(fault.clone())));
            } else {
                sequence.probation = Some(end);
            }
        }
        for slot in self.slots.in_order() {
            let vacated = self.vacate(slot).expect("listed as running");
            let Vacated { ticket, mut sequence, planned } = vacated;
            sequence.account.lose_slot(Cause::Recovery, planned, now, &self.line.clock);
            self.queue.put_back(ticket, sequence);
        }
        // The new executor never heard of these slots, and its blocks are empty.
        self.slots.take_released();
        self.kv.forget_all();
        self.line.clock.turn(Cause::Recovery, now);
        events
    }
}
