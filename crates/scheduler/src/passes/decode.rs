//! Running requests that need one position for their next token: each gets it, in every step.

use crate::{Scheduler, plan::Draft};

/// Schedules one position of each. Where blocks run out, running requests of the highest rank give way, which are later
/// in this walk: none that already has its position can lose it again.
pub(crate) fn decode(scheduler: &mut Scheduler, draft: &mut Draft) {
    for slot in scheduler.slots.in_order() {
        // One that gave way to an earlier one has no slot any more.
        let Some(running) = scheduler.slots.get(slot) else { continue };
        let position = running.planned;
        if running.remaining() == 1 && scheduler.make_room(draft, slot) {
            scheduler.schedule(draft, slot, 1);
            draft.pace.add_token(position);
        }
    }
}
