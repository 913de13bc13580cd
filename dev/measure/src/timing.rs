//! Taking times.

use std::time::{Duration, Instant};

/// A repetition is as many calls as take this long, so that the clock does not matter.
const REPETITION_S: f64 = 1e-3;
/// Most calls of a repetition.
const CALLS_MAX: f64 = 10_000.0;
/// Most repetitions.
const REPETITIONS_MAX: usize = 200;

/// How long a call takes. The best is what the machine can do when nothing disturbs it; the median says how often it
/// does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) best_s: f64,
    pub(crate) median_s: f64,
}

impl Timing {
    /// Of some times; there must be one.
    pub(crate) fn of(times: &mut [f64]) -> Self {
        times.sort_by(f64::total_cmp);
        Self { best_s: times[0], median_s: times[times.len() / 2] }
    }
}

/// Times a call: once to warm up, then over and over for as long as `budget` allows. A call that takes longer than the
/// budget is made no second time.
pub(crate) fn time(budget: Duration, mut call: impl FnMut()) -> Timing {
    let mut timed = |calls: u32| {
        let begun = Instant::now();
        for _ in 0..calls {
            call();
        }
        begun.elapsed().as_secs_f64() / f64::from(calls)
    };
    let first_s = timed(1);
    if first_s > budget.as_secs_f64() {
        return Timing { best_s: first_s, median_s: first_s };
    }
    let calls = (REPETITION_S / timed(1)).clamp(1.0, CALLS_MAX) as u32;
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || (times.len() < REPETITIONS_MAX && begun.elapsed() < budget) {
        times.push(timed(calls));
    }
    Timing::of(&mut times)
}

/// The value that `percent` of the values do not exceed; 0 of none. Sorts them.
pub(crate) fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * percent / 100.0).ceil() as usize;
    values.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_longer_than_the_budget_is_made_once() {
        let mut calls = 0;
        let timing = time(Duration::ZERO, || calls += 1);
        assert_eq!(calls, 1);
        assert!(timing.best_s >= 0.0 && timing.best_s == timing.median_s);
        let mut calls = 0;
        time(Duration::from_millis(5), || calls += 1);
        assert!(calls > 1);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 50.0), 50.0);
        assert_eq!(percentile(&mut values, 99.0), 99.0);
        assert_eq!(percentile(&mut values, 100.0), 100.0);
        assert_eq!(percentile(&mut [7.0], 1.0), 7.0);
        assert_eq!(percentile(&mut [], 50.0), 0.0);
    }
}
