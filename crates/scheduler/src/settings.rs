//! Settings of the scheduler.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use queue::PolicyKind;
use serde::{Deserialize, Serialize};
use types::{CacheGroup, ExecutorInfo};

use crate::Error;

/// Settings of the scheduler. The executor's own limits always hold as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Most positions in one step, over all requests.
    pub step_tokens_max: u32,
    /// Most positions of one request in one step, so that a long prompt leaves room for others.
    pub prefill_chunk_max: u32,
    /// Most requests running at once.
    pub running_max: u32,
    /// Most new requests waiting; the next one is refused.
    pub waiting_max: u32,
    /// Share of the KV pool that admission leaves free beyond what it expects to be needed, in percent.
    pub kv_reserve_percent: u32,
    /// How much of the growth that is expected of running requests admission leaves room for, in percent. At least one
    /// block for each is left in any case. Not all by default: who is preempted finds most of its work in the cache, so
    /// a few preemptions cost less than blocks that lie idle (`docs/measurements` has the simulation).
    pub kv_growth_percent: u32,
    /// Requests use what is cached of others that began alike, and of themselves when they are computed again.
    pub prefix_cache: bool,
    /// Who is served first.
    pub policy: PolicyKind,
    /// The shares of tenants under the fair policy; 1 where nothing is said.
    pub tenant_weights: BTreeMap<Arc<str>, u32>,
    /// How long a step may take while requests wait for their next tokens: prompts get what is left of it. Without, a
    /// step is as large as the limits above allow, nothing is measured, and what is in the host's memory is always
    /// brought back.
    pub token_latency_target: Option<Duration>,
    /// Most tokens guessed at once of what a request says next, from its own prompt and answer; 0 guesses none. Only
    /// where the executor takes drafts, one step at a time, and no cache group is a recurrent state.
    pub draft_tokens_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            step_tokens_max: 2048,
            prefill_chunk_max: 512,
            running_max: 256,
            waiting_max: 1024,
            kv_reserve_percent: 2,
            kv_growth_percent: 40,
            prefix_cache: true,
            policy: PolicyKind::default(),
            tenant_weights: BTreeMap::new(),
            token_latency_target: Some(Duration::from_millis(100)),
            draft_tokens_max: 0,
        }
    }
}

impl Settings {
    /// The settings that hold with this executor.
    pub(crate) fn within(mut self, info: &ExecutorInfo) -> Result<Self, Error> {
        self.step_tokens_max = self.step_tokens_max.min(info.step_tokens_max);
        // With a second step under way, nobody knows the text that a guess would go on from; and what a wrong one does
        // to a state cannot be taken back.
        let has_states = info.cache_groups.iter().any(CacheGroup::is_state);
        let is_taken = info.steps_in_flight_max <= 1 && !has_states;
        self.draft_tokens_max =
            if is_taken { self.draft_tokens_max.min(info.draft_tokens_max) } else { 0 };
        // Every running request must get its one token in each step, so there are no more of them than the budget.
        self.running_max = self.running_max.min(info.slots_max).min(self.step_tokens_max);
        for (name, value) in [
            ("step_tokens_max", self.step_tokens_max),
            ("prefill_chunk_max", self.prefill_chunk_max),
            ("running_max", self.running_max),
            ("waiting_max", self.waiting_max),
        ] {
            if value == 0 {
                return Err(Error::Zero { name });
            }
        }
        if self.kv_reserve_percent > 100 {
            return Err(Error::ReserveTooLarge { percent: self.kv_reserve_percent });
        }
        Ok(self)
    }
}
