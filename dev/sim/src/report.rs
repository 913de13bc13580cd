//! What a simulation showed, in numbers.

use crate::measure::{Measured, Served};

/// What one class of requests got. Times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Requests served.
    pub requests: usize,
    /// Of those, the ones that came within both targets, for each second.
    pub goodput_s: f64,
    /// Tokens generated a second, from the first arrival to the last token of all.
    pub output_tokens_s: f64,
    /// Time to the first token, the median and 99 in 100.
    pub first_token_ms: [f64; 2],
    /// Time between tokens, likewise.
    pub token_ms: [f64; 2],
    /// Times that requests were preempted.
    pub preemptions: u64,
}

/// Times that a good answer keeps to, in milliseconds: to the first token, and between tokens.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// To the first token.
    pub first_token_ms: f64,
    /// Between tokens, on average.
    pub token_ms: f64,
}

impl Report {
    /// The report of a class, or of all.
    pub fn of(measured: &Measured, class: Option<&str>, targets: Targets) -> Self {
        let is_in = |served: &&Served| {
            class.is_none_or(|class| class == served.job.class) && !served.tokens_s.is_empty()
        };
        let served: Vec<&Served> = measured.served.iter().filter(is_in).collect();
        let is_good = |served: &&&Served| {
            let first_ms = served.first_token_s().unwrap_or(0.0) * 1e3;
            let token_ms = served.token_s().unwrap_or(0.0) * 1e3;
            first_ms <= targets.first_token_ms && token_ms <= targets.token_ms
        };
        let tokens: usize = served.iter().map(|served| served.tokens_s.len()).sum();
        let of = |time: fn(&Served) -> Option<f64>| {
            let times: Vec<f64> = served.iter().filter_map(|served| time(served)).collect();
            percentiles(times)
        };
        Self {
            requests: served.len(),
            goodput_s: served.iter().filter(is_good).count() as f64 / measured.end_s,
            output_tokens_s: tokens as f64 / measured.end_s,
            first_token_ms: of(Served::first_token_s),
            token_ms: of(Served::token_s),
            preemptions: measured.preemptions,
        }
    }
}

/// The median and 99 in 100 of times in seconds, in milliseconds.
fn percentiles(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|part| {
        let place = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
        times.get(place).copied().unwrap_or(0.0) * 1e3
    })
}
