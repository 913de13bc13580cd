//! The engine's journal, replayed.

use journal::{Divergence, Ending, Journal, Replay, replay};

use super::*;
use crate::{JournalSettings, TokenRecord};

fn replayed(bytes: &[u8]) -> Replay {
    let journal = Journal::read(bytes).unwrap();
    assert_eq!(journal.damage, None);
    replay(&journal, true).unwrap()
}

/// Random traffic through a whole engine: shared beginnings, too few blocks, lost executors, and ten requests that are
/// given up on the way. The preemptions.
fn traffic(mut fake: FakeSettings, settings: EngineSettings, seed: u64) -> (EngineHandle, u64) {
    let (gate, permits) = StepGate::closed();
    fake.gate = Some(gate);
    fake.info.cache_groups[0].blocks = 16;
    fake.panicking_steps = vec![40];
    fake.faulty_steps = vec![90];
    fake.failing_token = Some(SPECIAL);
    let (engine, handle) =
        Engine::start(fake.factory(), settings, EngineMetrics::unregistered()).unwrap();
    let submit = |number: u64| {
        let mixed = seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let is_given_up = number.is_multiple_of(4);
        let tokens_max = if is_given_up { 200 } else { 4 + (mixed % 50) as u32 };
        let mut new = request(mixed % 5, 5 + (mixed % 90) as usize, tokens_max);
        new.service.tenant = (mixed % 3).to_string().into();
        if number == 7 {
            new.prompt[3] = SPECIAL;
        }
        (is_given_up, handle.submit(new).unwrap())
    };
    let (given_up, kept): (Vec<_>, Vec<_>) = (0..40).map(submit).partition(|(up, _)| *up);
    permits.let_through(30);
    while handle.stats().steps < 30 {
        thread::yield_now();
    }
    drop(given_up);
    drop(permits);
    for (_, generation) in kept {
        read(generation);
    }
    let preemptions = handle.stats().preemptions;
    engine.shutdown();
    (handle, preemptions)
}

#[test]
fn an_engine_with_aborts_preemptions_and_crashes_is_replayed_block_by_block() {
    let folder = tempfile::tempdir().unwrap();
    let mut preemptions = 0;
    for (number, fake) in fakes().into_iter().enumerate() {
        for tokens in [TokenRecord::Hashes, TokenRecord::Ids] {
            let path = folder.path().join(format!("{number}-{tokens:?}"));
            let journal =
                JournalSettings { file: Some(path.clone()), tokens, ..JournalSettings::default() };
            let (handle, preempted) =
                traffic(fake.clone(), EngineSettings { journal, ..settings() }, 3);
            preemptions += preempted;
            let bytes = std::fs::read(&path).unwrap();
            let memory = handle.journal().unwrap();
            assert!(bytes.starts_with(&memory), "memory and file hold the same");
            let replay = replayed(&bytes);
            assert_eq!((&replay.divergence, replay.is_whole), (&None, true));
            assert!(!replayed(&memory).is_whole, "more could have come");
            assert_eq!((replay.requests.len(), replay.losses.len()), (40, 2));
            let lost: u64 = replay.requests.values().map(|life| u64::from(life.preemptions)).sum();
            assert_eq!(lost, preempted);
            let endings: Vec<_> =
                replay.requests.values().map(|life| life.ended.unwrap().1).collect();
            let count = |ending| endings.iter().filter(|other| **other == ending).count();
            assert_eq!(count(Ending::Failed), 1);
            assert_eq!((count(Ending::Aborted), count(Ending::Length)), (10, 29));
        }
    }
    assert!(preemptions > 0, "blocks were scarce");
}

#[test]
fn what_is_left_in_memory_of_a_long_run_is_replayed_as_well() {
    for (number, fake) in fakes().into_iter().enumerate() {
        for tokens in [TokenRecord::Hashes, TokenRecord::Ids] {
            let journal =
                JournalSettings { memory_bytes_max: 4000, tokens, ..JournalSettings::default() };
            let settings = EngineSettings { journal, ..settings() };
            let (handle, _) = traffic(fake.clone(), settings, number as u64);
            let replay = replayed(&handle.journal().unwrap());
            assert_eq!(replay.divergence, None);
            assert!(replay.begins.is_some(), "it does not begin at the start");
            let steps = replay.steps.len() as u64;
            assert!(20 < steps && 2 * steps < handle.stats().steps, "{steps} steps");
        }
    }
}

#[test]
fn another_scheduler_is_told_apart() {
    let settings = EngineSettings {
        journal: JournalSettings { tokens: TokenRecord::Ids, ..JournalSettings::default() },
        ..settings()
    };
    let (handle, _) = traffic(fake(), settings, 5);
    let mut journal = Journal::read(&handle.journal().unwrap()).unwrap();
    journal.setup.settings.prefix_cache = false;
    let Divergence { replayed, .. } = replay(&journal, true).unwrap().divergence.unwrap();
    assert!(replayed.contains("step "), "the plan is shown: {replayed}");
}

#[test]
fn a_journal_that_cannot_be_written_is_an_error_at_start() {
    let file = Some("/proc/no/such/place".into());
    let journal = JournalSettings { file, ..JournalSettings::default() };
    let settings = EngineSettings { journal, ..settings() };
    let fault =
        Engine::start(fake().factory(), settings, EngineMetrics::unregistered()).unwrap_err();
    assert_eq!(fault.field.as_deref(), Some("journal"));
    assert!(fault.message.contains("/proc/no/such/place"), "{fault}");
}

#[test]
fn nothing_is_recorded_when_nothing_is_to_be() {
    let journal = JournalSettings { memory_bytes_max: 0, ..JournalSettings::default() };
    let (_engine, handle) = Engine::start(
        fake().factory(),
        EngineSettings { journal, ..settings() },
        EngineMetrics::unregistered(),
    )
    .unwrap();
    read(handle.submit(request(1, 10, 5)).unwrap());
    assert_eq!(handle.journal(), None);
}
