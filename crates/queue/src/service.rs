//! How fast requests leave the queue, as measured, and what that says about the wait of the next one.

use std::time::Duration;

/// The measurement forgets what is older than two of these.
const WINDOW: Duration = Duration::from_secs(10);

/// Assumed where nothing was measured yet.
const UNMEASURED_WAIT: Duration = Duration::from_secs(1);

/// Requests that left a queue, and how long the queue was not empty meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceRate {
    /// Requests that left to be served.
    pub served: u64,
    /// Time during which at least one request waited.
    pub busy: Duration,
}

impl ServiceRate {
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

/// Measures a [`ServiceRate`] over the recent past. Idle time does not count: an empty queue says nothing about speed.
#[derive(Clone, Debug, Default)]
pub struct ServiceMeter {
    current: ServiceRate,
    previous: ServiceRate,
    observed: Duration,
    was_waiting: bool,
}

impl ServiceMeter {
    /// A step was planned at `now`: `served` requests left, and there are or are not requests that wait on. Those that
    /// came and left between two steps say nothing about how fast a queue moves.
    pub fn observe(&mut self, now: Duration, served: u64, is_waiting: bool) {
        if self.was_waiting {
            self.current.busy += now.saturating_sub(self.observed);
            self.current.served += served;
            if self.current.busy >= WINDOW {
                self.previous = std::mem::take(&mut self.current);
            }
        }
        self.observed = now;
        self.was_waiting = is_waiting;
    }

    /// The rate measured.
    pub fn rate(&self) -> ServiceRate {
        ServiceRate {
            served: self.previous.served + self.current.served,
            busy: self.previous.busy + self.current.busy,
        }
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
        meter.observe(SECOND, 0, true);
        meter.observe(3 * SECOND, 4, false);
        meter.observe(1000 * SECOND, 0, true);
        meter.observe(1001 * SECOND, 2, true);
        assert_eq!(meter.rate(), ServiceRate { served: 6, busy: 3 * SECOND });
    }

    #[test]
    fn the_past_is_forgotten() {
        let mut meter = ServiceMeter::default();
        meter.observe(Duration::ZERO, 0, true);
        for second in 1..=100 {
            meter.observe(second * SECOND, 1, true);
        }
        for second in 101..=130 {
            meter.observe(second * SECOND, 10, true);
        }
        let rate = meter.rate();
        assert_eq!(rate.served, 10 * rate.busy.as_secs(), "only the fast half is left");
    }
}
