//! Which waiting request gets a slot.
//!
//! In order: what does not fit is waited for, so that small requests cannot starve a large one. Only one whose
//! beginning a running request is computing right now is passed by, since it is sooner done with that one's blocks.

use kv::BlockPool;
use queue::Ticket;
use types::{planted, planted::Planted};

use crate::{
    Cause, Scheduler,
    plan::Draft,
    sequence::{Running, Sequence},
};

/// Most requests passed by: looking at each costs the step.
const PASSED_BY_MAX: usize = 32;

/// The request whose turn it is, if there is room for it.
pub(crate) fn next(scheduler: &Scheduler, draft: &mut Draft) -> Option<Ticket> {
    draft.passed_by.clear();
    draft.stopped = None;
    for (ticket, sequence) in scheduler.queue.iter().take(PASSED_BY_MAX + 1) {
        if is_sooner_later(scheduler, sequence) {
            draft.passed_by.push(ticket.id);
            continue;
        }
        if planted::is(Planted::Starvation) && ticket.id.0 % 5 == 3 {
            return None;
        }
        let room = match sequence.probation {
            Some(_) => Err(Cause::Recovery),
            None => room(scheduler, draft, sequence),
        };
        draft.stopped = room.err();
        return room.is_ok().then_some(*ticket);
    }
    draft.stopped = Some(Cause::Prefix);
    None
}

/// Whether a request has its first token sooner if it waits until a running one has computed what both begin with.
fn is_sooner_later(scheduler: &Scheduler, sequence: &Sequence) -> bool {
    let advances =
        |running: &Running| running.planned > running.computed && running.tables.is_open();
    let to_come = |running: &Running| {
        let one = (&running.tables, &running.sequence.key);
        let common = scheduler.kv.to_come(one, &sequence.key, sequence.skippable());
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

/// Whether a waiting request could get a slot and the blocks for all its tokens, with enough left for it and the
/// running ones to grow as answers do: an admission that ends in a preemption is work lost. If not, what it waits for.
pub(crate) fn room(
    scheduler: &Scheduler,
    draft: &mut Draft,
    sequence: &Sequence,
) -> Result<(), Cause> {
    let running = scheduler.slots.len() as u32;
    if running >= scheduler.settings.running_max {
        return Err(Cause::Slot);
    }
    let hit = scheduler.kv.find(&sequence.key, sequence.skippable());
    let needed = |(group, pool): (usize, &BlockPool)| {
        // What is found but held by nobody counts as free, and is needed.
        let all = pool.group().blocks_of_one(sequence.len());
        all.saturating_sub(hit.held.get(group).copied().unwrap_or(0))
    };
    let mut pools = scheduler.kv.pools().iter().enumerate();
    if running == 0 {
        let has_blocks = pools.all(|pool| needed(pool) <= pool.1.free());
        return has_blocks.then_some(()).ok_or(Cause::Blocks);
    }
    let growth = draft.growth.get_or_insert_with(|| scheduler.growth());
    let growth = growth.with(sequence.len(), scheduler.expected_growth(sequence, 0));
    let has_blocks = pools.all(|(group, pool)| {
        let needed = needed((group, pool));
        let percent = u64::from(scheduler.settings.kv_reserve_percent);
        let reserve = (u64::from(pool.total()) * percent).div_ceil(100) as u32;
        let peak = growth.peak_blocks(pool, pool.total() - pool.free() + needed);
        // Whatever is expected, each gets its next block; of a state it has all that it ever needs.
        let next = if pool.group().is_state() { 0 } else { running };
        needed + next <= pool.free() && peak.saturating_add(reserve) <= pool.total()
    });
    has_blocks.then_some(()).ok_or(Cause::Blocks)
}
