//! `cargo xtask bench sharing`: what requests do to one another in the real engine. A long prompt among short ones, the
//! second turn of a chat, the same after another chat took its blocks, with and without a tier in the host's memory,
//! two tenants of which one wants ten times as much.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use clap::ArgMatches;
use engine::{Engine, EngineHandle, NewRequest, SchedulerSettings};
use models::Compute;
use types::{SamplingParams, Service, TokenId};

use super::{
    engine::{start, start_with},
    load::load,
    streams::prompt,
};
use crate::{
    arguments,
    report::percent,
    requests::{Answer, fresh_salt, run as run_requests},
    timing::percentile,
};

/// Positions of the longest request.
const CONTEXT: usize = 6400;
const LONG_PROMPT: usize = 6000;
const SHORT_REQUESTS: usize = 100;
const TURNS: u16 = 5;
const HISTORY: usize = 4000;
const TURN: usize = 20;

/// The command.
pub(crate) fn run(matches: &ArgMatches) -> Result<()> {
    let path = arguments::model_path(matches)?;
    let cpu = arguments::cpu(matches)?;
    let model = load(&path, &cpu, Compute::Native)?.model;
    let context_max = model.spec.context_max;
    ensure!(context_max >= CONTEXT, "the model's context of {context_max} is too short");
    let many = |slots| start(&cpu, &model, (slots, CONTEXT));
    println!("{}, on {} threads", path.display(), cpu.pool.threads());
    let turns = matches.get_one::<u16>("turns").copied();
    with_engine(many(64)?, |handle| {
        long_among_short(handle, model.spec.vocab_size, turns.unwrap_or(TURNS))
    })?;
    if turns.is_some() {
        return Ok(());
    }
    with_engine(many(64)?, |handle| second_turn(handle, model.spec.vocab_size))?;
    // One slot, and so no blocks for two histories.
    for host_cache_bytes in [0, 1 << 30] {
        let settings = SchedulerSettings::default();
        let started = start_with(&cpu, &model, (1, CONTEXT), (settings, host_cache_bytes))?;
        with_engine(started, |handle| turn_after_another_chat(handle, model.spec.vocab_size))?;
    }
    // Few slots, so that there is a queue.
    with_engine(many(8)?, |handle| tenants(handle, model.spec.vocab_size))
}

fn with_engine(
    (engine, handle): (Engine, EngineHandle),
    measure: impl FnOnce(&EngineHandle) -> Result<()>,
) -> Result<()> {
    let result = measure(&handle);
    engine.shutdown();
    result
}

fn request(prompt: Vec<TokenId>, tokens_max: u32, tenant: &str, salt: &Arc<str>) -> NewRequest {
    let service =
        Service { tenant: tenant.into(), cache_salt: Arc::clone(salt), ..Service::default() };
    let sampling = SamplingParams::greedy();
    NewRequest { prompt, sampling, tokens_max, service, label: "".into() }
}

/// Short requests, ten a second, alone and with a long prompt among them; in turns, because the worst of a hundred
/// tells of the machine too.
fn long_among_short(handle: &EngineHandle, vocab_size: usize, turns: u16) -> Result<()> {
    let mut all_ms = [Vec::new(), Vec::new()];
    for _ in 0..turns {
        let mut tails_ms = [0.0; 2];
        for with_long in [false, true] {
            let mut first_ms = short_requests(handle, vocab_size, with_long)?;
            tails_ms[usize::from(with_long)] = percentile(&mut first_ms, 99.0);
            all_ms[usize::from(with_long)].extend(first_ms);
        }
        let [alone, beside] = tails_ms;
        println!("  p99 with the long prompt {:.2} times that without", beside / alone);
    }
    let [alone, beside] = all_ms.map(|mut all_ms| percentile(&mut all_ms, 99.0));
    println!(
        "of all: {alone:.1} ms p99 without, {beside:.1} ms with the long prompt, {:.2} times\n",
        beside / alone
    );
    Ok(())
}

/// Times to the first token, in milliseconds.
fn short_requests(handle: &EngineHandle, vocab_size: usize, with_long: bool) -> Result<Vec<f64>> {
    let salt = fresh_salt();
    let short = |index: usize| {
        let request = request(prompt(vocab_size, index, 32), 16, "", &salt);
        (Duration::from_millis(100 * index as u64), request)
    };
    let mut requests: Vec<_> = (0..SHORT_REQUESTS).map(short).collect();
    if with_long {
        let long = request(prompt(vocab_size, SHORT_REQUESTS, LONG_PROMPT), 8, "", &salt);
        requests.insert(10, (Duration::from_secs(1), long));
    }
    let mut answers = run_requests(handle, requests)?;
    let long = with_long.then(|| answers.remove(10));
    let mut first_ms: Vec<f64> = answers.iter().map(|answer| 1e3 * answer.first_s()).collect();
    let [p50, p99] = [50.0, 99.0].map(|part| percentile(&mut first_ms, part));
    let among = long.map_or(String::new(), |long| {
        format!(", beside a prompt of {LONG_PROMPT} whose own took {:.0} ms", 1e3 * long.first_s())
    });
    println!(
        "{SHORT_REQUESTS} short requests{among}: first token {p50:.1} ms p50, {p99:.1} ms p99"
    );
    Ok(first_ms)
}

/// A chat with a long history, and its next turn.
fn second_turn(handle: &EngineHandle, vocab_size: usize) -> Result<()> {
    let salt = fresh_salt();
    let mut history = prompt(vocab_size, 1, HISTORY);
    let first = ask(handle, history.clone(), &salt)?;
    history.extend(&first.tokens);
    history.extend(prompt(vocab_size, 2, TURN));
    let second = ask(handle, history, &salt)?;
    println!(
        "a chat of {HISTORY} tokens: first token after {:.0} ms, of its next turn after {:.0} ms: {}\n",
        1e3 * first.first_s(),
        1e3 * second.first_s(),
        percent(second.first_s(), first.first_s())
    );
    Ok(())
}

/// A chat with a long history, and its next turn after another chat's history took the blocks.
fn turn_after_another_chat(handle: &EngineHandle, vocab_size: usize) -> Result<()> {
    let salt = fresh_salt();
    let mut history = prompt(vocab_size, 1, HISTORY);
    let first = ask(handle, history.clone(), &salt)?;
    ask(handle, prompt(vocab_size, 3, HISTORY + 2000), &salt)?;
    history.extend(&first.tokens);
    history.extend(prompt(vocab_size, 2, TURN));
    let second = ask(handle, history, &salt)?;
    let stats = handle.stats();
    println!(
        "a chat of {HISTORY} tokens whose blocks another took, {} blocks in the host's memory: first token after {:.0} ms, of its next turn after {:.0} ms: {}; {} tokens brought back\n",
        stats.host_blocks_total,
        1e3 * first.first_s(),
        1e3 * second.first_s(),
        percent(second.first_s(), first.first_s()),
        stats.host_hit_tokens,
    );
    Ok(())
}

fn ask(handle: &EngineHandle, prompt: Vec<TokenId>, salt: &Arc<str>) -> Result<Answer> {
    let requests = vec![(Duration::ZERO, request(prompt, 16, "", salt))];
    Ok(run_requests(handle, requests)?.remove(0))
}

/// Two tenants of equal weight, one of which sends ten times as many requests.
fn tenants(handle: &EngineHandle, vocab_size: usize) -> Result<()> {
    let salt = fresh_salt();
    let of = |tenant: &'static str, count: usize, seed: usize| {
        let salt = &salt;
        (0..count).map(move |index| request(prompt(vocab_size, seed + index, 64), 64, tenant, salt))
    };
    let (heavy, light) = (200, 20);
    let requests = of("heavy", heavy, 0).chain(of("light", light, 1000));
    let answers =
        run_requests(handle, requests.map(|request| (Duration::ZERO, request)).collect())?;
    let (of_heavy, of_light) = answers.split_at(heavy);
    let last = |answers: &[Answer]| {
        answers.iter().filter_map(|answer| answer.at_s.last()).fold(0.0, |a: f64, &b| a.max(b))
    };
    // As long as both have something to do.
    let both_s = last(of_heavy).min(last(of_light));
    let tokens = |answers: &[Answer]| {
        answers.iter().flat_map(|answer| &answer.at_s).filter(|&&at_s| at_s <= both_s).count()
            as f64
    };
    let (heavy_tokens, light_tokens) = (tokens(of_heavy), tokens(of_light));
    println!(
        "two tenants of equal weight, {heavy} and {light} requests at once: {} of the tokens to the second",
        percent(light_tokens, heavy_tokens + light_tokens)
    );
    Ok(())
}
