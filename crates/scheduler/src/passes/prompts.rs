//! Prompts, and sequences to compute again: those under way and those that wait for a slot, in one order.
//!
//! A waiting request that stands before a running one gets its positions of the step first, so that a long prompt that
//! is under way does not hold up a short one.

use std::collections::VecDeque;

use types::SlotId;

use super::admit::next;
use crate::{Cause, Scheduler, plan::Draft};

/// Hands out what is left of the step, as long as there is budget, time, and for those that start slots and blocks.
pub(crate) fn prompts(scheduler: &mut Scheduler, draft: &mut Draft) {
    let has_prompt = |slot: &SlotId| scheduler.slots.get(*slot).is_some_and(|r| r.remaining() > 1);
    let mut under_way: VecDeque<SlotId> =
        scheduler.slots.in_order().into_iter().filter(has_prompt).collect();
    // Room that was just taken from a running request is not for a newcomer.
    let mut is_open = !draft.preempted;
    draft.stopped = draft.preempted.then_some(Cause::Blocks);
    while draft.tokens_left > 0 {
        let waiting = if is_open { next(scheduler, draft) } else { None };
        let running = under_way.front().copied();
        let running_rank =
            running.and_then(|slot| scheduler.slots.get(slot)).map(|r| r.ticket.rank);
        match (waiting, running) {
            (Some(waiting), _) if running_rank.is_none_or(|rank| waiting.rank < rank) => {
                // One whose history is still on its way back from the host's memory takes no time to compute, and must
                // not let in all that wait.
                let started = scheduler.start(draft, waiting.id);
                is_open = started.is_some_and(|slot| !scheduler.is_restoring(slot));
            }
            (_, Some(slot)) => {
                under_way.pop_front();
                if !scheduler.schedule_chunk(draft, slot) && !scheduler.is_restoring(slot) {
                    return;
                }
            }
            (_, None) => return,
        }
    }
}
