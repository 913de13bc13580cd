//! Running requests that need one position for their next token: each gets it, in every step.

use crate::{Scheduler, plan::Draft};

/// Schedules one position of each. Where blocks run out, running requests of the highest rank give way, which are later
/// in this walk: none that already has its position can lose it again.
///
/// A prompt whose blocks come with its positions is in the same walk, so that it gets on as well: by one at least.
pub(crate) fn decode(scheduler: &mut Scheduler, draft: &mut Draft) {
    let in_order = scheduler.slots.in_order();
    // Guesses take nobody's own position, and leave prompts as much as they take.
    let mut spare = draft.tokens_left.saturating_sub(in_order.len() as u32) / 2;
    for slot in in_order {
        // One that gave way to an earlier one has no slot any more.
        let Some(running) = scheduler.slots.get(slot) else { continue };
        let position = running.planned;
        let remaining = running.remaining();
        let has_room = || scheduler.kv.reach(&running.tables, 0) > position;
        // With what is under way, some of its blocks may fall out of the window: it waits for those.
        if remaining == 0
            || position > running.computed && !has_room() && scheduler.kv.has_windows()
        {
            continue;
        }
        if scheduler.make_room(draft, slot) && remaining == 1 {
            let guess = scheduler.guess(draft, slot, spare);
            let guessed = guess.len() as u32;
            spare -= guessed;
            scheduler.schedule(draft, slot, 1, guess);
            draft.pace.add_token(position..position + 1 + guessed);
        }
    }
}
