//! One rule a test.

use std::time::Duration;

use types::{
    Fault, FaultKind, FinishReason, RequestId, SampledToken, SamplingParams, SlotId, StepId,
    StepOutcome,
};

use super::driver::{
    Driver, FAILING, POISON, VOCAB_SIZE, executor, expected, prompt, request, settings,
};
use crate::{
    Error, PolicyKind, Refusal, Scheduler, Settings,
    testing::{expected_output, logprobs_of},
};

#[test]
fn a_request_from_its_prompt_to_its_end() {
    let mut driver = Driver::new(executor(16), settings());
    driver.submit(1, prompt(1, 10), 3);
    driver.now += Duration::from_millis(10);
    let plans = driver.run();
    assert_eq!(
        plans,
        [
            "step 0: +s0[10] s0@0..8~",
            "step 1: s0@8..10*~",
            "step 2: s0@10..11*",
            "step 3: s0@11..12*",
            "step 4: -s0",
        ]
    );
    let stream = driver.stream(1);
    assert_eq!(stream.tokens, expected(1, &prompt(1, 10), 3));
    let (reason, usage) = stream.finished.unwrap();
    assert_eq!(reason, FinishReason::Length);
    assert_eq!((usage.prompt_tokens, usage.generated_tokens, usage.preemptions), (10, 3, 0));
    assert_eq!(usage.queued_ms, 10);
}

#[test]
fn a_stop_token_is_the_last_token() {
    let whole = expected(1, &prompt(1, 10), 20);
    let mut driver = Driver::new(executor(16), settings());
    let mut request = request(1, prompt(1, 10), 20);
    request.sampling.stop_token_ids = vec![whole[4]];
    let first = whole.iter().position(|token| *token == whole[4]).unwrap();
    driver.submit_request(request).unwrap();
    driver.run();
    assert_eq!(driver.stream(1).tokens, whole[..=first]);
    assert_eq!(driver.stream(1).finished.unwrap().0, FinishReason::StopToken(whole[4]));
}

#[test]
fn tokens_are_clipped_to_what_fits() {
    let mut driver = Driver::new(executor(3), settings());
    driver.submit(1, prompt(1, 9), 1000);
    driver.run();
    assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 9), 3));
    let refused = driver.submit_request(request(2, prompt(2, 12), 1)).unwrap_err();
    assert_eq!(
        refused,
        Error::Refused(Refusal::KvTooSmall { prompt_tokens: 12, kv_tokens_max: 12 })
    );
}

#[test]
fn a_long_prompt_holds_up_no_tokens_and_no_short_prompt() {
    let mut driver = Driver::new(executor(100), settings());
    driver.submit(1, prompt(1, 4), 40);
    driver.step();
    driver.submit(2, prompt(2, 150), 1);
    driver.submit(3, prompt(3, 4), 40);
    for _ in 0..15 {
        let plan = driver.step().unwrap();
        let positions = |slot| {
            plan.items
                .iter()
                .find(|item| item.slot == SlotId(slot))
                .map(|item| item.positions.len())
        };
        assert_eq!(positions(0), Some(1), "{plan}");
        assert_eq!(positions(1), Some(8), "{plan}");
        assert!(positions(2).is_some(), "{plan}");
    }
    driver.run();
    assert_eq!(driver.stream(2).tokens, expected(2, &prompt(2, 150), 1));
}

#[test]
fn the_budget_bounds_a_step_and_tokens_come_before_prompts() {
    let settings = Settings { step_tokens_max: 10, prefill_chunk_max: 100, ..settings() };
    let mut driver = Driver::new(executor(100), settings);
    for id in 0..8 {
        driver.submit(id, prompt(id, 20), 30);
    }
    let mut longest = 0;
    while let Some(plan) = driver.step() {
        assert!(plan.token_count() <= 10, "{plan}");
        longest = longest.max(plan.items.len());
    }
    assert_eq!(longest, 8, "all of them ran together");
    for id in 0..8 {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, 20), 30));
    }
}

#[test]
fn the_latest_of_the_lowest_class_gives_way_and_loses_nothing() {
    // 10 blocks of 4: three requests of 8 tokens that grow to 20 each need 15.
    let mut driver = Driver::new(executor(10), settings());
    let mut urgent = request(3, prompt(3, 8), 12);
    urgent.service.priority = -1;
    driver.submit(1, prompt(1, 8), 12);
    driver.submit(2, prompt(2, 8), 12);
    driver.submit_request(urgent).unwrap();
    driver.run();
    assert!(driver.scheduler.counters().preemptions > 0);
    let preemptions = |id| driver.stream(id).finished.unwrap().1.preemptions;
    assert_eq!((preemptions(3), preemptions(1)), (0, 0));
    assert!(preemptions(2) > 0);
    for id in 1..=3 {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, 8), 12));
    }
}

#[test]
fn admission_leaves_room_to_grow() {
    let settings = Settings { kv_reserve_percent: 25, ..settings() };
    let mut driver = Driver::new(executor(16), settings);
    for id in 0..4 {
        driver.submit(id, prompt(id, 16), 4);
    }
    let first = driver.step().unwrap();
    assert_eq!(first.admit.len(), 3, "3 x 4 blocks, then the 4 in reserve: {first}");
    driver.run();
    assert_eq!(driver.scheduler.counters().preemptions, 0);
}

#[test]
fn admission_reckons_with_growth() {
    // 10 blocks of 4: two requests of 8 tokens that grow to 20 each need 10, three need 15.
    let settings = Settings { kv_growth_percent: 100, ..settings() };
    let mut driver = Driver::new(executor(10), settings);
    for id in 0..3 {
        driver.submit(id, prompt(id, 8), 12);
    }
    let first = driver.step().unwrap();
    assert_eq!(first.admit.len(), 2, "{first}");
    driver.run();
    assert_eq!(driver.scheduler.counters().preemptions, 0);
}

#[test]
fn a_short_prompt_that_comes_later_goes_before_a_long_one_under_way() {
    let settings = Settings { step_tokens_max: 8, policy: PolicyKind::Fair, ..settings() };
    let mut driver = Driver::new(executor(100), settings);
    driver.submit(1, prompt(1, 100), 1);
    driver.step();
    driver.submit(2, prompt(2, 6), 1);
    let plan = driver.step().unwrap().to_string();
    assert_eq!(plan, "step 1: +s1[6] s1@0..6* s0@8..10~");
    driver.run();
    for (id, len) in [(1, 100), (2, 6)] {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, len), 1));
    }
}

#[test]
fn a_class_that_preempts_finds_room() {
    for (policy, preemptions) in [(PolicyKind::Priority, 1), (PolicyKind::Fair, 0)] {
        let mut driver =
            Driver::new(executor(32), Settings { running_max: 2, policy, ..settings() });
        driver.submit(1, prompt(1, 4), 10);
        driver.submit(2, prompt(2, 4), 10);
        driver.step();
        let mut urgent = request(3, prompt(3, 4), 10);
        urgent.service.priority = -1;
        driver.submit_request(urgent).unwrap();
        driver.run();
        assert_eq!(driver.scheduler.counters().preemptions, preemptions, "{policy:?}");
        for id in 1..=3 {
            assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, 4), 10));
        }
    }
}

#[test]
fn what_does_not_fit_is_waited_for() {
    let mut driver = Driver::new(executor(16), settings());
    driver.submit(1, prompt(1, 32), 8);
    driver.submit(2, prompt(2, 40), 1);
    driver.submit(3, prompt(3, 1), 1);
    let plans = driver.run();
    let admitted = |len: &str| plans.iter().position(|plan| plan.contains(len)).unwrap();
    assert!(admitted("[32]") < admitted("[40]"));
    assert!(admitted("[40]") <= admitted("[1]"), "a small one does not overtake");
}

#[test]
fn an_aborted_request_is_dropped_wherever_it_is() {
    let mut driver = Driver::new(executor(16), Settings { running_max: 1, ..settings() });
    driver.submit(1, prompt(1, 4), 10);
    driver.submit(2, prompt(2, 4), 10);
    let plan = driver.plan().unwrap();
    let outcome = driver.model.run(&plan);
    assert!(driver.abort(1), "under way");
    assert!(driver.abort(2), "waiting");
    assert!(!driver.abort(2), "gone");
    driver.commit(outcome).unwrap();
    assert!(driver.stream(1).tokens.is_empty() && !driver.stream(1).ended());
    assert!(!driver.scheduler.is_idle(), "the executor is still to be told");
    assert_eq!(driver.run(), ["step 1: -s0"]);
}

#[test]
fn a_slot_is_released_once_and_can_be_used_in_the_same_step() {
    let mut driver = Driver::new(executor(16), Settings { running_max: 1, ..settings() });
    driver.submit(1, prompt(1, 4), 1);
    driver.submit(2, prompt(2, 4), 1);
    assert_eq!(
        driver.run(),
        ["step 0: +s0[4] s0@0..4*", "step 1: -s0 +s0[4] s0@0..4*", "step 2: -s0"]
    );
}

#[test]
fn a_request_that_fails_alone_leaves_its_neighbours_alone() {
    let mut driver = Driver::new(executor(32), settings());
    driver.submit(1, prompt(1, 6), 5);
    driver.submit(2, vec![1, FAILING, 2], 5);
    driver.submit(3, prompt(3, 6), 5);
    driver.run();
    assert_eq!(driver.stream(2).failed.as_ref().unwrap().message, "the failing token");
    assert!(driver.stream(2).tokens.is_empty());
    for id in [1, 3] {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, 6), 5));
    }
}

#[test]
fn who_crashes_the_executor_twice_ends_alone() {
    let mut driver = Driver::new(executor(64), settings());
    for id in 0..3 {
        driver.submit(id, prompt(id, 20), 30);
    }
    for _ in 0..10 {
        driver.step();
    }
    driver.submit(9, vec![1, POISON, 2], 5);
    driver.submit(4, prompt(4, 20), 5);
    driver.run();
    assert_eq!(driver.crashes, 2);
    assert_eq!(driver.stream(9).failed.as_ref().unwrap().message, "it crashed twice");
    for id in 0..3 {
        assert_eq!(driver.stream(id).tokens, expected(id, &prompt(id, 20), 30));
    }
    assert_eq!(driver.stream(4).tokens, expected(4, &prompt(4, 20), 5));
}

#[test]
fn an_innocent_request_survives_any_number_of_crashes() {
    let mut driver = Driver::new(executor(64), settings());
    driver.submit(1, prompt(1, 8), 20);
    let mut crashes = 0;
    while !driver.stream(1).ended() {
        driver.step();
        let plan = driver.plan();
        // Cleared of the last crash, it may be in the next one.
        if plan.is_some() && driver.stream(1).tokens.len() > crashes {
            crashes = driver.stream(1).tokens.len();
            driver.crash();
        } else if let Some(plan) = plan {
            let outcome = driver.model.run(&plan);
            driver.commit(outcome).unwrap();
        }
    }
    assert!(driver.crashes > 3, "{}", driver.crashes);
    assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 8), 20));
}

#[test]
fn prompt_logprobs_come_once_and_whole_however_often_they_are_computed() {
    let prompt = prompt(1, 21);
    let whole: Vec<_> = (1..21).map(|index| logprobs_of(prompt[index as usize], index)).collect();
    // The prompt takes three steps. Crashes before, between and after them.
    for crash_after in 0..6 {
        let mut driver = Driver::new(executor(64), settings());
        let mut request = request(1, prompt.clone(), 5);
        request.sampling.prompt_logprobs = Some(1);
        driver.submit_request(request).unwrap();
        for _ in 0..crash_after {
            driver.step().unwrap();
        }
        driver.plan().unwrap();
        driver.crash();
        driver.run();
        assert_eq!(driver.stream(1).prompt_logprobs.as_ref(), Some(&whole), "{crash_after}");
        assert_eq!(driver.stream(1).tokens, expected(1, &prompt, 5));
    }
}

#[test]
fn a_prompt_of_one_token_has_no_logprobs_and_says_so() {
    let mut driver = Driver::new(executor(64), settings());
    let mut request = request(1, vec![7], 2);
    request.sampling.prompt_logprobs = Some(0);
    driver.submit_request(request).unwrap();
    driver.run();
    assert_eq!(driver.stream(1).prompt_logprobs, Some(Vec::new()));
}

#[test]
fn all_can_be_ended_at_once() {
    let mut driver = Driver::new(executor(16), Settings { running_max: 1, ..settings() });
    driver.submit(1, prompt(1, 4), 10);
    driver.submit(2, prompt(2, 4), 10);
    driver.step();
    let fault = Fault::new(FaultKind::Unavailable, "going home");
    let events = driver.scheduler.end_all(&fault, driver.now);
    driver.check();
    let ids: Vec<_> = events.iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [1, 2]);
    driver.run();
}

#[test]
fn a_full_queue_says_how_long_it_takes() {
    let mut driver =
        Driver::new(executor(64), Settings { running_max: 1, waiting_max: 2, ..settings() });
    for id in 0..2 {
        driver.submit(id, prompt(id, 4), 2);
    }
    assert!(matches!(driver.submit_request(request(7, vec![1], 1)), Err(Error::QueueFull(_))));
    driver.step();
    driver.submit(2, prompt(2, 4), 2);
    // One leaves every two steps of 10 ms.
    for id in 3..60 {
        driver.step();
        driver.step();
        driver.submit(id, prompt(id, 4), 2);
    }
    let Err(Error::QueueFull(full)) = driver.submit_request(request(99, prompt(9, 4), 2)) else {
        panic!("the queue is full")
    };
    assert_eq!(full.limit, 2);
    let wait_ms = full.wait.as_millis();
    assert!((45..=60).contains(&wait_ms), "two at 20 ms and one half done: {wait_ms}");
}

#[test]
fn an_outcome_that_does_not_answer_the_plan_changes_nothing() {
    let mut driver = Driver::new(executor(16), settings());
    driver.submit(1, prompt(1, 4), 10);
    driver.submit(2, prompt(2, 12), 10);
    let plan = driver.plan().unwrap();
    let good = driver.model.run(&plan);
    let step = StepId(0);
    let wrong = |change: &dyn Fn(&mut StepOutcome)| {
        let mut outcome = good.clone();
        change(&mut outcome);
        outcome
    };
    let token = |slot, token| SampledToken { slot: SlotId(slot), token, logprobs: None };
    let cases: [(StepOutcome, Error); 5] = [
        (
            wrong(&|outcome| outcome.id = StepId(4)),
            Error::WrongStep { step: StepId(4), under_way: Some(step) },
        ),
        (
            wrong(&|outcome| outcome.sampled.clear()),
            Error::WrongSample { step, wanted: Some(SlotId(0)), got: None },
        ),
        (
            wrong(&|outcome| outcome.sampled.push(token(1, 1))),
            Error::WrongSample { step, wanted: None, got: Some(SlotId(1)) },
        ),
        (
            wrong(&|outcome| outcome.sampled = vec![token(0, 99)]),
            Error::TokenOutOfVocabulary { step, slot: SlotId(0), token: 99, vocab_size: 52 },
        ),
        (
            wrong(&|outcome| outcome.failed.push((SlotId(5), Fault::internal("?")))),
            Error::WrongFailure { step, slot: SlotId(5) },
        ),
    ];
    for (outcome, error) in cases {
        assert_eq!(driver.commit(outcome), Err(error));
    }
    let logprobs = vec![logprobs_of(1, 1)];
    let extra = wrong(&|outcome| outcome.prompt_logprobs.push((SlotId(0), logprobs.clone())));
    assert!(matches!(driver.commit(extra), Err(Error::WrongPromptLogprobs { got: 1, .. })));
    driver.commit(good.clone()).unwrap();
    assert_eq!(driver.commit(good), Err(Error::WrongStep { step, under_way: None }));
    driver.run();
    assert_eq!(driver.stream(2).tokens, expected(2, &prompt(2, 12), 10));
}

#[test]
fn settings_that_allow_nothing_are_refused() {
    let error =
        Scheduler::new(&executor(16), Settings { running_max: 0, ..settings() }).unwrap_err();
    assert_eq!(error, Error::Zero { name: "running_max" });
    let percent = Settings { kv_reserve_percent: 101, ..settings() };
    let error = Scheduler::new(&executor(16), percent).unwrap_err();
    assert_eq!(error, Error::ReserveTooLarge { percent: 101 });
    assert!(matches!(Scheduler::new(&executor(0), settings()), Err(Error::Kv(_))));
}

#[test]
fn only_one_step_is_under_way() {
    let mut driver = Driver::new(executor(16), settings());
    driver.submit(1, prompt(1, 4), 10);
    let plan = driver.scheduler.plan(Duration::ZERO).unwrap();
    assert_eq!(driver.scheduler.plan(Duration::ZERO), None);
    let outcome = driver.model.run(&plan);
    driver.commit(outcome).unwrap();
    assert!(driver.scheduler.plan(Duration::ZERO).is_some());
}

#[test]
fn a_model_without_a_cache_is_served_too() {
    let info = types::ExecutorInfo { cache_groups: Vec::new(), ..executor(1) };
    let mut driver = Driver::new(info, settings());
    driver.submit(1, prompt(1, 10), 3);
    driver.run();
    assert_eq!(driver.stream(1).tokens, expected(1, &prompt(1, 10), 3));
}

#[test]
fn seeds_and_tokens_min_reach_the_executor() {
    let mut driver = Driver::new(executor(16), settings());
    let mut request = request(1, prompt(1, 4), 10);
    request.sampling = SamplingParams {
        stop_token_ids: (0..25).collect(),
        tokens_min: 6,
        seed: 5,
        ..request.sampling
    };
    let (tokens, reason) = expected_output(&request.prompt, &request.sampling, 10, VOCAB_SIZE);
    driver.submit_request(request).unwrap();
    driver.run();
    assert!(tokens.len() > 6);
    assert_eq!(driver.streams[&RequestId(1)].tokens, tokens);
    assert_eq!(driver.stream(1).finished.unwrap().0, reason);
}
