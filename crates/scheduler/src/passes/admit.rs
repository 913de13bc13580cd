//! Waiting requests that get a slot.
//!
//! In order: what does not fit is waited for, so that small requests cannot starve a large one. Only one whose
//! beginning a running request is computing right now is passed by, since it is sooner done with that one's blocks.

use types::RequestId;

use crate::{
    Scheduler,
    plan::Draft,
    sequence::{Running, Sequence},
};

/// Most requests passed by: looking at each costs the step.
const PASSED_BY_MAX: usize = 32;

/// Starts waiting requests while there are budget, slots and blocks.
pub(crate) fn admit(scheduler: &mut Scheduler, draft: &mut Draft) {
    // Room that was just taken from a running request is not for a newcomer.
    while draft.tokens_left > 0 && !draft.preempted {
        let chunk_max = scheduler.settings.prefill_chunk_max;
        if !next(scheduler).is_some_and(|id| scheduler.start(draft, id, chunk_max)) {
            return;
        }
    }
}

/// The request whose turn it is, if there is room for it.
fn next(scheduler: &Scheduler) -> Option<RequestId> {
    let mut waiting = scheduler.queue.iter().take(PASSED_BY_MAX + 1);
    let (ticket, sequence) = waiting.find(|(_, sequence)| !is_sooner_later(scheduler, sequence))?;
    let starts = sequence.probation.is_none() && has_room(scheduler, sequence);
    starts.then_some(ticket.id)
}

/// Whether a request has its first token sooner if it waits until a running one has computed what both begin with.
fn is_sooner_later(scheduler: &Scheduler, sequence: &Sequence) -> bool {
    let advances =
        |running: &Running| running.planned > running.computed && running.tables.is_open();
    let to_come = |running: &Running| {
        let (one, other) = (&running.sequence.key, &sequence.key);
        let common = scheduler.kv.in_common(one, other, sequence.skippable());
        if common > running.computed { common } else { 0 }
    };
    let running = scheduler.slots.iter().map(|(_, running)| running);
    let to_come = running.filter(|running| advances(running)).map(to_come).max().unwrap_or(0);
    if to_come == 0 {
        return false;
    }
    let found = scheduler.kv.find(&sequence.key, sequence.skippable()).positions;
    // It waits a step or a few for positions that the device would compute twice in them. Sooner is where they are at
    // least half of what it needs.
    to_come.saturating_sub(found) >= (sequence.len() - found).div_ceil(2)
}

/// Whether a waiting request could get a slot and the blocks for all its tokens, leaving enough for the running ones to
/// grow for a while: an admission that soon ends in a preemption is work lost.
pub(crate) fn has_room(scheduler: &Scheduler, sequence: &Sequence) -> bool {
    let running = scheduler.slots.len() as u32;
    if running >= scheduler.settings.running_max {
        return false;
    }
    let hit = scheduler.kv.find(&sequence.key, sequence.skippable());
    scheduler.kv.pools().iter().enumerate().all(|(group, pool)| {
        let percent = u64::from(scheduler.settings.kv_reserve_percent);
        let share = (u64::from(pool.total()) * percent).div_ceil(100) as u32;
        let reserve = if running == 0 { 0 } else { share.max(running) };
        // What is found but held by nobody counts as free, and is needed.
        let held = hit.held.get(group).copied().unwrap_or(0);
        pool.blocks_for(sequence.len()) - held + reserve <= pool.free()
    })
}
