//! Random traffic through a whole engine, whatever its readers do, until it is drained.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    task::{Context, Poll, Waker},
};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{RngSeed, TestRunner},
};
use types::CacheGroup;

use super::*;

/// A run that takes longer stands still: an engine waits for a reader, or a drain does not end.
const STANDSTILL: Duration = Duration::from_secs(30);

/// What those are told that were computed alone when the executor was lost again, and all when none comes back.
const LOST_TWICE: &str = "the model failed twice while it computed this request";
const LOST_FOR_GOOD: &str = "the engine has failed: its executor was lost and did not come back";

/// One thing that happens.
#[derive(Clone, Debug)]
enum Action {
    /// A request comes.
    Submit { seed: u64, prompt_len: usize, tokens_max: u32 },
    /// So many more steps may end.
    Steps(usize),
    /// A reader takes at most so many of the events that are there.
    Read(Index, usize),
    /// A reader goes away.
    Leave(Index),
}

/// An engine with its limits, and what happens to it.
#[derive(Clone, Debug)]
struct Script {
    steps_in_flight_max: u32,
    blocks: u32,
    running_max: u32,
    waiting_max: u32,
    /// Steps that panic, and steps that end in a fault: the executor is lost with them.
    panicking_steps: Vec<u64>,
    faulty_steps: Vec<u64>,
    /// Times at which none can be built, and how many failures in a row make the engine give up.
    failing_builds: Vec<u64>,
    executor_failures_max: u32,
    actions: Vec<Action>,
}

fn action() -> impl Strategy<Value = Action> {
    let submit = (any::<u64>(), 1..90_usize, 1..60_u32)
        .prop_map(|(seed, prompt_len, tokens_max)| Action::Submit { seed, prompt_len, tokens_max });
    let read = (any::<Index>(), 1..20_usize).prop_map(|(reader, most)| Action::Read(reader, most));
    prop_oneof![
        4 => submit,
        4 => (1..12_usize).prop_map(Action::Steps),
        3 => read,
        1 => any::<Index>().prop_map(Action::Leave),
    ]
}

prop_compose! {
    fn script()(
        steps_in_flight_max in 1..3_u32,
        // The longest request takes ten.
        blocks in 12..64_u32,
        running_max in 1..8_u32,
        waiting_max in 1..24_u32,
        panicking_steps in prop::collection::vec(0..60_u64, 0..4),
        faulty_steps in prop::collection::vec(0..60_u64, 0..4),
        failing_builds in prop::collection::vec(1..8_u64, 0..5),
        executor_failures_max in 1..5_u32,
        actions in prop::collection::vec(action(), 1..80),
    ) -> Script {
        Script {
            steps_in_flight_max,
            blocks,
            running_max,
            waiting_max,
            panicking_steps,
            faulty_steps,
            failing_builds,
            executor_failures_max,
            actions,
        }
    }
}

/// What came of the losses of executors in a run.
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    /// Executors built after others were lost.
    rebuilds: u64,
    /// Whole answers that were taken after a loss.
    answers_after: u64,
    /// Requests that ended because executors were lost.
    failed: u64,
    /// The engine gave up.
    gave_up: bool,
}

/// A request and what its reader has taken so far.
struct Reader {
    expected: Vec<TokenId>,
    generation: Generation,
    tokens: Vec<TokenId>,
    has_ended: bool,
    has_failed: bool,
}

impl Reader {
    fn take(&mut self, event: RequestEvent) {
        assert!(!self.has_ended, "{event:?} comes after the end");
        match event {
            RequestEvent::Prefilled { .. } => assert_eq!(self.tokens, [] as [TokenId; 0]),
            RequestEvent::Token { token, .. } => {
                self.tokens.push(token);
                assert!(self.expected.starts_with(&self.tokens), "these are another's tokens");
            }
            RequestEvent::Finished { usage, .. } => {
                assert_eq!(usage.generated_tokens as usize, self.tokens.len());
                assert_eq!(self.tokens, self.expected);
                self.has_ended = true;
            }
            RequestEvent::Failed(fault) => {
                let what = fault.message.as_str();
                assert!(what == LOST_TWICE || what == LOST_FOR_GOOD, "{fault}");
                (self.has_ended, self.has_failed) = (true, true);
            }
            other => panic!("{other:?}"),
        }
    }

    fn take_at_most(&mut self, most: usize) {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..most {
            match self.generation.poll_next(&mut context) {
                Poll::Ready(Some(event)) => self.take(event),
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }

    /// Says whether it failed.
    fn take_all(mut self) -> bool {
        while let Some(event) = self.generation.next_blocking() {
            self.take(event);
        }
        assert!(self.has_ended, "the stream says how it ends");
        self.has_failed
    }
}

/// The engine does what the script says and is drained; then everything is as it was before, and who did not read
/// until now finds all that is his.
fn run(script: &Script) -> Losses {
    let (gate, permits) = StepGate::closed();
    let mut fake = FakeSettings { gate: Some(gate), ..fake() };
    fake.info.steps_in_flight_max = script.steps_in_flight_max;
    fake.info.cache_groups = vec![CacheGroup::new(script.blocks, 16)];
    fake.panicking_steps = script.panicking_steps.clone();
    fake.faulty_steps = script.faulty_steps.clone();
    fake.failing_builds = script.failing_builds.clone();
    let settings = EngineSettings {
        scheduler: SchedulerSettings {
            running_max: script.running_max,
            waiting_max: script.waiting_max,
            ..SchedulerSettings::default()
        },
        executor_failures_max: script.executor_failures_max,
        ..settings()
    };
    let (engine, handle) =
        Engine::start(fake.factory(), settings, EngineMetrics::unregistered()).unwrap();
    // Dropped before the engine, which would wait at the gate if a check failed.
    let permits = permits;
    let mut readers: Vec<Reader> = Vec::new();
    for action in &script.actions {
        match action {
            Action::Submit { seed, prompt_len, tokens_max } => {
                let new = request(seed % 100, *prompt_len, *tokens_max);
                let expected = expected(&new);
                match handle.submit(new) {
                    Ok(generation) => {
                        readers.push(Reader {
                            expected,
                            generation,
                            tokens: Vec::new(),
                            has_ended: false,
                            has_failed: false,
                        });
                    }
                    Err(fault) if fault.kind == FaultKind::Overloaded => {}
                    Err(fault) => {
                        let refused = (fault.kind, handle.state());
                        assert_eq!(refused, (FaultKind::Unavailable, EngineState::Failed));
                    }
                }
            }
            Action::Steps(count) => permits.let_through(*count),
            Action::Read(reader, most) if !readers.is_empty() => {
                reader.get_mut(&mut readers).take_at_most(*most);
            }
            Action::Leave(reader) if !readers.is_empty() => {
                drop(readers.swap_remove(reader.index(readers.len())));
            }
            Action::Read(..) | Action::Leave(_) => {}
        }
    }
    handle.drain();
    assert_eq!(handle.submit(request(1, 1, 1)).unwrap_err().kind, FaultKind::Unavailable);
    drop(permits);
    // Nobody reads, and still all come to their end.
    let drained = loop {
        let stats = handle.stats();
        if (stats.running, stats.waiting) == (0, 0) {
            break stats;
        }
        thread::yield_now();
    };
    let gave_up = drained.state == EngineState::Failed;
    assert!(gave_up || drained.state == EngineState::Draining, "{:?}", drained.state);
    let unread = readers.split_off(readers.len() / 2);
    let mut failed: Vec<bool> = readers.into_iter().map(Reader::take_all).collect();
    engine.shutdown();
    assert_eq!(handle.stats().kv_blocks_used, 0, "blocks are lost");
    // What a reader has not taken outlives the engine.
    failed.extend(unread.into_iter().map(Reader::take_all));
    let rebuilds = drained.executor_rebuilds;
    let count = |failed: Vec<bool>, wanted| failed.iter().filter(|f| **f == wanted).count() as u64;
    let answers_after = if rebuilds > 0 && !gave_up { count(failed.clone(), false) } else { 0 };
    Losses { rebuilds, answers_after, failed: count(failed, true), gave_up }
}

/// Runs a script in a thread of its own, so that a standstill is a failure.
fn run_watched(script: Script) -> Losses {
    let (ended, end) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        // Dropped at the end, however it ends.
        let _ended = ended;
        run(&script)
    });
    if end.recv_timeout(STANDSTILL) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the engine stands still");
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[test]
fn slow_readers_and_lost_executors_hold_up_nobody_and_a_drain_ends_with_nothing_lost() {
    let config = ProptestConfig {
        cases: 200,
        // A standstill is found by waiting for it, so it is not made smaller many times.
        max_shrink_time: 60_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    };
    let total = Mutex::new([0; 4]);
    let result = TestRunner::new(config).run(&script(), |script| {
        let Losses { rebuilds, answers_after, failed, gave_up } = run_watched(script);
        let counts = [rebuilds, answers_after, failed, u64::from(gave_up)];
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    // Each of these came about often enough to be tested.
    let total = total.into_inner().unwrap();
    assert!(total.into_iter().all(|count| count >= 20), "{total:?}");
}
