//! Running requests that need one position for their next token: each gets it, in every step.

use crate::{Scheduler, plan::Draft};

/// Schedules one position of each. Where blocks run out, running requests of the highest rank give way, which are later
/// in this walk: none that already has its position can lose it again.
pub(crate) fn decode(scheduler: &mut Scheduler, draft: &mut Draft) {
    let in_order = scheduler.slots.in_order();
    // Guesses take nobody's own position, and leave prompts as much as they take.
    let mut spare = draft.tokens_left.saturating_sub(in_order.len() as u32) / 2;
    for slot in in_order {
        // One that gave way to an earlier one has no slot any more.
        let Some(running) = scheduler.slots.get(slot) else { continue };
        let position = running.planned;
        if running.remaining() == 1 && scheduler.make_room(draft, slot) {
            let guess = scheduler.guess(draft, slot, spare);
            let guessed = guess.len() as u32;
            spare -= guessed;
            scheduler.schedule(draft, slot, 1, guess);
            draft.pace.add_token(position..position + 1 + guessed);
        }
    }
}
