//! What the handles and the thread share: numbers that one side writes and the other reads at once.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use journal::Ring;
use scheduler::{Forecast, Limits, QueueFull};
use telemetry::EngineMetrics;
use types::{Arrivals, ExecutorInfo, Fault, FaultKind, MemoryReport, Service};

use crate::clock::Clock;

/// Whether an engine takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// It does.
    Running,
    /// No new ones; those that it has go on.
    Draining,
    /// It was shut down.
    Stopped,
    /// Its executor failed too often.
    Failed,
}

impl EngineState {
    const ALL: [Self; 4] = [Self::Running, Self::Draining, Self::Stopped, Self::Failed];
}

/// A look at an engine; each number is current, but they are read one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineStats {
    /// Whether it takes requests.
    pub state: EngineState,
    /// Requests with a slot.
    pub running: u32,
    /// Requests that wait, preempted ones included.
    pub waiting: u32,
    /// Most new requests that may wait.
    pub waiting_max: u32,
    /// KV blocks in use, over all cache groups.
    pub kv_blocks_used: u64,
    /// KV blocks in the pool, over all cache groups.
    pub kv_blocks_total: u64,
    /// Blocks whose contents are in the host's memory, over all cache groups.
    pub host_blocks_used: u64,
    /// As many as can be there.
    pub host_blocks_total: u64,
    /// Steps since the start.
    pub steps: u64,
    /// Tokens generated since the start.
    pub generated_tokens: u64,
    /// Requests preempted since the start.
    pub preemptions: u64,
    /// Tokens of the requests that started since the start.
    pub prefix_queried_tokens: u64,
    /// Of those, the ones that were cached.
    pub prefix_hit_tokens: u64,
    /// Positions brought back from the host's memory since the start.
    pub host_hit_tokens: u64,
    /// Blocks copied to the host's memory since the start, and back from there.
    pub blocks_copied: [u64; 2],
    /// Positions of prompts that steps left out for somebody new since the start.
    pub left_out_tokens: u64,
    /// Tokens guessed since the start.
    pub drafted_tokens: u64,
    /// Of those, the ones that were right.
    pub accepted_tokens: u64,
    /// Times the executor failed and was built again since the start.
    pub executor_rebuilds: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where the executor sees whether somebody new has come.
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) info: ExecutorInfo,
    pub(crate) limits: Limits,
    pub(crate) memory: MemoryReport,
    pub(crate) waiting_max: u32,
    pub(crate) metrics: EngineMetrics,
    pub(crate) clock: Clock,
    pub(crate) numbers: Numbers,
    /// The newest one.
    pub(crate) forecast: Mutex<Arc<Forecast>>,
    /// The newest part of the journal, if it is kept.
    pub(crate) journal: Option<Arc<Ring>>,
}

/// The parts that change.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    state: AtomicU8,
    pub(crate) next_id: AtomicU64,
    /// Places taken among the new requests: by the handle when it lets one in, given back by the thread.
    places_taken: AtomicU32,
    /// Those who run, above, and those who wait again, below: in one number, so that who goes from the ones to the
    /// others is seen by whoever waits for the last.
    running_and_again: AtomicU64,
    pub(crate) kv_blocks_used: AtomicU64,
    pub(crate) kv_blocks_total: AtomicU64,
    pub(crate) host_blocks_used: AtomicU64,
    pub(crate) host_blocks_total: AtomicU64,
    pub(crate) steps: AtomicU64,
    pub(crate) left_out_tokens: AtomicU64,
    pub(crate) generated_tokens: AtomicU64,
    pub(crate) preemptions: AtomicU64,
    pub(crate) prefix_queried_tokens: AtomicU64,
    pub(crate) prefix_hit_tokens: AtomicU64,
    pub(crate) host_hit_tokens: AtomicU64,
    pub(crate) blocks_copied: [AtomicU64; 2],
    pub(crate) drafted_tokens: AtomicU64,
    pub(crate) accepted_tokens: AtomicU64,
    pub(crate) executor_rebuilds: AtomicU64,
}

impl Numbers {
    pub(crate) fn set_running_and_again(&self, running: u32, again: u32) {
        let both = u64::from(running) << 32 | u64::from(again);
        self.running_and_again.store(both, Ordering::Relaxed);
    }

    fn running_and_again(&self) -> (u32, u32) {
        let both = self.running_and_again.load(Ordering::Relaxed);
        ((both >> 32) as u32, both as u32)
    }
}

impl Shared {
    pub(crate) fn state(&self) -> EngineState {
        EngineState::ALL[usize::from(self.numbers.state.load(Ordering::Acquire))]
    }

    pub(crate) fn set_state(&self, state: EngineState) {
        self.numbers.state.store(state as u8, Ordering::Release);
    }

    /// Running becomes draining; any other state is past that.
    pub(crate) fn drain(&self) {
        let (running, draining) = (EngineState::Running as u8, EngineState::Draining as u8);
        let state = &self.numbers.state;
        let _past = state.compare_exchange(running, draining, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Takes one of the places of new requests, for one of so many tokens: if what it is due by cannot be met, it is
    /// better told at once.
    pub(crate) fn take_place(
        &self,
        service: &Service,
        prompt_len: u32,
        tokens_max: u32,
    ) -> Result<(), Fault> {
        let places = &self.numbers.places_taken;
        let predicted = |new: u32| {
            let waiting = new + self.numbers.running_and_again().1;
            let forecast = self.forecast();
            let others = (waiting as usize).saturating_sub(forecast.waiting());
            let now = self.clock.now();
            (waiting, forecast.wait(now, service, prompt_len, tokens_max, others))
        };
        if let Some(due) = service.due
            && let (waiting @ 1.., Some(wait)) = predicted(places.load(Ordering::Acquire))
            && wait > due
        {
            let (wait_ms, due_ms) = (wait.as_millis(), due.as_millis());
            let message = format!(
                "the first token is due in {due_ms} ms, but {waiting} requests wait, the next about {wait_ms} ms"
            );
            let retry_after_ms = wait.saturating_sub(due).as_millis();
            let retry_after_ms = retry_after_ms.try_into().unwrap_or(u64::MAX);
            return Err(
                Fault::new(FaultKind::Overloaded, message).with_retry_after_ms(retry_after_ms)
            );
        }
        let one_more = |taken: u32| (taken < self.waiting_max).then_some(taken + 1);
        let taken = places.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.map(|_| ()).map_err(|taken| {
            let (_, wait) = predicted(taken);
            let wait = wait.unwrap_or(Forecast::UNMEASURED_WAIT);
            QueueFull { limit: self.waiting_max as usize, wait }.into()
        })
    }

    pub(crate) fn give_back_places(&self, count: u32) {
        self.numbers.places_taken.fetch_sub(count, Ordering::AcqRel);
    }

    pub(crate) fn forecast(&self) -> Arc<Forecast> {
        self.forecast.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_forecast(&self, forecast: Forecast) {
        let forecast = Arc::new(forecast);
        *self.forecast.lock().unwrap_or_else(PoisonError::into_inner) = forecast;
    }

    pub(crate) fn stats(&self) -> EngineStats {
        let numbers = &self.numbers;
        // First the place, then who took it: a place is given back when its holder is counted among the others.
        let waiting_new = numbers.places_taken.load(Ordering::Acquire);
        let (running, waiting_again) = numbers.running_and_again();
        EngineStats {
            state: self.state(),
            running,
            waiting: waiting_new + waiting_again,
            waiting_max: self.waiting_max,
            kv_blocks_used: numbers.kv_blocks_used.load(Ordering::Relaxed),
            kv_blocks_total: numbers.kv_blocks_total.load(Ordering::Relaxed),
            host_blocks_used: numbers.host_blocks_used.load(Ordering::Relaxed),
            host_blocks_total: numbers.host_blocks_total.load(Ordering::Relaxed),
            steps: numbers.steps.load(Ordering::Relaxed),
            generated_tokens: numbers.generated_tokens.load(Ordering::Relaxed),
            preemptions: numbers.preemptions.load(Ordering::Relaxed),
            prefix_queried_tokens: numbers.prefix_queried_tokens.load(Ordering::Relaxed),
            prefix_hit_tokens: numbers.prefix_hit_tokens.load(Ordering::Relaxed),
            host_hit_tokens: numbers.host_hit_tokens.load(Ordering::Relaxed),
            blocks_copied: [0, 1].map(|way| numbers.blocks_copied[way].load(Ordering::Relaxed)),
            left_out_tokens: numbers.left_out_tokens.load(Ordering::Relaxed),
            drafted_tokens: numbers.drafted_tokens.load(Ordering::Relaxed),
            accepted_tokens: numbers.accepted_tokens.load(Ordering::Relaxed),
            executor_rebuilds: numbers.executor_rebuilds.load(Ordering::Relaxed),
        }
    }
}
