//! Sliding windows: what a request holds of a cache group whose layers see no more than so many positions.

use types::{BlockId, CacheContent, CacheGroup, ExecutorInfo, StepPlan};

use super::driver::{Driver, executor, expected, prompt, settings};
use crate::{Error, Limits, Refusal, Settings};

/// One group that keeps everything, and one with a window; blocks of 4 positions.
fn windowed(full: u32, blocks: u32, window: u32, steps_in_flight_max: u32) -> ExecutorInfo {
    let windowed =
        CacheGroup { content: CacheContent::Window(window), ..CacheGroup::new(blocks, 4) };
    let mut info = ExecutorInfo { steps_in_flight_max, ..executor(full) };
    info.cache_groups.push(windowed);
    info
}

/// The most blocks of the group with a window that an item of the plans has.
fn held_most(plans: &[StepPlan]) -> usize {
    let tables = plans.iter().flat_map(|plan| &plan.items).map(|item| &item.block_tables[1]);
    let held = |table: &Vec<BlockId>| table.iter().filter(|block| **block != BlockId::GONE).count();
    tables.map(held).max().expect("there is an item")
}

fn run(driver: &mut Driver) -> Vec<StepPlan> {
    std::iter::from_fn(|| driver.step()).collect()
}

#[test]
fn a_long_request_holds_a_window_and_what_is_under_way() {
    for steps_in_flight in [1, 2] {
        for prefix_cache in [false, true] {
            let settings = Settings { prefix_cache, ..settings() };
            // No more than a request of any length needs.
            let info = windowed(50, 4, 10, steps_in_flight);
            assert_eq!(info.cache_groups[1].blocks_of_one(199), 4);
            let mut driver = Driver::new(info, settings);
            driver.submit(1, prompt(1, 20), 150);
            let plans = run(&mut driver);
            assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 20), 150));
            assert_eq!(driver.scheduler.counters().preemptions, 0);
            assert_eq!(held_most(&plans), 4);
            let last = &plans.last().expect("it took steps").items;
            assert!(
                last.is_empty() || last[0].block_tables[1].len() == 43,
                "entries keep their place"
            );
        }
    }
}

#[test]
fn a_prompt_much_longer_than_the_pool_gets_its_blocks_as_it_goes() {
    let mut driver = Driver::new(windowed(50, 6, 10, 2), settings());
    driver.submit(1, prompt(1, 180), 3);
    let plans = run(&mut driver);
    assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 180), 3));
    assert!(held_most(&plans) <= 6);
    assert!(plans.len() < 40, "chunks of more than one position: {}", plans.len());
}

#[test]
fn what_can_never_fit_is_told_by_what_a_window_needs() {
    let tokens = |blocks| Limits::of(&windowed(50, blocks, 10, 1)).kv_tokens_max;
    assert_eq!((tokens(3), tokens(4)), (12, 200));
    let mut driver = Driver::new(windowed(50, 3, 10, 1), settings());
    let request = super::driver::request(1, prompt(1, 12), 1);
    let refusal = Refusal::KvTooSmall { prompt_tokens: 12, kv_tokens_max: 12 };
    assert_eq!(driver.submit_request(request), Err(Error::Refused(refusal)));
}

#[test]
fn admission_reckons_with_a_window_for_each() {
    let settings = Settings { kv_growth_percent: 100, ..settings() };
    // Room for three windows, whatever the lengths.
    let mut driver = Driver::new(windowed(200, 12, 10, 1), settings);
    assert_eq!(driver.run_at_once(6, 40, 60), 3);
    assert_eq!(driver.scheduler.counters().preemptions, 0);
}

#[test]
fn the_next_turn_of_a_long_chat_needs_no_more_than_its_window() {
    let mut driver = Driver::new(windowed(50, 5, 10, 1), settings());
    driver.submit(1, prompt(1, 100), 21);
    driver.run();
    let history = [prompt(1, 100), driver.stream(1).tokens.clone()].concat();
    let next = [&history[..], &[7, 8, 9]].concat();
    driver.submit(2, next.clone(), 5);
    driver.run();
    assert_eq!(driver.stream(2).cached_tokens, Some(120));
    assert_eq!(driver.stream(2).tokens, expected(2, &next, 5));
    // Where its beginning and end were, there is something else now: nothing before is of use any more.
    driver.submit(3, prompt(3, 100), 1);
    driver.run();
    driver.submit(4, next.clone(), 5);
    driver.run();
    assert_eq!(driver.stream(4).cached_tokens, Some(0));
    assert_eq!(driver.stream(4).tokens, expected(4, &next, 5));
}
