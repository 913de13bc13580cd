//! Requests under suspicion run alone, one at a time.
//!
//! When a step fails as a whole, nobody knows for which of its requests. Each is computed again up to where it was,
//! by itself: whoever is to blame fails alone this time and is ended, and the others are cleared. While one cannot
//! be given room, the cleared ones go on, so there is always progress. A step on probation is under way alone.

use types::{RequestId, SlotId};

use super::admit::room;
use crate::{Scheduler, plan::Draft};

/// Gives the step to a request on probation, if there is one that can run. Says whether it did.
pub(crate) fn probation(scheduler: &mut Scheduler, draft: &mut Draft) -> bool {
    if let Some(slot) = suspect(scheduler) {
        // The position that the lost step was to compute may be one whose token is only known now, without a block yet.
        let still_runs = scheduler.make_room(draft, slot);
        if still_runs {
            scheduler.schedule_chunk(draft, slot);
        }
        return still_runs;
    }
    next(scheduler, draft).is_some_and(|id| scheduler.start(draft, id).is_some())
}

/// Whether the next step goes to a request on probation. Such a step is under way alone, or nobody could tell which of
/// two steps failed.
pub(crate) fn is_probation_due(scheduler: &Scheduler, draft: &mut Draft) -> bool {
    suspect(scheduler).is_some() || next(scheduler, draft).is_some()
}

fn suspect(scheduler: &Scheduler) -> Option<SlotId> {
    let mut running = scheduler.slots.iter();
    running.find(|(_, running)| running.sequence.probation.is_some()).map(|(slot, _)| slot)
}

fn next(scheduler: &Scheduler, draft: &mut Draft) -> Option<RequestId> {
    let (ticket, sequence) = scheduler.queue.first()?;
    (sequence.probation.is_some() && room(scheduler, draft, sequence).is_ok()).then_some(ticket.id)
}
