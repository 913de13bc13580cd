//! Parts of prompts that a step leaves out because somebody new has come.

use std::time::Duration;

use queue::PolicyKind;

use super::driver::{Driver, executor, expected, prompt, settings};
use crate::{Cause, Error, Settings};

/// A driver whose request 1 has computed two of the ten parts of its prompt.
fn driver(settings: Settings) -> Driver {
    let mut driver = Driver::new(executor(100), settings);
    driver.submit(1, prompt(1, 80), 2);
    for _ in 0..2 {
        driver.step();
    }
    driver
}

fn fair() -> Settings {
    Settings { policy: PolicyKind::Fair, ..settings() }
}

fn next(driver: &mut Driver) -> String {
    driver.step().expect("there is something to do").to_string()
}

#[test]
fn what_was_left_out_is_computed_later_and_somebody_new_goes_first() {
    let mut driver = driver(fair());
    driver.model.leave_out();
    assert_eq!(next(&mut driver), "step 2: s0@16..24~");
    driver.submit(2, prompt(2, 6), 1);
    let plan = next(&mut driver);
    assert!(plan.starts_with("step 3: +s1[6] s1@0..6*"), "{plan}");
    driver.run();
    for (id, len, tokens_max) in [(1, 80, 2), (2, 6, 1)] {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, len), tokens_max));
    }
    assert_eq!(driver.scheduler.counters().left_out_tokens, 8);
    let account = driver.stream(1).explanation.as_ref().unwrap();
    assert_eq!(account.steps.prefill, 11, "the one in vain is one of them: {account:?}");
    assert!(account.times.of(Cause::Prefill) >= driver.position);
}

/// Which of the next steps left out their part, while somebody new comes in each.
fn left_out<const STEPS: usize>(driver: &mut Driver) -> [bool; STEPS] {
    std::array::from_fn(|_| {
        driver.model.leave_out();
        next(driver).ends_with('~')
    })
}

#[test]
fn three_parts_are_kept_for_one_that_is_not() {
    let mut driver = Driver::new(executor(100), fair());
    driver.submit(1, prompt(1, 80), 2);
    let [first_four, last_four] = [(); 2].map(|()| left_out(&mut driver));
    assert_eq!(first_four, [true, false, false, false]);
    assert_eq!(last_four, first_four);
}

#[test]
fn three_in_a_row_may_be_left_out_after_nobody_came_for_a_while() {
    for (parts_kept, in_a_row) in [(1, 1), (2, 1), (3, 2), (5, 2), (6, 3), (10, 3)] {
        let mut driver = Driver::new(executor(100), fair());
        driver.submit(1, prompt(1, 160), 2);
        for _ in 0..parts_kept {
            driver.step();
        }
        let found: [bool; 4] = left_out(&mut driver);
        let found_in_a_row = found.iter().take_while(|left_out| **left_out).count();
        assert_eq!(found_in_a_row, in_a_row, "after {parts_kept}");
    }
}

#[test]
fn a_small_part_that_is_kept_counts_for_little() {
    let mut driver = Driver::new(executor(100), Settings { step_tokens_max: 10, ..fair() });
    driver.submit(1, prompt(1, 80), 2);
    assert_eq!(left_out(&mut driver), [true]);
    driver.submit(2, prompt(2, 7), 1);
    let plan = next(&mut driver);
    assert!(plan.ends_with("s1@0..7* s0@0..3"), "{plan}");
    assert_eq!(left_out(&mut driver), [false, false, false, true]);
}

#[test]
fn nothing_gives_way_where_nobody_could_pass() {
    let gives_way = |mut driver: Driver| next(&mut driver).contains('~');
    assert!(gives_way(driver(fair())));
    let first_come = Settings { policy: PolicyKind::FirstCome, ..settings() };
    assert!(!gives_way(driver(first_come)), "later ones wait in any case");
    assert!(!gives_way(driver(Settings { running_max: 1, ..fair() })), "there is no slot");
    let overlapping = types::ExecutorInfo { steps_in_flight_max: 2, ..executor(100) };
    let mut driver = Driver::new(overlapping, fair());
    driver.submit(1, prompt(1, 80), 2);
    assert!(!gives_way(driver), "the next step builds on it");
}

#[test]
fn tokens_do_not_give_way_and_stand_before_what_does() {
    let mut driver = Driver::new(executor(100), fair());
    driver.submit(1, prompt(1, 40), 2);
    driver.step();
    driver.submit(2, prompt(2, 4), 9);
    driver.step();
    driver.model.leave_out();
    let plan = next(&mut driver);
    assert!(plan.contains(" s1@4..5* s0@") && plan.ends_with('~'), "{plan}");
    driver.run();
    assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 40), 2));
    assert_eq!(driver.stream(2).tokens, expected(2, &prompt(2, 4), 9));
}

/// A driver whose request 1 goes on with its prompt beside the next tokens of request 2, at a target for these.
fn tokens_beside_a_part(target_ms: u64) -> Driver {
    let target = Some(Duration::from_millis(target_ms));
    let mut driver =
        Driver::new(executor(100), Settings { token_latency_target: target, ..fair() });
    driver.submit(1, prompt(1, 160), 2);
    driver.submit(2, prompt(2, 4), 20);
    // Until steps have been measured.
    for _ in 0..9 {
        driver.step();
    }
    driver
}

#[test]
fn tokens_give_way_with_all_else_in_a_short_step_but_not_twice_in_a_row() {
    let mut driver = tokens_beside_a_part(1000);
    for step in
        ["9: s0@12..13*~ s1@72..80~", "10: s0@12..13* s1@72..80~", "11: s0@13..14*~ s1@72..80~"]
    {
        driver.model.leave_out();
        assert_eq!(next(&mut driver), format!("step {step}"));
    }
    driver.run();
    for (id, len, tokens_max) in [(1, 160, 2), (2, 4, 20)] {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, len), tokens_max));
    }
    let account = driver.stream(2).explanation.as_ref().unwrap();
    assert_eq!(account.steps.decode, 19 + 2, "the two in vain are among them: {account:?}");
}

#[test]
fn tokens_do_not_give_way_where_steps_are_long_beside_the_target() {
    // A step takes 10 ms.
    let tokens_give_way = |target_ms| next(&mut tokens_beside_a_part(target_ms)).contains("*~");
    assert!(tokens_give_way(25));
    assert!(!tokens_give_way(15));
}

#[test]
fn a_first_token_does_not_give_way_nor_do_the_others_then() {
    let mut driver = tokens_beside_a_part(1000);
    driver.submit(3, prompt(3, 4), 1);
    let plan = next(&mut driver);
    assert!(plan.ends_with("s0@12..13* s2@0..4* s1@72..80~"), "{plan}");
}

#[test]
fn an_outcome_leaves_out_all_that_gives_way_or_nothing() {
    let mut driver = driver(fair());
    let plan = driver.plan().expect("there is something to do");
    let mut outcome = driver.model.run(&plan);
    outcome.left_out = 2;
    let error = driver.commit(outcome.clone()).unwrap_err();
    assert_eq!(error, Error::WrongLeftOut { step: plan.id, left_out: 2, giving_way: 1 });
    outcome.left_out = 0;
    driver.commit(outcome).unwrap();
}

#[test]
fn the_end_of_a_prompt_gives_way_if_enough_was_kept() {
    let mut driver = Driver::new(executor(100), fair());
    driver.submit(1, prompt(1, 44), 2);
    for part in 0..5 {
        assert!(next(&mut driver).ends_with('~'), "part {part}");
    }
    // Four are left, and forty were kept.
    assert_eq!(left_out(&mut driver), [true]);
    assert_eq!(driver.scheduler.counters().left_out_tokens, 4);
    driver.run();
    assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 44), 2));
    let mut driver = Driver::new(executor(100), fair());
    driver.submit(1, prompt(1, 14), 2);
    driver.step();
    assert_eq!(left_out(&mut driver), [false], "six are left, and eight were kept");
}
