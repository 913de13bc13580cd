//! A replay as text.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use crate::{
    Damage, Journal, PlanMark, Record, State,
    replay::{Ending, Life, Replay},
};

/// Says what a replay shows: whether it is what was recorded, the steps if they have lines, the requests, and totals.
pub fn text(replay: &Replay, damage: Option<&Damage>) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _infallible = write_all(&mut out, replay, damage);
    out
}

fn write_all(out: &mut String, replay: &Replay, damage: Option<&Damage>) -> fmt::Result {
    let came_before = replay.requests.values().filter(|life| life.came_before).count();
    if let Some(begins) = replay.begins {
        writeln!(
            out,
            "the journal begins in the middle, at {:.3} ms, with {came_before} requests that were there",
            ms(begins),
        )?;
    }
    for step in &replay.steps {
        let Some(line) = &step.line else { continue };
        let took = step.ended.map(|ended| ended.saturating_sub(step.planned));
        writeln!(
            out,
            "{:>12.3} ms  took {:>9}  {} running, {} waiting, {} blocks  {line}",
            ms(step.planned),
            took.map_or("-".to_owned(), |took| format!("{:.3} ms", ms(took))),
            step.running,
            step.waiting,
            step.blocks_used,
        )?;
    }
    writeln!(
        out,
        "{:>8} {:>12} {:>8} {:>8} {:>10} {:>12} {:>8} {:>10} {:>12}  end",
        "request",
        "arrived ms",
        "prompt",
        "cached",
        "queued ms",
        "first ms",
        "tokens",
        "preempted",
        "lasted ms"
    )?;
    for (id, life) in &replay.requests {
        let since = |at: Option<Duration>| {
            at.map_or("-".to_owned(), |at| format!("{:.1}", ms(at.saturating_sub(life.arrived))))
        };
        writeln!(
            out,
            "{:>8} {:>12.1} {:>8} {:>8} {:>10} {:>12} {:>8} {:>10} {:>12}  {}",
            id.to_string(),
            ms(life.arrived),
            life.prompt_tokens,
            life.cached_tokens,
            since(life.spans.get(1).filter(|_| !life.came_before).map(|span| span.from)),
            since(life.first_token),
            life.tokens,
            life.preemptions,
            since(life.ended.map(|(at, _)| at)),
            ending(life),
        )?;
    }
    let positions = |of: fn(&crate::Step) -> u32| -> u64 {
        replay.steps.iter().map(|step| u64::from(of(step))).sum()
    };
    writeln!(
        out,
        "\n{} steps, {} positions of prompts and {} of answers; {} requests let in, {} refused; executor lost {} times",
        replay.steps.len(),
        positions(|step| step.prompt_positions),
        positions(|step| step.token_positions),
        replay.requests.len() - came_before,
        replay.refused,
        replay.losses.len(),
    )?;
    if let Some(damage) = damage {
        writeln!(out, "the journal is damaged: {damage}; what stands before was replayed")?;
    }
    if replay.is_full {
        writeln!(out, "the journal had reached its limit: what came after is not in it")?;
    } else if !replay.is_whole && replay.divergence.is_none() && damage.is_none() {
        writeln!(out, "the journal has no end: more happened than is in it")?;
    }
    match &replay.divergence {
        None => writeln!(out, "every plan is the one that was recorded, block by block"),
        Some(divergence) => writeln!(
            out,
            "record {} DIFFERS, after {} steps that are the same\n  recorded: {}\n  replayed: {}",
            divergence.record,
            replay.steps.len(),
            divergence.recorded,
            divergence.replayed.replace('\n', "\n            "),
        ),
    }
}

/// The records themselves, one a line, for a journal that cannot be replayed.
pub fn listing(journal: &Journal) -> String {
    let state = journal.state.iter().map(|State { version, now, .. }| {
        format!("the state of the scheduler at {:.3} ms, in version {version}\n", ms(*now))
    });
    let lines = journal.records.iter().enumerate().map(|(index, record)| {
        let what = match record {
            Record::Submit { now, request, accepted } => format!(
                "{:.3} ms: {} came with {} tokens for at most {}{}",
                ms(*now),
                request.id,
                request.prompt.len(),
                request.tokens_max,
                if *accepted { "" } else { ", and was refused" },
            ),
            Record::Abort { now, id, found } => {
                let ended = if *found { "" } else { ", and had ended" };
                format!("{:.3} ms: {id} was given up{ended}", ms(*now))
            }
            Record::EndAll { now, message } => {
                format!("{:.3} ms: all were ended: {message}", ms(*now))
            }
            Record::Plan { now, mark: None } => format!("{:.3} ms: nothing to plan", ms(*now)),
            Record::Plan { now, mark: Some(PlanMark { digest, items, positions }) } => format!(
                "{:.3} ms: a plan of {items} items, {positions} positions, digest {digest:08x}",
                ms(*now),
            ),
            Record::Commit { now, outcome, .. } => format!(
                "{:.3} ms: {} ended, {} tokens, {} failed",
                ms(*now),
                outcome.id,
                outcome.sampled.len(),
                outcome.failed.len(),
            ),
            Record::Requeue { now, message } => {
                format!("{:.3} ms: the executor was lost: {message}", ms(*now))
            }
            Record::BeginningLost { why } => format!("the beginning is lost: {why}"),
            Record::Full => "the journal is full".to_owned(),
            Record::End => "the end".to_owned(),
        };
        format!("{index:>8} {what}\n")
    });
    let damage = journal.damage.iter().map(|damage| format!("the journal is damaged: {damage}\n"));
    state.chain(lines).chain(damage).collect()
}

fn ending(life: &Life) -> &'static str {
    match life.ended {
        None => "-",
        Some((_, Ending::Stop)) => "stop",
        Some((_, Ending::Length)) => "length",
        Some((_, Ending::Failed)) => "failed",
        Some((_, Ending::Aborted)) => "aborted",
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
