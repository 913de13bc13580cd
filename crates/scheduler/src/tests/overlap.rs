//! Two steps under way: what is planned before the tokens of the step before are known, and what becomes of it.

use types::{ExecutorInfo, Fault, FaultKind, FinishReason};

use super::driver::{
    Driver, FAILING, POISON, VOCAB_SIZE, executor, expected, prompt, request, settings,
};
use crate::{Settings, testing::expected_output};

fn two_under_way(blocks: u32) -> ExecutorInfo {
    ExecutorInfo { steps_in_flight_max: 2, ..executor(blocks) }
}

#[test]
fn the_next_position_is_planned_before_its_token_is_known() {
    let mut driver = Driver::new(two_under_way(16), settings());
    driver.submit(1, prompt(1, 10), 4);
    let mut plans = Vec::new();
    for _ in 0..2 {
        let plan = driver.plan().unwrap();
        plans.push(plan.to_string());
        driver.under_way.push_back(plan);
    }
    assert_eq!(plans, ["step 0: +s0[10] s0@0..8", "step 1: s0@8..10*"]);
    assert!(driver.plan().is_none(), "two are under way");
    driver.finish_oldest();
    let plan = driver.plan().unwrap();
    assert_eq!(plan.to_string(), "step 2: s0@10..11*", "while the token of 10 is being drawn");
    assert!(driver.stream(1).tokens.is_empty());
    driver.under_way.push_back(plan);
    assert_eq!(
        driver.run(),
        [
            "step 1: s0@8..10*",
            "step 2: s0@10..11*",
            "step 3: s0@11..12*",
            // The fourth token is the last: nothing is planned for it.
            "step 4: s0@12..13*",
            "step 5: -s0"
        ]
    );
    assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 10), 4));
}

#[test]
fn what_was_planned_beyond_a_stop_token_is_in_vain() {
    let whole = expected(1, &prompt(1, 4), 20);
    let mut driver = Driver::new(two_under_way(16), settings());
    let mut stopping = request(1, prompt(1, 4), 20);
    stopping.sampling.stop_token_ids = vec![whole[2]];
    let (tokens, reason) = expected_output(&stopping.prompt, &stopping.sampling, 20, VOCAB_SIZE);
    assert_eq!(tokens.len(), 3, "the test wants a stop in the third step");
    driver.submit_request(stopping).unwrap();
    let plans = driver.run();
    assert_eq!(plans[3..], ["step 3: s0@6..7*", "step 4: -s0"]);
    assert_eq!(driver.stream(1).tokens, tokens);
    assert_eq!(driver.stream(1).finished.unwrap().0, reason);
}

#[test]
fn room_of_a_request_that_stopped_is_used_while_its_last_item_runs() {
    let whole = expected(1, &prompt(1, 4), 20);
    // Its block count suffices for one of them at a time.
    let mut driver = Driver::new(two_under_way(3), Settings { running_max: 1, ..settings() });
    let mut stopping = request(1, prompt(1, 4), 8);
    stopping.sampling.stop_token_ids = vec![whole[2]];
    driver.submit_request(stopping).unwrap();
    driver.submit(2, prompt(2, 8), 3);
    let plans = driver.run();
    // Step 3 computes a position in vain, and step 4 takes its slot and its blocks while it does.
    assert_eq!(plans[3..5], ["step 3: s0@6..7*", "step 4: -s0 +s0[8] s0@0..8*"]);
    assert_eq!(driver.stream(1).tokens, whole[..3]);
    assert_eq!(driver.stream(2).tokens, expected(2, &prompt(2, 8), 3));
}

#[test]
fn a_token_reaches_its_request_although_it_was_preempted_meanwhile() {
    // Two requests that need 10 blocks each at their ends, and 12 blocks.
    let mut driver = Driver::new(two_under_way(12), settings());
    driver.submit(1, prompt(1, 8), 32);
    driver.submit(2, prompt(2, 8), 32);
    let mut tokens_in_queue = 0;
    loop {
        while let Some(plan) = driver.plan() {
            driver.under_way.push_back(plan);
        }
        let waited = driver.scheduler.waiting() > 0;
        let before = driver.stream(2).tokens.len();
        if driver.finish_oldest().is_none() {
            break;
        }
        tokens_in_queue += usize::from(waited && driver.stream(2).tokens.len() > before);
    }
    assert_eq!(driver.scheduler.counters().preemptions, 1);
    assert_eq!(tokens_in_queue, 1, "the one that was being drawn");
    for id in 1..=2 {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, 8), 32));
    }
}

#[test]
fn a_preempted_request_may_end_in_the_queue() {
    // The second one's last token is under way when the first needs its block.
    let mut driver = Driver::new(two_under_way(5), settings());
    driver.submit(1, prompt(1, 9), 5);
    driver.submit(2, prompt(2, 3), 5);
    let plans = driver.run();
    assert_eq!(plans[4..6], ["step 4: s0@11..12* s1@6..7*", "step 5: -s1 s0@12..13*"]);
    let (reason, usage) = driver.stream(2).finished.unwrap();
    assert_eq!((reason, usage.preemptions), (FinishReason::Length, 1));
    assert_eq!(driver.stream(2).tokens, expected(2, &prompt(2, 3), 5));
    assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 9), 5));
}

#[test]
fn all_that_was_under_way_is_suspected_and_cleared_one_at_a_time() {
    let mut driver = Driver::new(two_under_way(64), settings());
    for id in 0..3 {
        driver.submit(id, prompt(id, 6), 20);
    }
    for _ in 0..5 {
        driver.step();
    }
    driver.submit(9, vec![1, POISON, 2], 5);
    while driver.crashes == 0 {
        driver.step();
    }
    // Each computes again, alone, what was under way; the poison ends with the second crash.
    while driver.scheduler.queue.iter().any(|(_, sequence)| sequence.probation.is_some()) {
        let plan = driver.plan().unwrap();
        assert_eq!(plan.items.len(), 1, "{plan}");
        assert!(driver.plan().is_none(), "{plan}: a step on probation is under way alone");
        driver.under_way.push_back(plan);
        driver.finish_oldest();
    }
    driver.run();
    assert_eq!(driver.crashes, 2);
    assert!(driver.stream(9).failed.is_some());
    for id in 0..3 {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, 6), 20));
    }
}

#[test]
fn a_request_that_fails_alone_fails_once() {
    let mut driver = Driver::new(two_under_way(32), settings());
    driver.submit(1, prompt(1, 6), 5);
    driver.submit(2, vec![1, FAILING, 2], 5);
    driver.run();
    assert_eq!(driver.stream(2).failed.as_ref().unwrap().message, "the failing token");
    assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 6), 5));
}

#[test]
fn all_can_be_ended_while_two_are_under_way() {
    let mut driver = Driver::new(two_under_way(32), settings());
    for id in 0..4 {
        driver.submit(id, prompt(id, 6), 50);
    }
    driver.step();
    while let Some(plan) = driver.plan() {
        driver.under_way.push_back(plan);
    }
    assert_eq!(driver.scheduler.in_flight(), 2);
    let fault = Fault::new(FaultKind::Unavailable, "going home");
    let events = driver.scheduler.end_all(&fault, driver.now);
    driver.scheduler.invariants();
    assert_eq!(events.len(), 4);
    let before: Vec<_> = (0..4).map(|id| driver.stream(id).tokens.len()).collect();
    assert_eq!(driver.run().last().unwrap(), "step 3: -s0 -s1 -s2 -s3");
    let after: Vec<_> = (0..4).map(|id| driver.stream(id).tokens.len()).collect();
    assert_eq!(before, after, "nothing comes after the end");
}
