//! Where requests' time goes, one cause a test. That all causes add up, `driver.rs` checks after each call.

use std::time::Duration;

use types::RequestId;

use super::driver::{Driver, POISON, executor, prompt, request, settings};
use crate::{
    Cause, Explanation, Miss, Phase, Preemption, PreemptionReason, PrefixUse, Settings, Steps,
};

/// The account of a request that has ended.
fn closed(driver: &Driver, id: u64) -> &Explanation {
    driver.stream(id).explanation.as_ref().expect("it has ended")
}

/// The causes that took time, in ms.
fn times(explanation: &Explanation) -> Vec<(Cause, u64)> {
    let of = |(cause, _)| (cause, explanation.times.of(cause).as_millis() as u64);
    Cause::NAMES.into_iter().map(of).filter(|(_, time_ms)| *time_ms > 0).collect()
}

#[test]
fn a_request_alone_computes_all_the_time() {
    let mut driver = Driver::new(executor(16), settings());
    driver.submit(1, prompt(1, 10), 3);
    driver.run();
    let account = closed(&driver, 1);
    assert_eq!(times(account), [(Cause::Prefill, 20), (Cause::Decode, 20)]);
    assert_eq!(account.steps, Steps { prefill: 2, decode: 2, ..Steps::default() });
    assert_eq!(account.prefix, PrefixUse { miss: Some(Miss::Unknown), ..PrefixUse::default() });
    assert_eq!((account.prompt_tokens, account.generated_tokens), (10, 3));
}

#[test]
fn who_arrives_during_a_step_waits_for_its_end() {
    let mut driver = Driver::new(executor(16), settings());
    driver.submit(1, prompt(1, 4), 3);
    let plan = driver.plan().unwrap();
    driver.under_way.push_back(plan);
    driver.now += Duration::from_millis(4);
    driver.submit(2, prompt(2, 4), 1);
    driver.run();
    let account = closed(&driver, 2);
    assert_eq!(times(account), [(Cause::Step, 10), (Cause::Prefill, 10)]);
    assert_eq!((account.waiting_at_arrival, account.running_at_arrival), (0, 1));
    let steps =
        Steps { prefill: 1, others: 1, others_max: 1, positions_of_others: 1, ..Steps::default() };
    assert_eq!(account.steps, steps);
}

#[test]
fn a_queue_waits_for_a_slot_and_for_room_in_steps() {
    let narrow = Settings { running_max: 1, ..settings() };
    let mut driver = Driver::new(executor(16), narrow);
    driver.submit(1, prompt(1, 4), 3);
    driver.submit(2, prompt(2, 4), 1);
    driver.run();
    assert_eq!(times(closed(&driver, 2)), [(Cause::Slot, 30), (Cause::Prefill, 10)]);

    let narrow = Settings { step_tokens_max: 8, ..settings() };
    let mut driver = Driver::new(executor(16), narrow);
    driver.submit(1, prompt(1, 16), 1);
    driver.submit(2, prompt(2, 8), 1);
    driver.run();
    assert_eq!(times(closed(&driver, 2)), [(Cause::Tokens, 20), (Cause::Prefill, 10)]);
}

#[test]
fn a_running_prompt_stalls_while_others_fill_the_steps() {
    let narrow = Settings { step_tokens_max: 8, ..settings() };
    let mut driver = Driver::new(executor(32), narrow);
    driver.submit(1, prompt(1, 16), 1);
    driver.step();
    let mut urgent = request(2, prompt(2, 16), 1);
    urgent.service.priority = -1;
    driver.submit_request(urgent).unwrap();
    driver.run();
    let account = closed(&driver, 1);
    assert_eq!(times(account), [(Cause::Stalled, 20), (Cause::Prefill, 20)]);
}

#[test]
fn a_queue_waits_for_blocks() {
    let mut driver = Driver::new(executor(6), settings());
    driver.submit(1, prompt(1, 16), 5);
    driver.submit(2, prompt(2, 8), 1);
    driver.submit(3, prompt(3, 4), 1);
    driver.run();
    assert_eq!(driver.scheduler.counters().preemptions, 0);
    let last = times(closed(&driver, 1)).iter().map(|(_, time_ms)| time_ms).sum();
    assert_eq!(times(closed(&driver, 2)), [(Cause::Blocks, last), (Cause::Prefill, 10)]);
    // Who stands behind it waits for the same.
    assert_eq!(times(closed(&driver, 3)), [(Cause::Blocks, last), (Cause::Prefill, 10)]);
}

#[test]
fn who_waits_for_another_s_beginning_says_so_and_finds_it() {
    let mut driver = Driver::new(executor(64), settings());
    driver.submit(1, prompt(1, 20), 1);
    driver.submit(2, prompt(1, 20), 1);
    driver.submit(3, prompt(3, 4), 1);
    driver.run();
    let account = closed(&driver, 2);
    assert_eq!(times(account), [(Cause::Prefix, 20), (Cause::Prefill, 10)]);
    let found = PrefixUse { hit_tokens: 16, host_tokens: 0, miss: Some(Miss::BelowBlock) };
    assert_eq!(account.prefix, found);
    assert_eq!(times(closed(&driver, 3)), [(Cause::Prefill, 10)]);
}

#[test]
fn a_preempted_request_knows_by_whom_and_what_it_cost() {
    let alone = Settings { prefix_cache: false, ..settings() };
    let mut driver = Driver::new(executor(12), alone);
    driver.submit(1, prompt(1, 8), 24);
    driver.submit(2, prompt(2, 8), 24);
    driver.run();
    let account = closed(&driver, 2);
    let by_the_first = Preemption {
        by: Some(RequestId(1)),
        reason: PreemptionReason::Blocks,
        computed_tokens: 24,
    };
    assert_eq!(account.preemptions_listed, [by_the_first]);
    assert_eq!((account.preemptions, account.recomputed_tokens), (1, 24));
    assert_eq!(account.steps.recompute, 3, "24 positions in chunks of 8");
    assert_eq!(account.times.of(Cause::Recompute), Duration::from_millis(30));
    assert!(account.times.of(Cause::Preempted) > Duration::ZERO, "{account:?}");
    assert_eq!(account.prefix.miss, Some(Miss::Off));
    assert_eq!(closed(&driver, 1).preemptions, 0);
}

#[test]
fn who_gives_way_to_a_class_knows_the_reason() {
    let mut driver = Driver::new(executor(16), Settings { running_max: 1, ..settings() });
    driver.submit(1, prompt(1, 4), 10);
    driver.step();
    let mut urgent = request(2, prompt(2, 4), 1);
    urgent.service.priority = -1;
    driver.submit_request(urgent).unwrap();
    driver.run();
    let listed = &closed(&driver, 1).preemptions_listed;
    assert_eq!((listed[0].by, listed[0].reason), (Some(RequestId(2)), PreemptionReason::Class));
}

#[test]
fn time_lost_with_the_executor_is_recovery() {
    let mut driver = Driver::new(executor(32), settings());
    driver.submit(1, prompt(1, 4), 2);
    driver.submit(2, vec![POISON; 4], 2);
    driver.run();
    let account = closed(&driver, 1);
    assert!(account.times.of(Cause::Recovery) >= Duration::from_millis(10), "{account:?}");
    assert!(closed(&driver, 2).times.of(Cause::Recovery) > Duration::ZERO);
}

#[test]
fn accounts_of_requests_under_way_are_open() {
    let mut driver = Driver::new(executor(32), Settings { running_max: 1, ..settings() });
    driver.submit(1, prompt(1, 4), 9);
    driver.submit(2, prompt(2, 4), 1);
    driver.step();
    driver.step();
    let open: Vec<_> = driver.scheduler.explain(driver.now + Duration::from_millis(3)).collect();
    let phases: Vec<_> = open.iter().map(|open| (open.id.0, open.phase)).collect();
    assert_eq!(phases, [(1, Phase::Running), (2, Phase::Waiting)]);
    assert_eq!(times(&open[1]), [(Cause::Slot, 23)]);
    assert_eq!(open[0].generated_tokens, 2);
}

#[test]
fn accounts_that_nobody_asks_for_do_not_pile_up() {
    let small = Settings { running_max: 2, waiting_max: 3, ..settings() };
    let mut driver = Driver::new(executor(32), small);
    for id in 0..20 {
        let request = request(id, prompt(id, 4), 1);
        driver.scheduler.submit(request, driver.now).unwrap();
        driver.scheduler.abort(RequestId(id), driver.now);
    }
    let ended = driver.scheduler.take_ended();
    let ids: Vec<_> = ended.iter().map(|ended| ended.id.0).collect();
    assert_eq!(ids, [15, 16, 17, 18, 19]);
}
