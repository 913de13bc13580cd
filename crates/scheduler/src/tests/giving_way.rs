//! Parts of prompts that a step leaves out because somebody new has come.

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

#[test]
fn three_parts_are_kept_for_one_that_is_not() {
    let mut driver = driver(fair());
    let mut plans = Vec::new();
    for _ in 0..8 {
        driver.model.leave_out();
        plans.push(next(&mut driver));
    }
    let gave_way: Vec<bool> = plans.iter().map(|plan| plan.ends_with('~')).collect();
    assert_eq!(gave_way, [true, false, false, false, true, false, false, false], "{plans:#?}");
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
