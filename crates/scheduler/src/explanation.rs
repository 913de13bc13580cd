//! What a request can be told of its own fate: where its time went, and why.

use std::{sync::Arc, time::Duration};

use kv::Miss;
use serde::{Deserialize, Serialize};
use types::RequestId;

/// Preemptions that are told one by one; more are counted.
pub(crate) const PREEMPTIONS_LISTED_MAX: usize = 8;

/// What a request's time goes to. Every moment from its arrival to its end goes to exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    /// A step was under way when it arrived or got its slot.
    Step,
    /// It waited, and steps were full: of positions, or of time.
    Tokens,
    /// It waited, and as many requests ran as may.
    Slot,
    /// It waited, or whoever stood before it, for blocks of the KV cache.
    Blocks,
    /// It waited for another request to compute what both begin with.
    Prefix,
    /// The executor had failed: steps were lost, and requests were computed again alone.
    Recovery,
    /// It had been preempted, and waited for another slot.
    Preempted,
    /// It had a slot, and steps went to others.
    Stalled,
    /// Steps that computed its prompt.
    Prefill,
    /// Steps that computed again what it had lost.
    Recompute,
    /// Steps that did no more for it than to bring blocks back from the host's memory.
    Restore,
    /// Steps that drew its next tokens.
    Decode,
}

impl Cause {
    /// All causes with their names.
    pub const NAMES: [(Self, &str); 12] = [
        (Self::Step, "queued_for_step"),
        (Self::Tokens, "queued_for_tokens"),
        (Self::Slot, "queued_for_slot"),
        (Self::Blocks, "queued_for_blocks"),
        (Self::Prefix, "queued_for_prefix"),
        (Self::Recovery, "recovery"),
        (Self::Preempted, "preempted"),
        (Self::Stalled, "stalled"),
        (Self::Prefill, "prefill"),
        (Self::Recompute, "recompute"),
        (Self::Restore, "restore"),
        (Self::Decode, "decode"),
    ];
}

/// Time by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times([Duration; Cause::NAMES.len()]);

impl Times {
    pub(crate) fn add(&mut self, cause: Cause, time: Duration) {
        self.0[cause as usize] += time;
    }

    pub(crate) fn add_difference(&mut self, later: &Self, earlier: &Self) {
        for ((time, later), earlier) in self.0.iter_mut().zip(later.0).zip(earlier.0) {
            *time += later.saturating_sub(earlier);
        }
    }

    /// The time that went to a cause.
    pub fn of(&self, cause: Cause) -> Duration {
        self.0[cause as usize]
    }

    /// The time that went to all causes.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}

/// What a request found in the prefix cache when it first got a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixUse {
    /// Tokens from its beginning that were there.
    pub hit_tokens: u32,
    /// Of those, the last ones, which were brought back from the host's memory.
    pub host_tokens: u32,
    /// Why there were no more; none if there could not be.
    pub miss: Option<Miss>,
}

/// The steps in which a request took part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    /// Those that computed its prompt.
    pub prefill: u32,
    /// Those that computed again what it had lost.
    pub recompute: u32,
    /// Those that drew next tokens.
    pub decode: u32,
    /// Other requests in these steps, added up.
    pub others: u64,
    /// The most others in one of them.
    pub others_max: u32,
    /// Positions of the others in these steps, added up: what they had to compute besides its own.
    pub positions_of_others: u64,
}

impl Steps {
    /// All of them.
    pub fn count(&self) -> u32 {
        self.prefill + self.recompute + self.decode
    }
}

/// A time when a request lost its slot to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preemption {
    /// Who got the room; nobody in particular where it found no block for its own next token.
    pub by: Option<RequestId>,
    /// Why.
    pub reason: PreemptionReason,
    /// Positions that steps had computed for it by then, or were computing.
    pub computed_tokens: u32,
}

/// Why a request is preempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreemptionReason {
    /// The KV cache had no block left for a token, and it was the last in order.
    Blocks,
    /// One of a higher class had no room.
    Class,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// In the queue.
    Waiting,
    /// In a slot.
    Running,
    /// It has ended, in whatever way.
    Ended,
}

/// Where a request's time went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Whose.
    pub id: RequestId,
    /// Where it is.
    pub phase: Phase,
    /// On whose behalf it came.
    pub tenant: Arc<str>,
    /// When it arrived.
    pub arrived: Duration,
    /// When it ended, or until when this is.
    pub until: Duration,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub generated_tokens: u32,
    /// Requests that waited when it arrived.
    pub waiting_at_arrival: u32,
    /// Requests that ran when it arrived.
    pub running_at_arrival: u32,
    /// From `arrived` to `until`, all of it.
    pub times: Times,
    /// What it found in the prefix cache.
    pub prefix: PrefixUse,
    /// The steps in which it took part.
    pub steps: Steps,
    /// How often it was preempted.
    pub preemptions: u32,
    /// The first few of these.
    pub preemptions_listed: Vec<Preemption>,
    /// Positions that were computed more than once.
    pub recomputed_tokens: u64,
    /// Positions that were brought back from the host's memory after it had lost its slot, and so not computed again.
    pub restored_tokens: u64,
    /// Tokens guessed.
    pub drafted_tokens: u32,
    /// Of those, the ones that were right.
    pub accepted_tokens: u32,
}
