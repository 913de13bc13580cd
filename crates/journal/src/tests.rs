//! Random schedules, recorded and replayed; journals that are cut, flipped and altered.

mod load;
mod ring;

use std::{os::unix::fs::PermissionsExt, time::Duration};

use scheduler::{
    Explanation, Scheduler, Settings,
    testing::{FakeModel, REPETITIVE, expected_output},
};
use types::{
    CacheContent, CacheGroup, ExecutorInfo, Request, RequestId, SamplingParams, Service, TokenId,
};

use self::load::{Load, Numbers, STOP};
use crate::{
    Damage, Ending, Error, Journal, Phase, RecordedScheduler, Recorder, Replay, TokenRecord,
    encoding::{Output, framed},
    hiding::Hider,
    journal::opening,
    record::Record,
    replay, show,
};

const VOCAB_SIZE: u32 = 500;

/// A journal as bytes, how many were preempted in it, and where the time of those that ended went.
fn run(seed: u64, tokens: TokenRecord) -> (Vec<u8>, u64, Vec<Explanation>) {
    let ran = Load::new(seed, tokens).run();
    (ran.ring.snapshot(), ran.counters.preemptions, ran.ended)
}

fn replayed(bytes: &[u8]) -> Replay {
    replay(&Journal::read(bytes).unwrap(), true).unwrap()
}

#[test]
fn every_plan_is_made_again() {
    let (mut preemptions, mut accepted, mut brought_back, mut states_copied) = (0, 0, 0, 0);
    for seed in 0..20 {
        for tokens in [TokenRecord::Hashes, TokenRecord::Ids] {
            let (bytes, preempted, ended) = run(seed, tokens);
            let journal = Journal::read(&bytes).unwrap();
            assert_eq!(journal.damage, None);
            let replay = replay(&journal, true).unwrap();
            assert_eq!(replay.divergence, None, "seed {seed}, {tokens:?}");
            assert!(replay.steps.len() > 200, "{}", replay.steps.len());
            let seen: u64 = replay.requests.values().map(|life| u64::from(life.preemptions)).sum();
            assert_eq!(seen, preempted, "seed {seed}");
            let explained = replay.requests.values().filter(|life| life.explanation.is_some());
            assert_eq!(explained.count(), ended.len(), "seed {seed}");
            for recorded in ended {
                accepted += recorded.accepted_tokens;
                brought_back += u64::from(recorded.prefix.host_tokens) + recorded.restored_tokens;
                let again = replay.requests[&recorded.id].explanation.clone().unwrap();
                // Tenants may be hidden.
                assert_eq!(Explanation { tenant: recorded.tenant.clone(), ..again }, recorded);
            }
            preemptions += preempted;
            let lines = replay.steps.iter().filter_map(|step| step.line.as_deref());
            states_copied += lines.filter(|line| line.contains(" g1:b")).count();
        }
    }
    assert!(preemptions > 100, "{preemptions}");
    assert!(accepted > 100, "{accepted}");
    assert!(brought_back > 100, "{brought_back}");
    assert!(states_copied > 100, "{states_copied}");
}

#[test]
fn tokens_drawn_after_a_stop_token_that_was_guessed_are_nobodys() {
    let info = ExecutorInfo {
        cache_groups: vec![CacheGroup::new(24, 4)],
        context_max: 90,
        vocab_size: VOCAB_SIZE,
        draft_tokens_max: 6,
        ..small()
    };
    let info = ExecutorInfo { step_tokens_max: 64, ..info };
    // Without a target no time is measured, and guesses do not depend on it.
    let settings =
        Settings { draft_tokens_max: 5, token_latency_target: None, ..Settings::default() };
    // A prompt that says what the model says over and over, the stop token included.
    let sampling = SamplingParams { seed: 5 | REPETITIVE, ..SamplingParams::default() };
    let (said, _) = expected_output(&[1], &sampling, 6, VOCAB_SIZE);
    let prompt: Vec<_> = (0..25).map(|place| said[(place + 4) % 5]).collect();
    let sampling = SamplingParams { stop_token_ids: vec![prompt[3]], ..sampling };
    for tokens in [TokenRecord::Hashes, TokenRecord::Ids] {
        let mut recorder = Recorder::new(&info, &settings, tokens);
        recorder.keep_in_memory(1 << 20).unwrap();
        let ring = recorder.memory().unwrap();
        let scheduler = Scheduler::new(&info, settings.clone()).unwrap();
        let mut scheduler = RecordedScheduler::new(scheduler, &info, Some(recorder));
        let mut model = FakeModel::new(info.clone());
        let request = Request {
            id: RequestId(1),
            prompt: prompt.clone(),
            sampling: sampling.clone(),
            tokens_max: 40,
            service: Service::default(),
        };
        scheduler.submit(request, Duration::ZERO).unwrap();
        let (mut now, mut is_drawn_in_vain) = (Duration::ZERO, false);
        while let Some(plan) = scheduler.plan(now) {
            now += Duration::from_millis(1);
            let outcome = model.run(&plan);
            let drawn = outcome.sampled.iter().map(|sampled| sampled.token);
            is_drawn_in_vain |= drawn.skip_while(|token| *token != prompt[3]).count() > 1;
            scheduler.commit(outcome, now).unwrap();
        }
        assert!(is_drawn_in_vain);
        let replay = replayed(&ring.snapshot());
        assert_eq!(replay.divergence, None, "{tokens:?}");
        assert_eq!(replay.requests[&RequestId(1)].ended.unwrap().1, Ending::Stop);
    }
}

#[test]
fn of_hidden_texts_repeats_are_seen_only_where_guesses_need_them() {
    let texts: [&[TokenId]; 3] = [&[1, 2, 1, 2, 3, 1], &[1, 2, 1, 3, 2, 1], &[2, 2, 1, 2, 3, 1]];
    for shows_repeats in [false, true] {
        let hider = Hider::new(VOCAB_SIZE, shows_repeats);
        let [one, other, third] = texts.map(|text| hider.prompt(text));
        assert_eq!(one[..3], other[..3], "what begins alike still does");
        assert_ne!(one[3], other[3]);
        assert!(one.iter().zip(&third).all(|(one, third)| one != third), "and nothing else");
        let is_repeated = |text: &[TokenId]| text[0] == text[2] && text[2] == text[5];
        assert_eq!(is_repeated(&one) && is_repeated(&other), shows_repeats);
    }
}

#[test]
fn prompts_are_hidden_unless_asked_for() {
    let prompts = |tokens| {
        let journal = Journal::read(&run(3, tokens).0).unwrap();
        let requests = journal.records.into_iter().filter_map(|record| match record {
            Record::Submit { request, .. } => Some(request),
            _ => None,
        });
        requests.collect::<Vec<_>>()
    };
    let (ids, hashes) = (prompts(TokenRecord::Ids), prompts(TokenRecord::Hashes));
    assert_eq!(ids.len(), hashes.len());
    let common = |one: &Request, other: &Request| {
        one.prompt.iter().zip(&other.prompt).take_while(|(one, other)| one == other).count()
    };
    for (plain, hidden) in ids.iter().zip(&hashes) {
        assert_eq!(plain.prompt.len(), hidden.prompt.len());
        assert!(hidden.prompt.iter().all(|token| *token >= 1 << 31), "{hidden:?}");
        assert!(!hidden.service.tenant.contains("tenant"), "{hidden:?}");
        // What begins alike does so still, and as far.
        assert_eq!(common(&ids[0], plain), common(&hashes[0], hidden));
    }
    // Another run has another key.
    assert_ne!(prompts(TokenRecord::Hashes)[0].prompt, hashes[0].prompt);
}

#[test]
fn a_planted_divergence_is_shown_with_its_plan() {
    let (bytes, ..) = run(4, TokenRecord::Ids);
    let journal = Journal::read(&bytes).unwrap();
    let steps = replayed(&bytes).steps.len();
    // An arrival that came with one token more, a step that took longer, an abort that is left out.
    let alterations: [fn(&mut Record) -> bool; 3] = [
        |record| match record {
            Record::Submit { request, accepted: true, .. } => {
                request.prompt.push(3);
                true
            }
            _ => false,
        },
        |record| match record {
            Record::Commit { outcome, .. } if !outcome.sampled.is_empty() => {
                outcome.sampled[0].token = STOP;
                true
            }
            _ => false,
        },
        |record| match record {
            Record::Abort { id, found: true, .. } => {
                *id = RequestId(1 << 40);
                true
            }
            _ => false,
        },
    ];
    for alter in alterations {
        let mut altered = opening(&journal.setup);
        let mut is_altered = false;
        for (index, record) in journal.records.iter().enumerate() {
            let mut record = record.clone();
            if index > journal.records.len() / 3 && !is_altered {
                is_altered = alter(&mut record);
            }
            let mut encoded = Output::default();
            record.encode(&mut encoded);
            altered.extend(framed(&encoded.0));
        }
        assert!(is_altered);
        let replay = replayed(&altered);
        let divergence = replay.divergence.clone().expect("it is found");
        assert!(divergence.record > journal.records.len() / 3, "{divergence:?}");
        assert!(replay.steps.len() < steps);
        let text = show::text(&replay, None);
        assert!(text.contains("DIFFERS") && text.contains("recorded: "), "{text}");
    }
}

#[test]
fn damage_is_named_and_what_stands_before_is_read() {
    let (bytes, ..) = run(5, TokenRecord::Hashes);
    let whole = Journal::read(&bytes).unwrap();
    let begin = opening(&whole.setup).len();
    for cut in (begin..bytes.len()).step_by(997) {
        let journal = Journal::read(&bytes[..cut]).unwrap();
        assert!(journal.records.len() < whole.records.len());
        assert_eq!(journal.records[..], whole.records[..journal.records.len()]);
        assert_eq!(replay(&journal, false).unwrap().divergence, None);
        if let Some(damage) = journal.damage {
            assert!(matches!(damage, Damage::Truncated { offset } if offset < cut), "{damage}");
        }
    }
    for flipped in (begin..bytes.len()).step_by(991) {
        let mut spoilt = bytes.clone();
        spoilt[flipped] ^= 0x10;
        let journal = Journal::read(&spoilt).unwrap();
        let damage = journal.damage.expect("a flipped bit is found");
        assert!(damage.to_string().contains("at byte"), "{damage}");
        assert_eq!(journal.records[..], whole.records[..journal.records.len()]);
    }
    let error = |bytes: &[u8]| Journal::read(bytes).unwrap_err();
    assert!(matches!(error(b"GGUF and so on"), Error::NotAJournal));
    assert!(matches!(error(&bytes[..20]), Error::Setup(Damage::Truncated { .. })));
    let mut other = bytes.clone();
    other[crate::journal::MAGIC.len()] = 99;
    assert_eq!(error(&other).to_string(), "the journal has format 99; this program reads format 5");
    let mut spoilt = bytes.clone();
    spoilt[crate::journal::MAGIC.len() + 5] ^= 1;
    assert!(matches!(error(&spoilt), Error::Setup(Damage::Corrupt { .. })));
}

#[test]
fn random_bytes_behind_the_settings_are_damage_and_no_panic() {
    let (bytes, ..) = run(6, TokenRecord::Hashes);
    let begin = opening(&Journal::read(&bytes).unwrap().setup).len();
    let mut numbers = Numbers(1);
    for _ in 0..300 {
        let mut record: Vec<u8> =
            (0..numbers.below(40)).map(|_| numbers.below(256) as u8).collect();
        if let Some(kind) = record.first_mut() {
            *kind = b"SAEPCRLFZ"[numbers.below(9) as usize];
        }
        let journal = [&bytes[..begin], &framed(&record)].concat();
        if let Ok(read) = Journal::read(&journal) {
            let _any = replay(&read, false);
        }
    }
}

/// An executor that is never asked for anything.
fn small() -> ExecutorInfo {
    ExecutorInfo {
        cache_groups: Vec::new(),
        step_tokens_max: 8,
        slots_max: 2,
        context_max: 10,
        vocab_size: 10,
        steps_in_flight_max: 1,
        draft_tokens_max: 0,
    }
}

#[test]
fn a_file_ends_where_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let info = small();
    let mut recorder = Recorder::new(&info, &Settings::default(), TokenRecord::Ids);
    recorder.write_to(&path, 1000).unwrap();
    let scheduler = Scheduler::new(&info, Settings::default()).unwrap();
    let mut scheduler = RecordedScheduler::new(scheduler, &info, Some(recorder));
    for id in 0..10_000 {
        scheduler.abort(RequestId(id), Duration::ZERO);
    }
    drop(scheduler);
    let bytes = std::fs::read(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for its owner alone");
    assert!(bytes.len() < 1500, "{}", bytes.len());
    let journal = Journal::read(&bytes).unwrap();
    assert_eq!((journal.records.last(), &journal.damage), (Some(&Record::Full), &None));
    assert!(replay(&journal, false).unwrap().is_full);
    let mut recorder = Recorder::new(&info, &Settings::default(), TokenRecord::Ids);
    assert!(recorder.write_to(folder.path(), 1000).is_err(), "a folder is no file");
}

#[test]
fn a_replay_is_shown_as_text_and_as_a_picture() {
    let (bytes, preemptions, _) = run(4, TokenRecord::Hashes);
    assert!(preemptions > 0);
    let replay = replayed(&bytes);
    let text = show::text(&replay, Some(&Damage::Truncated { offset: 17 }));
    assert!(text.contains("every plan is the one that was recorded"), "{text}");
    assert!(text.contains("it ends within the record at byte 17"), "{text}");
    assert!(text.lines().filter(|line| line.contains(" step ")).count() >= replay.steps.len());
    for life in replay.requests.values() {
        assert_eq!(life.spans[0].phase, Phase::Waits);
        assert!(life.spans.windows(2).all(|two| two[0].from <= two[1].from), "{life:?}");
    }
    let whole = show::timeline(&replay, None);
    let part =
        show::timeline(&replay, Some(Duration::from_millis(100)..Duration::from_millis(200)));
    for picture in [&whole, &part] {
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
        let opened = picture.matches('<').count();
        assert_eq!(opened, picture.matches('>').count());
    }
    assert!(part.len() < whole.len() / 2);
}
