//! Guessing next tokens: fewer steps, the same tokens.

use types::{ExecutorInfo, FinishReason, Request, SamplingParams, SlotId, TokenId};

use super::driver::{Driver, VOCAB_SIZE, executor, prompt, request, settings};
use crate::{
    Error, Settings,
    testing::{REPETITIVE, expected_output},
};

fn guessing() -> Settings {
    Settings { draft_tokens_max: 8, ..settings() }
}

/// A request that says the same five tokens over and over.
fn repetitive(id: u64, prompt_len: usize, tokens_max: u32) -> Request {
    let mut request = request(id, prompt(id, prompt_len), tokens_max);
    request.sampling.seed |= REPETITIVE;
    request
}

fn expected(request: &Request) -> Vec<TokenId> {
    expected_output(&request.prompt, &request.sampling, request.tokens_max, VOCAB_SIZE).0
}

/// Runs requests; how many steps had items, and the driver.
fn run(info: ExecutorInfo, settings: Settings, requests: &[Request]) -> (usize, Driver) {
    let mut driver = Driver::new(info, settings);
    for request in requests {
        driver.submit_request(request.clone()).unwrap();
    }
    let steps = driver.run().len();
    for request in requests {
        assert_eq!(driver.stream(request.id.0).tokens, expected(request));
    }
    (steps, driver)
}

#[test]
fn right_guesses_save_steps() {
    let request = repetitive(1, 5, 80);
    let (plain, _) = run(executor(64), settings(), std::slice::from_ref(&request));
    let (guessed, driver) = run(executor(64), guessing(), std::slice::from_ref(&request));
    assert!(guessed * 2 < plain, "{guessed} steps instead of {plain}");
    let account = driver.stream(1).explanation.as_ref().unwrap();
    let counters = driver.scheduler.counters();
    assert_eq!(u64::from(account.accepted_tokens), counters.accepted_tokens);
    assert_eq!(u64::from(account.drafted_tokens), counters.drafted_tokens);
    // Each step gives a token, and each right guess one more. The first step gives the first.
    assert_eq!(account.steps.decode + account.accepted_tokens + 1, 80);
    assert!(account.accepted_tokens < account.drafted_tokens, "some were wrong");
}

#[test]
fn a_draft_follows_the_last_known_token() {
    let mut driver = Driver::new(executor(64), guessing());
    driver.submit_request(repetitive(1, 5, 60)).unwrap();
    let mut drafted = None;
    while let Some(plan) = driver.step() {
        let item = plan.items.first().cloned();
        drafted = drafted.or(item.filter(|item| !item.draft.is_empty()));
    }
    let item = drafted.expect("something is guessed");
    assert_eq!(item.known().len(), 1);
    assert_eq!(item.positions.len(), 1 + item.draft.len());
    assert!(item.sample);
}

#[test]
fn guesses_give_way_to_positions_that_are_wanted() {
    // Four requests take four positions of six; the guesses get one of the other two.
    let narrow = Settings { step_tokens_max: 6, ..guessing() };
    let requests: Vec<_> = (0..4).map(|id| repetitive(id, 5, 60)).collect();
    let (_, driver) = run(executor(200), narrow, &requests);
    assert!(driver.scheduler.counters().accepted_tokens > 0);
}

#[test]
fn nobody_is_preempted_for_a_guess() {
    for blocks in 8..30 {
        let mut driver = Driver::new(executor(blocks), guessing());
        for id in 0..4 {
            driver.submit_request(repetitive(id, 4, 20)).unwrap();
        }
        loop {
            let before = driver.scheduler.counters().preemptions;
            let Some(plan) = driver.step() else { break };
            let is_plain = plan.items.iter().all(|item| item.draft.is_empty());
            let preempted = driver.scheduler.counters().preemptions > before;
            assert!(is_plain || !preempted, "{plan} with {blocks} blocks");
        }
    }
}

#[test]
fn guessing_and_preemption_go_together() {
    let requests: Vec<_> = (0..4).map(|id| repetitive(id, 8, 40)).collect();
    let (_, driver) = run(executor(20), guessing(), &requests);
    let counters = driver.scheduler.counters();
    assert!(counters.preemptions > 0 && counters.accepted_tokens > 0, "{counters:?}");
}

#[test]
fn a_stop_token_among_right_guesses_is_the_last_token() {
    let whole = expected(&repetitive(1, 5, 60));
    // A token that comes for the first time late, or else it would never have been guessed.
    let place = (20..60).find(|at| whole[*at] != whole[*at - 5]).unwrap();
    let mut request = repetitive(1, 5, 60);
    request.sampling = SamplingParams { stop_token_ids: vec![whole[7]], ..request.sampling };
    request.sampling.tokens_min = place as u32;
    let (want, reason) = expected_output(&request.prompt, &request.sampling, 60, VOCAB_SIZE);
    assert!(matches!(reason, FinishReason::StopToken(_)));
    let mut driver = Driver::new(executor(64), guessing());
    driver.submit_request(request).unwrap();
    driver.run();
    assert_eq!(driver.stream(1).tokens, want);
    assert_eq!(driver.stream(1).finished.unwrap().0, reason);
}

#[test]
fn nothing_is_guessed_where_it_is_not_taken() {
    let requests = [repetitive(1, 5, 40)];
    for info in [
        ExecutorInfo { draft_tokens_max: 0, ..executor(64) },
        ExecutorInfo { steps_in_flight_max: 2, ..executor(64) },
    ] {
        let (_, driver) = run(info, guessing(), &requests);
        assert_eq!(driver.scheduler.counters().drafted_tokens, 0);
    }
}

#[test]
fn an_outcome_that_goes_on_after_a_wrong_guess_is_refused() {
    let mut driver = Driver::new(executor(64), guessing());
    driver.submit_request(repetitive(1, 5, 60)).unwrap();
    loop {
        let plan = driver.plan().unwrap();
        let mut outcome = driver.model.run(&plan);
        let draft = &plan.items[0].draft;
        if outcome.sampled.len() <= draft.len() {
            let mut more = outcome.sampled[0].clone();
            more.slot = SlotId(0);
            outcome.sampled.push(more);
            let error = driver.scheduler.commit(outcome, driver.now).unwrap_err();
            assert!(matches!(error, Error::WrongSample { wanted: None, .. }), "{error}");
            return;
        }
        driver.commit(outcome).unwrap();
    }
}
