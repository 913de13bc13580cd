//! Requests under suspicion run alone, one at a time.
//!
//! When a step fails as a whole, nobody knows for which of its requests. Each is computed again up to where it was,
//! by itself: whoever is to blame fails alone this time and is ended, and the others are cleared. While one cannot
//! be given room, the cleared ones go on, so there is always progress. A step on probation is under way alone.

use types::{RequestId, SlotId};

use super::admit::has_room;
use crate::{Scheduler, plan::Draft, sequence::Running};

/// Gives the step to a request on probation, if there is one that can run. Says whether it did.
pub(crate) fn probation(scheduler: &mut Scheduler, draft: &mut Draft) -> bool {
    if let Some((slot, running)) = suspect(scheduler) {
        let count = running.remaining().min(draft.tokens_left);
        // The position that the lost step was to compute may be one whose token is only known now, without a block yet.
        let still_runs = scheduler.make_room(draft, slot);
        if still_runs {
            scheduler.schedule(draft, slot, count);
        }
        return still_runs;
    }
    let whole = draft.tokens_left;
    next(scheduler).is_some_and(|id| scheduler.start(draft, id, whole))
}

/// Whether the next step goes to a request on probation. Such a step is under way alone, or nobody could tell which of
/// two steps failed.
pub(crate) fn is_probation_due(scheduler: &Scheduler) -> bool {
    suspect(scheduler).is_some() || next(scheduler).is_some()
}

fn suspect(scheduler: &Scheduler) -> Option<(SlotId, &Running)> {
    scheduler.slots.iter().find(|(_, running)| running.sequence.probation.is_some())
}

fn next(scheduler: &Scheduler) -> Option<RequestId> {
    let (ticket, sequence) = scheduler.queue.first()?;
    (sequence.probation.is_some() && has_room(scheduler, sequence)).then_some(ticket.id)
}
