//! Settings of an engine.

/// Settings of an engine. The executor's own limits always hold as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Most positions in one step, over all requests.
    pub step_tokens_max: u32,
    /// Most positions of one request in one step, so that a long prompt leaves room for others.
    pub prefill_chunk_max: u32,
    /// Most requests running at once.
    pub running_max: u32,
    /// Most requests waiting; the next one is refused.
    pub waiting_max: u32,
    /// Share of the KV pool that admission leaves free for running requests to grow into, in percent.
    pub kv_reserve_percent: u32,
    /// How often in a row the executor may fail without a step in between that succeeds, before the engine gives up.
    pub executor_failures_max: u32,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            step_tokens_max: 2048,
            prefill_chunk_max: 512,
            running_max: 256,
            waiting_max: 1024,
            kv_reserve_percent: 5,
            executor_failures_max: 5,
        }
    }
}
