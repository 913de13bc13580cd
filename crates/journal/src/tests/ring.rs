//! Rings that dropped their beginning, replayed from the state that they begin with.

use std::collections::BTreeSet;

use scheduler::Cause;

use super::*;
use crate::{Divergence, PlanMark, ring::RingWriter, state::State};

/// A load in which everything happens, on a ring that holds a small part of it.
fn load(seed: u64, tokens: TokenRecord) -> Load {
    let holding = |content, blocks, block_tokens| CacheGroup {
        content,
        ..CacheGroup::new(blocks, block_tokens)
    };
    let windowed = |blocks, block_tokens| holding(CacheContent::Window(24), blocks, block_tokens);
    let mut load = Load { ring_bytes_max: 3000, ..Load::new(seed, tokens) };
    match seed % 4 {
        0 => {}
        1 => load.groups = vec![windowed(24, 4)],
        2 => {
            let states = holding(CacheContent::State(8), 20, 4);
            load.groups = vec![CacheGroup::new(24, 4), states];
        }
        _ => load.groups = vec![CacheGroup::new(20, 8), windowed(30, 4)],
    }
    load
}

#[test]
fn every_plan_that_a_ring_holds_is_made_again() {
    let (mut preemptions, mut accepted, mut hits, mut brought_back) = (0, 0, 0, 0);
    let (mut losses, mut came_before, mut failed, mut refused, mut looks) = (0, 0, 0, 0, 0);
    for seed in 0..30 {
        for tokens in [TokenRecord::Hashes, TokenRecord::Ids] {
            load(seed, tokens).run_and_look(|round, _, ran| {
                if round % 75 != 74 {
                    return;
                }
                let bytes = ran.ring.snapshot();
                let journal = Journal::read(&bytes).unwrap();
                assert_eq!(journal.damage, None);
                let replay = replay(&journal, true).unwrap();
                assert_eq!(replay.divergence, None, "seed {seed}, {tokens:?}, round {round}");
                // The plans are those that were made last, and far from all.
                let plans: Vec<_> =
                    replay.steps.iter().map(|step| step.line.clone().unwrap()).collect();
                let dropped = ran.plans.len() - plans.len();
                assert_eq!(plans, ran.plans[dropped..]);
                assert_eq!(replay.begins.is_some(), journal.state.is_some());
                let records = bytes.len() - journal.state.map_or(0, |state| state.bytes.len());
                assert!(records < 3500, "{records} bytes");
                if round < 150 {
                    return;
                }
                assert!(plans.len() > 10 && dropped > 50, "{} of {dropped}", plans.len());
                looks += 1;
                let lives = || replay.requests.values();
                preemptions += lives().map(|life| u64::from(life.preemptions)).sum::<u64>();
                came_before += lives().filter(|life| life.came_before).count();
                failed += lives()
                    .filter(|life| life.ended.is_some_and(|(_, ending)| ending == Ending::Failed))
                    .count();
                (losses, refused) = (losses + replay.losses.len(), refused + replay.refused);
                for (id, life) in &replay.requests {
                    let Some(again) = &life.explanation else { continue };
                    accepted += u64::from(again.accepted_tokens);
                    hits += u64::from(again.prefix.hit_tokens);
                    brought_back += u64::from(again.prefix.host_tokens) + again.restored_tokens;
                    assert_eq!(again.times.total(), again.until - again.arrived);
                    // Tenants may be hidden.
                    let really = ran.ended.iter().find(|ended| ended.id == *id).unwrap();
                    let tenant = really.tenant.clone();
                    assert_eq!(Explanation { tenant, ..again.clone() }, *really);
                }
            });
        }
    }
    let seen = [preemptions, accepted, hits, brought_back, refused];
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    assert!(came_before > looks, "{came_before} of {looks} looks");
    assert!(losses > 5 && failed > 5, "{losses} {failed}");
}

/// All that a scheduler is, field by field.
fn fields(scheduler: &Scheduler) -> String {
    format!("{scheduler:?}")
}

#[test]
fn a_state_that_is_read_back_is_the_same_in_every_field() {
    let mut causes = 0;
    for seed in 0..30 {
        let load = load(seed, TokenRecord::Ids);
        let setup = load.setup();
        load.run_and_look(|round, scheduler, ran| {
            if round % 10 != 0 {
                return;
            }
            let state = State::of(scheduler, Duration::from_nanos(round.into()));
            let mut out = Output::default();
            state.encode(&mut out);
            let read = State::decode(&out.0[1..]).unwrap();
            assert_eq!(read, state);
            let again = read.scheduler(&setup).unwrap();
            assert_eq!(fields(&again), fields(scheduler), "seed {seed}, round {round}");
            causes +=
                ran.ended.iter().filter(|ended| !ended.times.of(Cause::Blocks).is_zero()).count();
        });
    }
    assert!(causes > 100, "requests wait for blocks");
}

/// The structs that values are made of and their fields in order, from how the values are printed.
fn shape(printed: &str) -> BTreeSet<String> {
    let is_name = |text: &str| text.chars().all(|c| c.is_alphanumeric() || c == '_');
    let mut shape = BTreeSet::new();
    // Where it begins, its name, its fields so far.
    let mut open: Vec<(usize, &str, Vec<&str>)> = Vec::new();
    for line in printed.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if trimmed.starts_with('}')
            && let Some((_, name, fields)) = open.pop_if(|(begin, ..)| *begin == indent)
            && !name.is_empty()
        {
            shape.insert(format!("{name}: {}", fields.join(", ")));
        }
        let (field, value) = trimmed.split_once(": ").unwrap_or(("", trimmed));
        if let Some((begin, _, fields)) = open.last_mut()
            && *begin + 4 == indent
            && !field.is_empty()
            && is_name(field)
        {
            fields.push(field);
        }
        if let Some(name) = value.strip_suffix('{') {
            let name = name.trim_end();
            open.push((indent, if is_name(name) { name } else { "" }, Vec::new()));
        }
    }
    shape
}

/// Whoever changes what a scheduler is made of has to count the version up and to take the change into the snapshot: a
/// state of another version is refused, and not read as something else. The types of fields are not in it.
#[test]
fn the_version_is_counted_up_with_every_change_of_the_state() {
    let mut all = BTreeSet::new();
    for seed in 0..15 {
        load(seed, TokenRecord::Ids).run_and_look(|round, scheduler, _| {
            if round % 50 == 0 {
                all.extend(shape(&format!("{scheduler:#?}")));
            }
        });
    }
    let all: Vec<_> = all.into_iter().collect();
    insta::assert_snapshot!(format!("version {}\n{}", crate::state::VERSION, all.join("\n")));
}

/// The bytes that numbers take in a state.
fn in_state(token: TokenId) -> Vec<u8> {
    let mut out = Output::default();
    out.number(token);
    out.0
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// How many tokens of prompts are found in the states of a load's rings, in their records, and how many names.
fn found(seed: u64, tokens: TokenRecord) -> [usize; 3] {
    // Tokens that take five bytes in a state and four in a record. Five are found nowhere by chance. Four may be, so
    // they have to be two in a row.
    let (first_token, vocab_size) = (1 << 29, 1 << 30);
    let mut found = [0; 3];
    Load { first_token, vocab_size, ..load(seed, tokens) }.run_and_look(|round, _, ran| {
        if round < 200 || round % 50 != 0 {
            return;
        }
        let bytes = ran.ring.snapshot();
        assert!(Journal::read(&bytes).unwrap().state.is_some());
        let prompts = (0..150).map(|at| first_token + at);
        let in_a_row = |token: &TokenId| {
            holds(&bytes, &[token.to_le_bytes(), (token + 1).to_le_bytes()].concat())
        };
        found[0] += prompts.clone().filter(|token| holds(&bytes, &in_state(*token))).count();
        found[1] += prompts.filter(in_a_row).count();
        let names = ["tenant 0", "tenant 1", "tenant 2", "salt"];
        found[2] += names.iter().filter(|name| holds(&bytes, name.as_bytes())).count();
    });
    found
}

#[test]
fn no_token_and_no_name_is_in_a_ring_unless_asked_for() {
    for seed in [0, 4, 5, 8] {
        assert_eq!(found(seed, TokenRecord::Hashes), [0; 3]);
        let all = found(seed, TokenRecord::Ids);
        assert!(all.iter().all(|count| *count > 20), "they are found where they are: {all:?}");
    }
}

#[test]
fn what_is_drawn_is_hidden_in_the_state_as_well() {
    for seed in [0, 5] {
        let drawn = |tokens| {
            let load = Load { vocab_size: 1 << 30, ..load(seed, tokens) };
            let ran = load.run();
            let bytes = ran.ring.snapshot();
            let setup = Journal::read(&bytes).unwrap().setup;
            let state = Journal::read(&bytes).unwrap().state.unwrap();
            let shown = fields(&state.scheduler(&setup).unwrap());
            // Lists of tokens, however deep they lie.
            let lists =
                shown.split("tokens: [").skip(1).map(|rest| rest.split(']').next().unwrap());
            let numbers = lists.flat_map(|list| list.split(", ")).filter(|text| !text.is_empty());
            numbers.map(|text| text.parse::<TokenId>().unwrap()).collect::<Vec<_>>()
        };
        let is_hidden = |token: &TokenId| *token >= 1 << 31 || [0, STOP, 8, 9].contains(token);
        let hidden = drawn(TokenRecord::Hashes);
        assert!(hidden.len() > 50 && hidden.iter().all(is_hidden), "{hidden:?}");
        assert!(!drawn(TokenRecord::Ids).iter().all(is_hidden));
    }
}

#[test]
fn a_planted_divergence_after_the_state_is_shown() {
    let bytes = load(5, TokenRecord::Ids).run().ring.snapshot();
    let mut journal = Journal::read(&bytes).unwrap();
    assert_eq!(replay(&journal, false).unwrap().divergence, None);
    let drawn = journal.records.iter_mut().find_map(|record| match record {
        Record::Commit { outcome, .. } => outcome.sampled.first_mut(),
        _ => None,
    });
    drawn.unwrap().token = STOP;
    let Divergence { record, .. } = replay(&journal, false).unwrap().divergence.unwrap();
    assert!(record > 0);
}

#[test]
fn a_state_that_cannot_be_used_is_refused_with_the_reason() {
    let bytes = load(3, TokenRecord::Hashes).run().ring.snapshot();
    let journal = Journal::read(&bytes).unwrap();
    let setup = &journal.setup;
    let state = journal.state.clone().unwrap();
    let begin = opening(setup).len();
    let with = |state: &[u8]| {
        let journal = [&bytes[..begin], &framed(state)].concat();
        replay(&Journal::read(&journal).unwrap(), false).unwrap_err().to_string()
    };
    let mut encoded = Output::default();
    state.encode(&mut encoded);
    let mut other = encoded.0.clone();
    other[1] = 99;
    let known = crate::state::VERSION;
    assert_eq!(
        with(&other),
        format!(
            "the journal begins with a scheduler's state in version 99; this program reads version {known}"
        )
    );
    let read = Journal::read(&[&bytes[..begin], &framed(&other)].concat()).unwrap();
    assert!(show::listing(&read).contains("in version 99"));
    let nonsense = "the scheduler's state at the journal's beginning makes no sense: ";
    assert!(with(&encoded.0[..encoded.0.len() / 2]).starts_with(nonsense));
    assert!(with(&[&encoded.0[..], b"more"].concat()).ends_with("it goes on behind its end"));
    // Of another scheduler, that has everything another number of times.
    let mut altered = journal;
    altered.setup.settings.running_max = 3;
    let error = replay(&altered, false).unwrap_err().to_string();
    assert!(error.ends_with("it is of other settings"), "{error}");
    // Damage is found before the state is looked at.
    let mut spoilt = bytes.clone();
    spoilt[begin + 100] ^= 1;
    let read = Journal::read(&spoilt).unwrap();
    assert!(read.state.is_none() && read.records.is_empty());
    assert!(matches!(read.damage, Some(Damage::Corrupt { offset, .. }) if offset == begin));
}

#[test]
fn a_state_is_shown_with_who_was_there() {
    let journal = Journal::read(&load(0, TokenRecord::Hashes).run().ring.snapshot()).unwrap();
    let replay = replay(&journal, true).unwrap();
    let text = show::text(&replay, None);
    assert!(text.starts_with("the journal begins in the middle, at "), "{text}");
    let begins = replay.begins.unwrap();
    assert!(replay.steps.iter().all(|step| step.planned >= begins));
    for life in replay.requests.values() {
        let is_in_order =
            if life.came_before { life.arrived <= begins } else { life.arrived >= begins };
        assert!(is_in_order, "{life:?}");
        assert!(life.spans[0].from >= begins && life.first_token.is_none_or(|at| at >= begins));
    }
    let picture = show::timeline(&replay, None);
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
}

#[test]
fn a_ring_whose_follower_breaks_down_says_that_its_beginning_is_lost() {
    let load = Load { rounds: 0, ..load(0, TokenRecord::Ids) };
    let mut recorder = Recorder::new(&load.info(), &load.settings(), TokenRecord::Ids);
    recorder.keep_in_memory(1000).unwrap();
    let ring = recorder.memory().unwrap();
    let scheduler = Scheduler::new(&load.info(), load.settings()).unwrap();
    let mut scheduler = RecordedScheduler::new(scheduler, &load.info(), Some(recorder));
    let abort = |scheduler: &mut RecordedScheduler, ids: std::ops::Range<u64>| {
        ids.for_each(|id| assert!(!scheduler.abort(RequestId(id), Duration::ZERO)));
    };
    abort(&mut scheduler, 0..500);
    let journal = Journal::read(&ring.snapshot()).unwrap();
    assert_eq!(replay(&journal, false).unwrap().divergence, None);
    assert!(journal.state.is_some() && journal.records.len() < 200);
    ring.poison();
    abort(&mut scheduler, 500..1000);
    let journal = Journal::read(&ring.snapshot()).unwrap();
    let listing = show::listing(&journal);
    assert!(listing.contains("the beginning is lost: what follows it broke down"), "{listing}");
    assert!(listing.contains("r999 was given up, and had ended"), "{listing}");
    let error = replay(&journal, false).unwrap_err();
    assert!(matches!(error, Error::BeginningLost { records, .. } if records < 200), "{error}");
    abort(&mut scheduler, 1000..100_000);
    let bytes = ring.snapshot();
    assert!(bytes.len() < 1500, "it still drops what is too much: {}", bytes.len());
}

#[test]
fn a_ring_whose_follower_decides_otherwise_says_so() {
    let writer = RingWriter::start(&load(0, TokenRecord::Ids).setup(), 100).unwrap();
    let push = |record: Record| {
        let mut encoded = Output::default();
        record.encode(&mut encoded);
        writer.push(&framed(&encoded.0));
    };
    let now = Duration::ZERO;
    (0..50).for_each(|_| push(Record::Plan { now, mark: None }));
    assert!(Journal::read(&writer.ring().snapshot()).unwrap().state.is_some());
    push(Record::Plan { now, mark: Some(PlanMark { digest: 0xabc, items: 2, positions: 3 }) });
    (0..50).for_each(|_| push(Record::Plan { now, mark: None }));
    let journal = Journal::read(&writer.ring().snapshot()).unwrap();
    let error = replay(&journal, false).unwrap_err().to_string();
    let why =
        "recorded was a plan of 2 items, 3 positions, digest 00000abc and decided again no plan";
    assert!(error.contains(why), "{error}");
}

#[test]
fn a_ring_whose_follower_hangs_does_not_grow_for_ever() {
    let load = load(0, TokenRecord::Ids);
    let mut recorder = Recorder::new(&load.info(), &load.settings(), TokenRecord::Ids);
    recorder.keep_in_memory(1000).unwrap();
    let ring = recorder.memory().unwrap();
    let scheduler = Scheduler::new(&load.info(), load.settings()).unwrap();
    let mut scheduler = RecordedScheduler::new(scheduler, &load.info(), Some(recorder));
    let mut largest = 0;
    ring.while_nothing_follows(|bytes| {
        // Refused, and yet recorded.
        for id in 0..1000 {
            let prompt = vec![VOCAB_SIZE; 10_000];
            let (sampling, service) = (SamplingParams::default(), Service::default());
            let request = Request { id: RequestId(id), prompt, sampling, tokens_max: 1, service };
            scheduler.submit(request, Duration::ZERO).unwrap_err();
            largest = largest.max(bytes());
        }
    });
    assert!((16 << 20..17 << 20).contains(&largest), "{largest} bytes");
    let journal = Journal::read(&ring.snapshot()).unwrap();
    let why = "what follows it did not keep up".to_owned();
    assert_eq!(journal.records[0], Record::BeginningLost { why });
    assert!(journal.records.len() <= 2);
}
