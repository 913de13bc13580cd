//! How fast requests leave the queue, as measured, and what that says about the wait of the next one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The measurement forgets what is older than two of these.
const WINDOW: Duration = Duration::from_secs(20);

/// Requests that must have taken places which became free before that rate alone is believed.
const SERVED_MIN: u64 = 8;

/// Assumed where nothing was measured yet.
const UNMEASURED_WAIT: Duration = Duration::from_secs(1);

/// Requests that left a queue, and how long the queue was not empty meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRate {
    /// Requests that left to be served.
    pub served: u64,
    /// Time during which at least one request waited.
    pub busy: Duration,
}

impl ServiceRate {
    fn and(self, other: Self) -> Self {
        Self { served: self.served + other.served, busy: self.busy + other.busy }
    }

    /// How long a request will wait that has `ahead` others before it.
    pub fn predicted_wait(&self, ahead: usize) -> Duration {
        if self.busy.is_zero() {
            return UNMEASURED_WAIT;
        }
        let places = ahead as u128 + 1;
        let wait_ns = self.busy.as_nanos() * places / u128::from(self.served.max(1));
        Duration::from_nanos(wait_ns.try_into().unwrap_or(u64::MAX))
    }
}

/// What a queue was like since the last look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueState {
    /// Nobody waited.
    #[default]
    Empty,
    /// Requests waited while there was room for more to be served at once.
    Filling,
    /// The next had to wait for one that was being served to end.
    Full,
}

/// Measures a [`ServiceRate`] over the recent past. Idle time does not count: an empty queue says nothing about speed.
/// Nor does the time in which places are filled that were free, as soon as it is known how fast they become free:
/// who waits for long waits for that.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServiceMeter {
    current: Window,
    previous: Window,
    observed: Duration,
    state: QueueState,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Window {
    filling: ServiceRate,
    full: ServiceRate,
}

impl ServiceMeter {
    /// A step was planned at `now`: `served` requests left, and this is what the queue is like from now on. Those that
    /// came and left between two steps say nothing about how fast a queue moves.
    pub fn observe(&mut self, now: Duration, served: u64, state: QueueState) {
        let rate = match self.state {
            QueueState::Empty => None,
            QueueState::Filling => Some(&mut self.current.filling),
            QueueState::Full => Some(&mut self.current.full),
        };
        if let Some(rate) = rate {
            rate.busy += now.saturating_sub(self.observed);
            rate.served += served;
            if self.current.filling.busy + self.current.full.busy >= WINDOW {
                self.previous = std::mem::take(&mut self.current);
            }
        }
        self.observed = now;
        // Places that became free are soon taken again: that belongs to the turnover.
        let fills_again = (self.state, state) == (QueueState::Full, QueueState::Filling);
        self.state = if fills_again { QueueState::Full } else { state };
    }

    /// Whether the next has to wait for one that is being served to end, as far as was seen last.
    pub fn is_full(&self) -> bool {
        self.state == QueueState::Full
    }

    /// The rate measured.
    pub fn rate(&self) -> ServiceRate {
        let full = self.previous.full.and(self.current.full);
        if full.served >= SERVED_MIN {
            return full;
        }
        full.and(self.previous.filling).and(self.current.filling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_wait_is_places_over_rate() {
        let rate = ServiceRate { served: 20, busy: 10 * SECOND };
        assert_eq!(rate.predicted_wait(0), SECOND / 2);
        assert_eq!(rate.predicted_wait(9), 5 * SECOND);
        assert_eq!(ServiceRate::default().predicted_wait(100), UNMEASURED_WAIT);
        let stuck = ServiceRate { served: 0, busy: 3 * SECOND };
        assert_eq!(stuck.predicted_wait(1), 6 * SECOND);
    }

    #[test]
    fn idle_time_is_not_counted() {
        let mut meter = ServiceMeter::default();
        meter.observe(SECOND, 0, QueueState::Filling);
        meter.observe(3 * SECOND, 4, QueueState::Empty);
        meter.observe(1000 * SECOND, 0, QueueState::Filling);
        meter.observe(1001 * SECOND, 2, QueueState::Filling);
        assert_eq!(meter.rate(), ServiceRate { served: 6, busy: 3 * SECOND });
    }

    #[test]
    fn free_places_that_are_filled_say_nothing_once_it_is_known_how_fast_they_become_free() {
        let mut meter = ServiceMeter::default();
        meter.observe(Duration::ZERO, 0, QueueState::Filling);
        meter.observe(SECOND, 100, QueueState::Full);
        assert_eq!(
            meter.rate(),
            ServiceRate { served: 100, busy: SECOND },
            "nothing else is known"
        );
        for second in 2..=5 {
            // Two become free, are taken in one step, and for a moment nobody is held up by a lack of them.
            meter.observe(second * SECOND - SECOND / 2, 0, QueueState::Full);
            meter.observe(second * SECOND - SECOND / 4, 1, QueueState::Filling);
            meter.observe(second * SECOND, 1, QueueState::Full);
        }
        assert_eq!(meter.rate(), ServiceRate { served: 8, busy: 4 * SECOND });
        meter.observe(6 * SECOND, 2, QueueState::Empty);
        meter.observe(100 * SECOND, 0, QueueState::Filling);
        meter.observe(101 * SECOND, 100, QueueState::Full);
        assert_eq!(meter.rate(), ServiceRate { served: 10, busy: 5 * SECOND }, "the next burst");
    }

    #[test]
    fn the_past_is_forgotten() {
        for state in [QueueState::Filling, QueueState::Full] {
            let mut meter = ServiceMeter::default();
            meter.observe(Duration::ZERO, 0, state);
            for second in 1..=100 {
                meter.observe(second * SECOND, 1, state);
            }
            for second in 101..=130 {
                meter.observe(second * SECOND, 10, state);
            }
            let rate = meter.rate();
            assert_eq!(rate.served, 10 * rate.busy.as_secs(), "only the fast half is left");
        }
    }
}
