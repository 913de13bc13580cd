//! Waits that are predicted, beside those that come.

use std::time::Duration;

use queue::PolicyKind;
use types::{Request, RequestId, Service};

use super::driver::{Driver, executor, prompt, request, settings};
use crate::Settings;

const GAP: Duration = Duration::from_millis(40);

/// Prompts of 5 to 24 tokens, answers of 1 to 15.
fn sized(id: u64) -> Request {
    request(id, prompt(id, 5 + (id * 7 % 20) as usize), 1 + (id * 11 % 15) as u32)
}

fn predicted(driver: &Driver, request: &Request) -> Option<Duration> {
    let forecast = driver.scheduler.forecast(driver.now);
    let (len, tokens_max) = (request.prompt.len() as u32, request.tokens_max);
    forecast.wait(driver.now, &request.service, len, tokens_max, 0)
}

/// A request every 40 ms for a while, which is more than can be served. What was predicted of each when it came, and
/// how long it waited, in seconds, where that was 200 ms or more and anything was predicted.
fn waits(blocks: u32, settings: Settings) -> Vec<(f64, f64)> {
    let mut driver = Driver::new(executor(blocks), Settings { prefix_cache: false, ..settings });
    driver.position = Duration::from_millis(2);
    let mut all = Vec::new();
    for id in 0..200 {
        while driver.now < GAP * id as u32 && driver.step().is_some() {}
        driver.now = driver.now.max(GAP * id as u32);
        let request = sized(id);
        all.push((id, predicted(&driver, &request)));
        driver.submit_request(request).unwrap();
    }
    driver.run();
    let waited = all.into_iter().filter_map(|(id, predicted)| {
        let (_, usage) = driver.stream(id).finished.as_ref()?;
        let waited = (usage.queued_ms >= 200).then_some(usage.queued_ms as f64 / 1e3)?;
        Some((predicted?.as_secs_f64(), waited))
    });
    waited.collect()
}

#[test]
fn waits_come_as_predicted_whatever_they_are_for() {
    let base = || Settings {
        waiting_max: 1000,
        token_latency_target: None,
        kv_growth_percent: 40,
        ..settings()
    };
    let slots = (100, Settings { running_max: 3, ..base() });
    let blocks = (16, base());
    let positions = (100, Settings { step_tokens_max: 12, ..base() });
    for (name, (blocks, settings)) in [("slots", slots), ("blocks", blocks), ("steps", positions)] {
        for (_, policy) in PolicyKind::NAMES {
            let waits = waits(blocks, Settings { policy, ..settings.clone() });
            assert!(waits.len() > 100, "{name}, {policy:?}: {} waited", waits.len());
            let near =
                waits.iter().filter(|(predicted, real)| (predicted / real - 1.0).abs() < 0.2);
            let part = near.count() as f64 / waits.len() as f64;
            let sum = waits.iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            assert!((sum.0 / sum.1 - 1.0).abs() < 0.1, "{name}, {policy:?}: {sum:?}");
            assert!(part > 0.85, "{name}, {policy:?}: {part}");
        }
    }
}

/// A driver in which one of two slots' requests has the class given and is long, and 20 requests wait.
fn crowded(policy: PolicyKind) -> Driver {
    let settings = Settings { running_max: 2, prefix_cache: false, policy, ..settings() };
    let mut driver = Driver::new(executor(100), settings);
    for id in 0..4 {
        driver.submit(id, prompt(id, 8), 5);
    }
    driver.run();
    for id in 10..32 {
        driver.submit(id, prompt(id, 8), 5);
    }
    (0..2).for_each(|_| drop(driver.step()));
    driver
}

fn of_class(priority: i32) -> Request {
    let service = Service { priority, ..Service::default() };
    Request { service, ..request(99, prompt(99, 8), 5) }
}

#[test]
fn who_goes_first_is_told_so() {
    let driver = crowded(PolicyKind::Fair);
    let [first, same, last] = [-1, 0, 1].map(|class| predicted(&driver, &of_class(class)).unwrap());
    assert!(first < Duration::from_millis(60), "{first:?}");
    assert!(same > Duration::from_millis(400) && last >= same, "{same:?} and {last:?}");
    // Where classes make room for themselves, it does not even wait for that.
    let driver = crowded(PolicyKind::Priority);
    assert_eq!(predicted(&driver, &of_class(-1)), Some(Duration::ZERO));
}

#[test]
fn those_who_came_since_are_reckoned_with() {
    let driver = crowded(PolicyKind::FirstCome);
    let forecast = driver.scheduler.forecast(driver.now);
    let wait = |others| {
        forecast.wait(driver.now, &Service::default(), 8, 5, others).unwrap().as_secs_f64()
    };
    let each = (wait(10) - wait(0)) / 10.0;
    // Two slots, five steps of 10 ms each.
    assert!((0.02..0.03).contains(&each), "{each} s");
    assert_eq!(forecast.waiting(), 20);
}

#[test]
fn nothing_is_said_before_steps_are_measured_and_what_was_said_grows_old() {
    let mut driver = Driver::new(executor(100), settings());
    assert_eq!(predicted(&driver, &of_class(0)), None);
    assert!(driver.scheduler.forecast(driver.now).is_old(driver.now));
    driver.run_at_once(10, 8, 5);
    let forecast = driver.scheduler.forecast(driver.now);
    assert!(!forecast.is_old(driver.now + Duration::from_millis(40)));
    assert!(forecast.is_old(driver.now + Duration::from_millis(60)));
    assert_eq!(predicted(&driver, &of_class(0)), Some(Duration::ZERO), "nobody is there");
    assert_eq!(driver.stream(0).finished.as_ref().map(|(_, usage)| usage.queued_ms), Some(0));
    assert!(!driver.scheduler.has_slot(RequestId(0)));
}

#[test]
fn who_asks_a_little_later_is_told_the_same() {
    for (name, policy) in PolicyKind::NAMES {
        let settings = Settings { running_max: 1, prefix_cache: false, policy, ..settings() };
        let mut driver = Driver::new(executor(100), settings);
        (0..2).for_each(|id| driver.submit(id, prompt(id, 8), 5));
        driver.run();
        (2..6).for_each(|id| driver.submit(id, prompt(id, 8), 5));
        let forecast = driver.scheduler.forecast(driver.now);
        let wait = |later| forecast.wait(driver.now + later, &Service::default(), 8, 5, 0).unwrap();
        let at_once_ms = wait(Duration::ZERO).as_millis();
        assert!(
            (180..=220).contains(&at_once_ms),
            "{name}: {at_once_ms} ms for four times five steps"
        );
        assert_eq!(wait(Duration::from_millis(40)).as_millis(), at_once_ms, "{name}");
    }
}
