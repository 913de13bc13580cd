//! Recurrent states: one block a request, and checkpoints that others begin with.

use types::{CacheContent, CacheGroup, ExecutorInfo};

use super::driver::{Driver, executor, expected, prompt, settings};
use crate::{Limits, Miss, Settings};

/// One group that keeps everything, and one of states with checkpoints at least 16 positions apart; blocks of 4.
fn hybrid(full: u32, states: u32, steps_in_flight_max: u32) -> ExecutorInfo {
    let content = CacheContent::State(16);
    let mut info = ExecutorInfo { steps_in_flight_max, ..executor(full) };
    info.cache_groups.push(CacheGroup { content, ..CacheGroup::new(states, 4) });
    info
}

/// Settings with chunks of 10 positions.
fn chunked() -> Settings {
    Settings { prefill_chunk_max: 10, ..settings() }
}

#[test]
fn a_prompt_ends_steps_at_checkpoints_and_goes_on_in_a_copy() {
    let mut driver = Driver::new(hybrid(50, 8, 1), chunked());
    driver.submit(1, prompt(1, 41), 9);
    let plans = driver.run();
    assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 41), 9));
    let first = [
        "step 0: +s0[41] s0@0..10",
        "step 1: s0@10..20",
        "step 2: g1:b0>b1 s0@20..30",
        "step 3: s0@30..40",
        "step 4: g1:b1>b2 s0@40..41*",
    ];
    assert_eq!(plans[..5], first);
    assert!(plans[5..].iter().all(|plan| !plan.contains('>')), "{plans:?}");
}

#[test]
fn the_next_turn_begins_with_the_last_checkpoint() {
    for steps_in_flight in [1, 2] {
        let mut driver = Driver::new(hybrid(80, 8, steps_in_flight), chunked());
        driver.submit(1, prompt(1, 41), 30);
        driver.run();
        let history = [prompt(1, 41), driver.stream(1).tokens.clone()].concat();
        let next = [&history[..], &[7, 8, 9]].concat();
        driver.submit(2, next.clone(), 5);
        let plans = driver.run();
        // Prompts had theirs at 20 and 40, and the answer at 56.
        assert_eq!(driver.stream(2).cached_tokens, Some(56), "{plans:?}");
        assert_eq!(driver.stream(2).tokens, expected(2, &next, 5));
        // One that ends between two goes on from the one before.
        driver.submit(3, history[..45].to_vec(), 5);
        driver.run();
        assert_eq!(driver.stream(3).cached_tokens, Some(40));
        assert_eq!(driver.stream(3).tokens, expected(3, &history[..45], 5));
        let prefix = driver.stream(3).explanation.as_ref().map(|account| account.prefix);
        assert_eq!(prefix.and_then(|prefix| prefix.miss), Some(Miss::NoCheckpoint));
    }
}

#[test]
fn a_state_takes_one_block_whatever_the_length() {
    let info =
        ExecutorInfo { cache_groups: hybrid(1, 3, 1).cache_groups.split_off(1), ..executor(1) };
    assert_eq!(Limits::of(&info).kv_tokens_max, u64::MAX);
    let mut driver = Driver::new(info, settings());
    assert_eq!(driver.run_at_once(5, 80, 60), 3);
    assert_eq!(driver.scheduler.counters().preemptions, 0);
}

#[test]
fn who_is_preempted_goes_on_from_a_checkpoint() {
    // Room for one of them at its end and a half.
    let mut driver = Driver::new(hybrid(30, 8, 1), chunked());
    for id in 0..2 {
        driver.submit(id, prompt(id, 41), 40);
    }
    driver.run();
    assert!(driver.scheduler.counters().preemptions > 0);
    for id in 0..2 {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, 41), 40));
    }
    let recomputed = |id| driver.stream(id).explanation.as_ref().map(|e| e.preemptions);
    assert!((0..2).any(|id| recomputed(id) > Some(0)));
}

#[test]
fn nothing_is_guessed_since_a_state_cannot_be_taken_back() {
    let with = |info| Driver::new(info, Settings { draft_tokens_max: 4, ..settings() });
    let drafts = |info| with(info).scheduler.settings().draft_tokens_max;
    assert_eq!((drafts(executor(50)), drafts(hybrid(50, 8, 1))), (4, 0));
}

#[test]
fn without_a_prefix_cache_no_checkpoint_is_taken() {
    let settings = Settings { prefix_cache: false, ..chunked() };
    let mut driver = Driver::new(hybrid(50, 8, 1), settings);
    driver.submit(1, prompt(1, 41), 30);
    let plans = driver.run();
    assert!(plans.iter().all(|plan| !plan.contains('>')), "{plans:?}");
}
