//! What came lately, as far as it says what will come.

use std::{collections::VecDeque, time::Duration};

use queue::Arrival;
use serde::{Deserialize, Serialize};

/// Arrivals that are remembered.
const ARRIVALS: usize = 64;
/// Fewer say nothing about how often requests come.
const ARRIVALS_MIN: usize = 8;
/// All that are remembered come again no sooner than after this: a moment in which many came is not taken to last.
const ROUND_S_MIN: f64 = 0.25;
/// What the weight of a start is multiplied with at the next one, in the part of prompts that is found in the cache.
const WEIGHT_KEPT: f64 = 0.98;

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Recent {
    arrivals: VecDeque<Came>,
    /// Tokens of requests that started, and those of them that were cached.
    started: f64,
    cached: f64,
}

/// A request that came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Came {
    pub(crate) arrival: Arrival,
    pub(crate) len: u32,
    pub(crate) tokens_max: u32,
}

impl Recent {
    pub(crate) fn observe_arrival(&mut self, came: Came) {
        if self.arrivals.len() == ARRIVALS {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back(came);
    }

    /// A request started, and so many of its tokens were cached.
    pub(crate) fn observe_start(&mut self, len: u32, cached: u32) {
        self.started = self.started * WEIGHT_KEPT + f64::from(len);
        self.cached = self.cached * WEIGHT_KEPT + f64::from(cached);
    }

    /// How many of the tokens of a request are likely to be cached.
    pub(crate) fn cached_of(&self, len: u32) -> u32 {
        let part = if self.started > 0.0 { self.cached / self.started } else { 0.0 };
        // The last position is always computed.
        (part * f64::from(len.saturating_sub(1))) as u32
    }

    /// Those that came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Came> {
        self.arrivals.iter()
    }

    /// One like those that came, again and again the same ones. Nothing before any came.
    pub(crate) fn like(&self, index: usize) -> Option<&Came> {
        self.arrivals.get(index % self.arrivals.len().max(1))
    }

    /// When that one comes, in seconds after `now`, if requests go on to come as they did. Nothing while too few came.
    pub(crate) fn comes_s(&self, index: usize, now: Duration) -> Option<f64> {
        let first = self.arrivals.front().filter(|_| self.arrivals.len() >= ARRIVALS_MIN)?;
        let count = self.arrivals.len();
        let after_first_s = |then: Duration| then.saturating_sub(first.arrival.now).as_secs_f64();
        let (round_s, came_s) =
            (after_first_s(now), after_first_s(self.arrivals[index % count].arrival.now));
        let round_s = round_s.max(ROUND_S_MIN);
        Some((index / count) as f64 * round_s + came_s + round_s / count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(at_ms: u64) -> Came {
        let (now, tenant) = (Duration::from_millis(at_ms), "".into());
        let arrival = Arrival { now, priority: 0, tenant, cost: at_ms, due: None };
        Came { arrival, len: 10, tokens_max: 10 }
    }

    #[test]
    fn what_came_comes_again_as_often() {
        let mut recent = Recent::default();
        assert!(recent.like(3).is_none());
        for at_ms in (0..800).step_by(100) {
            assert_eq!(recent.comes_s(0, Duration::from_secs(1)), None, "before {at_ms} ms");
            recent.observe_arrival(came(at_ms));
        }
        let comes = |index| recent.comes_s(index, Duration::from_millis(800)).unwrap();
        for (index, at_s) in [(0, 0.1), (1, 0.2), (7, 0.8), (8, 0.9), (17, 1.8)] {
            assert!((comes(index) - at_s).abs() < 1e-9, "{index}: {}", comes(index));
        }
        let mut at_once = Recent::default();
        (0..64).for_each(|_| at_once.observe_arrival(came(5)));
        let round_s = at_once.comes_s(64, Duration::from_millis(5)).unwrap();
        assert!(round_s > 0.2, "{round_s}: all at the same moment");
        assert_eq!(recent.like(9).unwrap().arrival.cost, 100);
        (0..ARRIVALS as u64).for_each(|more| recent.observe_arrival(came(1000 + more)));
        assert_eq!(recent.like(0).unwrap().arrival.cost, 1000, "the oldest are forgotten");
    }

    #[test]
    fn as_much_is_cached_as_was_lately() {
        let mut recent = Recent::default();
        assert_eq!(recent.cached_of(100), 0);
        (0..500).for_each(|_| recent.observe_start(100, 0));
        (0..500).for_each(|_| recent.observe_start(100, 50));
        assert_eq!(recent.cached_of(101), 49, "half, but for a little that is not forgotten");
        assert_eq!(recent.cached_of(0), 0);
    }
}
