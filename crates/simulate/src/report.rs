//! What a simulation showed, in numbers.

use crate::run::{Measured, Served};

/// What one class of requests got. Times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Requests served.
    pub requests: usize,
    /// Requests refused.
    pub refused: usize,
    /// Of those served, the ones that came within both targets, for each second.
    pub goodput_s: f64,
    /// Tokens generated a second, from the first arrival to the last token of all.
    pub output_tokens_s: f64,
    /// Time to the first token, the median and 99 in 100.
    pub first_token_ms: [f64; 2],
    /// Time between tokens, likewise.
    pub token_ms: [f64; 2],
    /// Of the tokens of prompts, the part that was cached.
    pub cached: f64,
    /// Times that requests of all classes were preempted.
    pub preemptions: u64,
    /// The part of the KV blocks in use, on average and at most, by requests of all classes.
    pub kv_used: [f64; 2],
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
        let is_in = |served: &&Served| class.is_none_or(|class| class == &*served.job.class);
        let asked: Vec<&Served> = measured.served.iter().filter(is_in).collect();
        let served: Vec<&Served> =
            asked.iter().copied().filter(|served| !served.tokens_s.is_empty()).collect();
        let is_good = |served: &&&Served| {
            let first_ms = served.first_token_s().unwrap_or(0.0) * 1e3;
            let token_ms = served.token_s().unwrap_or(0.0) * 1e3;
            first_ms <= targets.first_token_ms && token_ms <= targets.token_ms
        };
        let tokens: usize = served.iter().map(|served| served.tokens_s.len()).sum();
        let of = |time: fn(&Served) -> Option<f64>| {
            let times: Vec<f64> = served.iter().filter_map(|served| time(served)).collect();
            [0.5, 0.99].map(|part| percentile(&times, part) * 1e3)
        };
        let prompts: u64 = served.iter().map(|served| u64::from(served.job.prompt_tokens)).sum();
        let cached: u64 = served.iter().map(|served| u64::from(served.cached_tokens)).sum();
        Self {
            requests: served.len(),
            refused: asked.iter().filter(|served| served.refused.is_some()).count(),
            goodput_s: served.iter().filter(is_good).count() as f64 / measured.end_s,
            output_tokens_s: tokens as f64 / measured.end_s,
            first_token_ms: of(Served::first_token_s),
            token_ms: of(Served::token_s),
            cached: cached as f64 / prompts.max(1) as f64,
            preemptions: measured.preemptions,
            kv_used: measured.kv_used,
        }
    }

    /// The names of the columns that [`row`](Self::row) gives, as a row of a table and the line below it.
    pub const HEADER: [&'static str; 2] = [
        "goodput/s | tokens/s | TTFT p50, p99 ms | TPOT p50, p99 ms | cached | KV mean, peak | preempted | refused |",
        "--- | --- | --- | --- | --- | --- | --- | --- |",
    ];

    /// The report as cells of a table.
    pub fn row(&self) -> String {
        let ([ttft_50, ttft_99], [tpot_50, tpot_99]) = (self.first_token_ms, self.token_ms);
        let [mean, peak] = self.kv_used.map(|part| 100.0 * part);
        format!(
            "{:.1} | {:.0} | {ttft_50:.0}, {ttft_99:.0} | {tpot_50:.1}, {tpot_99:.1} | {:.0} % | {mean:.0}, {peak:.0} % | {} | {} |",
            self.goodput_s,
            self.output_tokens_s,
            100.0 * self.cached,
            self.preemptions,
            self.refused,
        )
    }
}

/// The value below which a part of all lies; 0 of none.
pub fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(0.0)
}
