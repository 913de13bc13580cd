//! Waiting requests that get a slot.
//!
//! Strictly in order: what does not fit is waited for, so that small requests cannot starve a large one.

use crate::{Scheduler, plan::Draft};

/// Starts waiting requests while there are budget, slots and blocks.
pub(crate) fn admit(scheduler: &mut Scheduler, draft: &mut Draft) {
    // Room that was just taken from a running request is not for a newcomer.
    while draft.tokens_left > 0 && !draft.preempted {
        let Some((_, sequence)) = scheduler.queue.first() else { return };
        if sequence.probation.is_some() || !has_room(scheduler) {
            return;
        }
        scheduler.start_first(draft, scheduler.settings.prefill_chunk_max);
    }
}

/// Whether the first waiting request could get a slot and the blocks for all its tokens, leaving enough for the running
/// ones to grow for a while: an admission that soon ends in a preemption is work lost.
pub(crate) fn has_room(scheduler: &Scheduler) -> bool {
    let Some((_, sequence)) = scheduler.queue.first() else { return false };
    let running = scheduler.slots.len() as u32;
    if running >= scheduler.settings.running_max {
        return false;
    }
    scheduler.kv.pools().iter().all(|pool| {
        let percent = u64::from(scheduler.settings.kv_reserve_percent);
        let share = (u64::from(pool.total()) * percent).div_ceil(100) as u32;
        let reserve = if running == 0 { 0 } else { share.max(running) };
        pool.blocks_for(sequence.len()) + reserve <= pool.free()
    })
}
