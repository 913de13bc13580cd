//! Where the policy has classes that preempt, running requests of higher classes give way to a waiting one that finds
//! no room.

use super::admit::room;
use crate::{PreemptionReason, Scheduler, plan::Draft};

/// Preempts the last in order until the first that waits has room. It starts in the step after this one.
pub(crate) fn make_way(scheduler: &mut Scheduler, draft: &mut Draft) {
    if !scheduler.policy.preempts_classes() {
        return;
    }
    loop {
        let Some((ticket, sequence)) = scheduler.queue.first() else { return };
        let Some(last) = scheduler.slots.last() else { return };
        let running = scheduler.slots.get(last).expect("listed as running");
        let outranked = ticket.rank.place.class < running.ticket.rank.place.class;
        if !outranked || sequence.probation.is_some() || room(scheduler, draft, sequence).is_ok() {
            return;
        }
        let by = Some(ticket.id);
        scheduler.preempt(draft, last, by, PreemptionReason::Class);
        draft.growth = None;
    }
}
