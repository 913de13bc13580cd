//! What goes to the host's memory and comes back, and when it is computed again instead.

use std::time::Duration;

use types::{CacheGroup, ExecutorInfo, RequestId};

use super::driver::{Driver, FAILING, executor, expected, prompt, settings};
use crate::{Cause, Explanation, Miss, PrefixUse, Settings};

/// A driver whose positions take a millisecond, and copies so many.
fn with_host(blocks: u32, host_blocks: u32, copy_ms: u64, settings: Settings) -> Driver {
    let group = CacheGroup { host_blocks, ..CacheGroup::new(blocks, 4) };
    let info = ExecutorInfo { cache_groups: vec![group], ..executor(blocks) };
    let (position, copy) = (Duration::from_millis(1), Duration::from_millis(copy_ms));
    let mut driver = Driver::new(info, settings);
    (driver.position, driver.copy) = (position, copy);
    driver
}

/// A driver with a target, so that times are measured. It has served a request of 20 tokens; 3 of its 5 blocks have
/// made room for another's since, and are in the host's memory.
fn driver(copy_ms: u64) -> Driver {
    let target = Some(Duration::from_secs(10));
    let settings = Settings { token_latency_target: target, ..settings() };
    let mut driver = with_host(9, 20, copy_ms, settings);
    driver.submit(1, prompt(1, 20), 1);
    driver.run();
    driver.submit(2, prompt(2, 27), 1);
    driver.run();
    assert_eq!(driver.scheduler.host_blocks(), (3, 20));
    driver
}

fn account(driver: &Driver, id: u64) -> &Explanation {
    driver.streams[&RequestId(id)].explanation.as_ref().expect("it has ended")
}

#[test]
fn what_made_room_is_brought_back_and_not_computed() {
    let mut driver = driver(2);
    driver.submit(3, prompt(1, 22), 2);
    let plans = driver.run();
    let first = "+s0[22] g0:b3>h3 g0:b4>h4 g0:b8>h5 g0:b2<h2 g0:b3<h1 g0:b4<h0 s0@20..22*";
    assert!(plans[0].ends_with(first), "{}", plans[0]);
    assert_eq!(driver.stream(3).tokens, expected(3, &prompt(1, 22), 2));
    let found = PrefixUse { hit_tokens: 20, host_tokens: 12, miss: Some(Miss::BelowBlock) };
    assert_eq!((account(&driver, 3).prefix, driver.stream(3).cached_tokens), (found, Some(20)));
    let counters = driver.scheduler.counters();
    assert_eq!((counters.host_hit_tokens, counters.prefix_hit_tokens), (12, 20));
    assert_eq!((counters.blocks_to_host, counters.blocks_to_device), (6, 3));
}

#[test]
fn a_preempted_request_is_brought_back() {
    // Two requests that need 8 blocks each at their ends, and 12 blocks. What the second has goes for the first.
    let mut driver = with_host(12, 12, 2, settings());
    driver.submit(1, prompt(1, 8), 24);
    driver.submit(2, prompt(2, 8), 24);
    driver.run();
    let account = account(&driver, 2);
    assert_eq!(driver.stream(2).finished.unwrap().1.preemptions, 1);
    assert_eq!((account.restored_tokens, account.recomputed_tokens), (8, 0), "{account:?}");
    assert_eq!(account.prefix.host_tokens, 0, "it found nothing when it came");
    for id in 1..=2 {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, 8), 24));
    }
}

#[test]
fn what_is_computed_sooner_is_computed() {
    for (copy_ms, is_computed) in [(3, false), (20, true)] {
        let mut driver = driver(copy_ms);
        // Enough copies to measure.
        for id in 3..20 {
            driver.submit(id, prompt(id, 20 + id as usize % 7), 2);
            driver.run();
        }
        driver.submit(20, prompt(15, 24), 1);
        driver.run();
        let prefix = account(&driver, 20).prefix;
        let miss = if is_computed { Miss::HostSlower } else { Miss::BelowBlock };
        assert_eq!((prefix.host_tokens == 0, prefix.miss), (is_computed, Some(miss)), "{prefix:?}");
        assert_eq!(driver.stream(20).tokens, expected(20, &prompt(15, 24), 1));
    }
}

/// A driver with a target of 20 ms whose blocks are all cached, those of long prompts. Request 9 gets its next tokens.
fn full_driver_with_a_stream() -> Driver {
    let target = Some(Duration::from_millis(20));
    let settings = Settings { token_latency_target: target, ..settings() };
    let mut driver = with_host(24, 60, 2, settings);
    for id in 1..=8 {
        driver.submit(id, prompt(id, 66), 1);
        driver.run();
    }
    driver.submit(9, prompt(9, 4), 20);
    for _ in 0..3 {
        driver.step();
    }
    driver
}

#[test]
fn a_long_history_comes_back_over_several_steps_while_tokens_go_on() {
    let mut driver = full_driver_with_a_stream();
    driver.submit(10, prompt(7, 70), 1);
    let plans = driver.run();
    let drawn = plans.iter().filter(|plan| plan.contains('<') && plan.contains('*')).count();
    assert!(drawn >= 3, "{plans:#?}");
    let account = account(&driver, 10);
    assert!(account.prefix.host_tokens >= 40, "{account:?}");
    assert!(account.times.of(Cause::Restore) > Duration::ZERO, "{account:?}");
    assert_eq!(driver.stream(10).tokens, expected(10, &prompt(7, 70), 1));
}

#[test]
fn room_for_a_long_prompt_is_made_over_several_steps_while_tokens_go_on() {
    let mut driver = full_driver_with_a_stream();
    driver.submit(10, prompt(10, 70), 1);
    let plans = driver.run();
    let moved = |plan: &String| plan.matches('>').count();
    let most = plans.iter().map(moved).max();
    assert!(most <= Some(10), "each copy takes a tenth of the target: {plans:#?}");
    let drawn = plans.iter().filter(|plan| moved(plan) > 0 && plan.contains('*')).count();
    assert!(drawn >= 2, "{plans:#?}");
    assert_eq!(driver.stream(10).tokens, expected(10, &prompt(10, 70), 1));
}

#[test]
fn nothing_is_left_of_an_executor_that_is_lost() {
    let mut driver = driver(2);
    driver.submit(3, prompt(1, 22), 2);
    driver.step();
    driver.crash();
    assert_eq!(driver.scheduler.host_blocks(), (0, 20));
    driver.run();
    assert_eq!(driver.stream(3).tokens, expected(3, &prompt(1, 22), 2));
}

#[test]
fn what_a_failed_request_found_is_kept_and_what_it_computed_is_not() {
    let mut driver = driver(2);
    let mut failing = prompt(1, 26);
    failing[24] = FAILING;
    driver.submit(3, failing.clone(), 1);
    driver.run();
    assert!(driver.stream(3).failed.is_some());
    failing[24] = 0;
    driver.submit(4, failing.clone(), 1);
    driver.run();
    assert_eq!(driver.stream(4).cached_tokens, Some(20));
    assert_eq!(driver.stream(4).tokens, expected(4, &failing, 1));
}
