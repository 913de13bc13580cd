//! Running requests with a prompt, or a sequence to compute again, that is not through yet.

use crate::{Scheduler, plan::Draft};

/// Schedules the next chunk of each, as long as there is budget. Their blocks are theirs since admission.
pub(crate) fn prefill(scheduler: &mut Scheduler, draft: &mut Draft) {
    for slot in scheduler.slots.in_order() {
        let Some(running) = scheduler.slots.get(slot) else { continue };
        let chunk =
            running.remaining().min(scheduler.settings.prefill_chunk_max).min(draft.tokens_left);
        if running.remaining() > 1 && chunk > 0 {
            scheduler.schedule(draft, slot, chunk);
        }
    }
}
