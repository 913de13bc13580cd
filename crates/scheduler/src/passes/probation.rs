//! Requests under suspicion run alone, one at a time.
//!
//! When a step fails as a whole, nobody knows for which of its requests. Each is computed again up to where it was,
//! by itself: whoever is to blame fails alone this time and is ended, and the others are cleared. While one cannot
//! be given room, the cleared ones go on, so there is always progress.

use super::admit::has_room;
use crate::{Scheduler, plan::Draft};

/// Gives the step to a request on probation, if there is one that can run. Says whether it did.
pub(crate) fn probation(scheduler: &mut Scheduler, draft: &mut Draft) -> bool {
    let suspect = scheduler.slots.iter().find(|(_, r)| r.sequence.probation.is_some());
    if let Some((slot, running)) = suspect {
        let count = running.remaining().min(draft.tokens_left);
        scheduler.schedule(draft, slot, count);
        return true;
    }
    let next_is_suspect =
        scheduler.queue.first().is_some_and(|(_, sequence)| sequence.probation.is_some());
    if next_is_suspect && has_room(scheduler) {
        let whole = draft.tokens_left;
        scheduler.start_first(draft, whole);
        return true;
    }
    false
}
