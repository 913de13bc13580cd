//! What a request finds in the cache, and what it does with it.

use super::driver::{Driver, FAILING, executor, expected, prompt, request, settings};
use crate::{Settings, testing::logprobs_of};

/// A driver that has served a request of 10 tokens, of which 2 blocks of 4 are cached.
fn warm() -> Driver {
    let mut driver = Driver::new(executor(32), settings());
    driver.submit(1, prompt(1, 10), 1);
    driver.run();
    driver
}

#[test]
fn a_request_computes_what_is_not_cached() {
    let mut driver = warm();
    driver.submit(2, prompt(1, 15), 2);
    assert_eq!(driver.run(), ["step 3: +s0[15] s0@8..15*", "step 4: s0@15..16*", "step 5: -s0"]);
    let stream = driver.stream(2);
    assert_eq!(stream.tokens, expected(2, &prompt(1, 15), 2));
    assert_eq!((stream.cached_tokens, stream.finished.unwrap().1.cached_tokens), (Some(8), 8));
    let counters = driver.scheduler.counters();
    assert_eq!((counters.prefix_queried_tokens, counters.prefix_hit_tokens), (25, 8));
}

#[test]
fn the_last_token_of_a_prompt_is_computed_even_if_it_is_cached() {
    let mut driver = warm();
    driver.submit(2, prompt(1, 8), 1);
    assert_eq!(driver.run()[0], "step 3: +s0[8] s0@4..8*");
    assert_eq!(driver.stream(2).tokens, expected(2, &prompt(1, 8), 1));
}

#[test]
fn a_second_turn_finds_the_answer_to_the_first() {
    let mut driver = Driver::new(executor(32), settings());
    driver.submit(1, prompt(1, 6), 12);
    driver.run();
    let mut second = prompt(1, 6);
    second.extend(&driver.stream(1).tokens);
    second.extend(prompt(2, 5));
    driver.submit(2, second.clone(), 3);
    driver.run();
    // Of 18 tokens, all but the last were computed, which makes four blocks.
    assert_eq!(driver.stream(2).cached_tokens, Some(16));
    assert_eq!(driver.stream(2).tokens, expected(2, &second, 3));
}

#[test]
fn who_begins_alike_waits_for_the_first_and_others_pass_by() {
    let mut driver = Driver::new(executor(64), settings());
    driver.submit(1, prompt(1, 20), 1);
    driver.submit(2, prompt(1, 20), 1);
    driver.submit(3, prompt(3, 4), 1);
    driver.submit(4, prompt(1, 19), 1);
    assert_eq!(
        driver.run(),
        [
            "step 0: +s0[20] +s1[4] s1@0..4* s0@0..8~",
            "step 1: -s1 s0@8..16~",
            // Of 20 tokens, the last block is each request's own.
            "step 2: +s1[20] +s2[19] s1@16..20* s2@16..19* s0@16..20*~",
            "step 3: -s1 -s2 -s0",
        ]
    );
    for (id, len) in [(1, 20), (2, 20), (4, 19)] {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(1, len), 1));
    }
}

#[test]
fn a_small_part_in_common_is_not_waited_for() {
    let mut driver = Driver::new(executor(64), settings());
    driver.submit(1, prompt(1, 20), 1);
    let mut other = prompt(1, 4);
    other.extend(prompt(2, 8));
    driver.submit(2, other.clone(), 1);
    assert_eq!(driver.run()[0], "step 0: +s0[20] +s1[12] s0@0..8~ s1@0..8~");
    assert_eq!(driver.stream(2).tokens, expected(2, &other, 1));
}

#[test]
fn who_waits_for_a_request_that_ends_early_starts_then() {
    let mut driver = Driver::new(executor(64), settings());
    driver.submit(1, prompt(1, 40), 1);
    driver.submit(2, prompt(1, 40), 1);
    driver.step();
    driver.step();
    driver.abort(1);
    // What it got to is cached.
    assert_eq!(driver.step().unwrap().to_string(), "step 2: -s0 +s0[40] s0@16..24~");
    driver.run();
    assert_eq!(driver.stream(2).tokens, expected(2, &prompt(1, 40), 1));
}

#[test]
fn log_probabilities_of_a_prompt_need_all_of_its_positions() {
    let mut driver = warm();
    let prompt = prompt(1, 12);
    let mut asking = request(2, prompt.clone(), 1);
    asking.sampling.prompt_logprobs = Some(1);
    driver.submit_request(asking).unwrap();
    assert_eq!(driver.run()[0], "step 3: +s0[12] s0@0..8");
    let whole: Vec<_> = (1..12).map(|index| logprobs_of(prompt[index as usize], index)).collect();
    assert_eq!(driver.stream(2).prompt_logprobs.as_ref(), Some(&whole));
    assert_eq!(driver.stream(2).cached_tokens, Some(0));
}

#[test]
fn a_preempted_request_finds_its_own_blocks() {
    // Two requests that need 8 blocks each at their ends, and 12 blocks.
    let mut driver = Driver::new(executor(12), settings());
    driver.submit(1, prompt(1, 8), 24);
    driver.submit(2, prompt(2, 8), 24);
    let plans = driver.run();
    assert!(plans.contains(&"step 17: -s1 s0@24..25*".to_owned()), "{plans:#?}");
    assert!(plans.contains(&"step 24: -s0 +s0[25] s0@16..24~".to_owned()), "{plans:#?}");
    assert_eq!(driver.stream(2).finished.unwrap().1.preemptions, 1);
    assert_eq!(driver.stream(2).cached_tokens, Some(0), "of its own work it says nothing");
    for id in 1..=2 {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, 8), 24));
    }
}

#[test]
fn another_salt_finds_nothing() {
    let mut driver = warm();
    let mut salted = request(2, prompt(1, 15), 1);
    salted.service.cache_salt = "another's".into();
    driver.submit_request(salted).unwrap();
    driver.run();
    assert_eq!(driver.stream(2).cached_tokens, Some(0));
}

#[test]
fn a_new_executor_has_nothing_cached() {
    let mut driver = warm();
    driver.submit(2, prompt(2, 4), 1);
    driver.plan().unwrap();
    driver.crash();
    driver.run();
    driver.submit(3, prompt(1, 10), 1);
    driver.run();
    assert_eq!(driver.stream(3).cached_tokens, Some(0));
    assert_eq!(driver.stream(3).tokens, expected(3, &prompt(1, 10), 1));
}

#[test]
fn what_a_failed_request_computed_is_not_used() {
    let mut driver = Driver::new(executor(32), settings());
    let mut failing = prompt(1, 12);
    failing.push(FAILING);
    driver.submit(1, failing, 1);
    driver.submit(2, prompt(1, 12), 1);
    driver.run();
    assert!(driver.stream(1).failed.is_some());
    assert_eq!(driver.stream(2).cached_tokens, Some(0));
    assert_eq!(driver.stream(2).tokens, expected(2, &prompt(1, 12), 1));
}

#[test]
fn blocks_that_others_hold_count_once() {
    // The first holds 6 of 10 blocks, and 6 more would be too many.
    let mut driver = Driver::new(executor(10), settings());
    driver.submit(1, prompt(1, 20), 4);
    driver.submit(2, prompt(1, 20), 2);
    while driver.stream(2).tokens.is_empty() {
        driver.step();
    }
    assert!(!driver.stream(1).ended(), "they run together");
    driver.run();
    assert_eq!(driver.stream(2).tokens, expected(2, &prompt(1, 20), 2));
    assert_eq!(driver.scheduler.counters().preemptions, 0);
}

#[test]
fn without_the_cache_everything_is_computed() {
    let off = Settings { prefix_cache: false, ..settings() };
    let mut driver = Driver::new(executor(32), off);
    for id in 1..=2 {
        driver.submit(id, prompt(1, 8), 1);
    }
    assert_eq!(driver.run()[0], "step 0: +s0[8] +s1[8] s0@0..8* s1@0..8*");
    assert_eq!(driver.stream(2).cached_tokens, Some(0));
}
