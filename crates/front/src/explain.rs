//! Where a request's time went, as answers, logs and admin routes tell it.

use std::{fmt::Write as _, time::Duration};

use engine::{
    Cause, Explanation, Miss, Phase, Preemption, PreemptionReason, Reports, RequestReport,
};
use serde::Serialize;
use serde_json::{Map, Value};
use telemetry::Ending;

/// The account of one answer. Nothing in it tells of other requests but how many there were.
#[derive(Debug, Serialize)]
pub(crate) struct Account {
    total_ms: f64,
    /// By cause; they add up to the total.
    time_ms: Map<String, Value>,
    waiting_at_arrival: u32,
    running_at_arrival: u32,
    prefix: Prefix,
    steps: Steps,
    preemptions: u32,
    /// The first few of them.
    preempted: Vec<Preempted>,
    recomputed_tokens: u64,
    restored_tokens: u64,
    drafted_tokens: u32,
    accepted_tokens: u32,
}

#[derive(Debug, Serialize)]
struct Prefix {
    hit_tokens: u32,
    host_tokens: u32,
    miss: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Steps {
    prefill: u32,
    recompute: u32,
    decode: u32,
    others_mean: f64,
    others_max: u32,
    positions_of_others_mean: f64,
}

#[derive(Debug, Serialize)]
struct Preempted {
    reason: &'static str,
    computed_tokens: u32,
    /// The engine's number of the request that got the room.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<u64>,
}

/// A request, for those who run the server.
#[derive(Debug, Serialize)]
pub(crate) struct Told<'a> {
    id: &'a str,
    /// The engine's number of it.
    number: u64,
    model: &'a str,
    tenant: &'a str,
    state: &'static str,
    ending: Option<&'static str>,
    arrived_unix_ms: u64,
    prompt_tokens: u32,
    generated_tokens: u32,
    #[serde(flatten)]
    account: Account,
}

impl Account {
    /// For the client whose request it is.
    pub(crate) fn for_client(report: &RequestReport) -> Self {
        Self::new(&report.explanation, false)
    }

    fn new(explanation: &Explanation, tells_of_others: bool) -> Self {
        let &Explanation { ref times, prefix, steps, .. } = explanation;
        let by_cause =
            |(cause, name): (Cause, &str)| (name.to_owned(), Value::from(ms(times.of(cause))));
        let count = f64::from(steps.count().max(1));
        let preempted = |preemption: &Preemption| Preempted {
            reason: reason(preemption.reason),
            computed_tokens: preemption.computed_tokens,
            by: preemption.by.filter(|_| tells_of_others).map(|id| id.0),
        };
        Self {
            total_ms: ms(times.total()),
            time_ms: Cause::NAMES.into_iter().map(by_cause).collect(),
            waiting_at_arrival: explanation.waiting_at_arrival,
            running_at_arrival: explanation.running_at_arrival,
            prefix: Prefix {
                hit_tokens: prefix.hit_tokens,
                host_tokens: prefix.host_tokens,
                miss: prefix.miss.map(|miss| miss_name(miss, tells_of_others)),
            },
            steps: Steps {
                prefill: steps.prefill,
                recompute: steps.recompute,
                decode: steps.decode,
                others_mean: rounded(steps.others as f64 / count),
                others_max: steps.others_max,
                positions_of_others_mean: rounded(steps.positions_of_others as f64 / count),
            },
            preemptions: explanation.preemptions,
            preempted: explanation.preemptions_listed.iter().map(preempted).collect(),
            recomputed_tokens: explanation.recomputed_tokens,
            restored_tokens: explanation.restored_tokens,
            drafted_tokens: explanation.drafted_tokens,
            accepted_tokens: explanation.accepted_tokens,
        }
    }
}

impl<'a> Told<'a> {
    /// What there is to tell of a model's requests, at a date.
    pub(crate) fn all(reports: &'a Reports, model: &'a str, now_unix_ms: u64) -> Vec<Self> {
        let told = |report: &'a RequestReport| {
            let explanation = &report.explanation;
            let age_ms = reports.now.saturating_sub(explanation.arrived).as_millis();
            Self {
                id: &report.label,
                number: explanation.id.0,
                model,
                tenant: &explanation.tenant,
                state: match explanation.phase {
                    Phase::Waiting => "waiting",
                    Phase::Running => "running",
                    Phase::Ended => "ended",
                },
                ending: report.ending.map(Ending::name),
                arrived_unix_ms: now_unix_ms.saturating_sub(age_ms.try_into().unwrap_or(u64::MAX)),
                prompt_tokens: explanation.prompt_tokens,
                generated_tokens: explanation.generated_tokens,
                account: Account::new(explanation, true),
            }
        };
        reports.reports.iter().map(|report| told(report)).collect()
    }
}

/// One line: the causes that took time.
pub(crate) fn line(explanation: &Explanation) -> String {
    let mut line = String::new();
    for (cause, name) in Cause::NAMES {
        let time = explanation.times.of(cause);
        if !time.is_zero() {
            let space = if line.is_empty() { "" } else { " " };
            write!(line, "{space}{name}={:.1}ms", ms(time)).expect("a string takes everything");
        }
    }
    line
}

/// Why no more of a prompt was found in the cache.
pub(crate) fn miss_name(miss: Miss, tells_of_others: bool) -> &'static str {
    match miss {
        Miss::Off => "cache_off",
        Miss::Unwanted => "prompt_logprobs",
        Miss::BelowBlock => "below_block",
        Miss::Evicted => "evicted",
        Miss::HostSlower => "host_slower",
        Miss::NoCheckpoint => "no_checkpoint",
        Miss::OtherSalt if tells_of_others => "other_salt",
        // A salt keeps it a secret what others have sent.
        Miss::OtherSalt | Miss::Unknown => "unknown",
    }
}

fn reason(reason: PreemptionReason) -> &'static str {
    match reason {
        PreemptionReason::Blocks => "blocks",
        PreemptionReason::Class => "class",
    }
}

/// Milliseconds, to the microsecond.
fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_not_told_what_others_have_cached() {
        assert_eq!(miss_name(Miss::OtherSalt, false), miss_name(Miss::Unknown, false));
        assert_eq!(miss_name(Miss::OtherSalt, true), "other_salt");
    }
}
