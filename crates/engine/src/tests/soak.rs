//! Random traffic through a whole engine, whatever its readers do, until it is drained.

use std::{
    sync::mpsc,
    task::{Context, Poll, Waker},
};

use proptest::{prelude::*, sample::Index, test_runner::RngSeed};
use types::CacheGroup;

use super::*;

/// A run that takes longer stands still: an engine waits for a reader, or a drain does not end.
const STANDSTILL: Duration = Duration::from_secs(30);

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
    /// The step that panics.
    lost_step: u64,
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
        lost_step in 0..60_u64,
        actions in prop::collection::vec(action(), 1..80),
    ) -> Script {
        Script { steps_in_flight_max, blocks, running_max, waiting_max, lost_step, actions }
    }
}

/// A request and what its reader has taken so far.
struct Reader {
    expected: Vec<TokenId>,
    generation: Generation,
    tokens: Vec<TokenId>,
    has_ended: bool,
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

    fn take_all(mut self) {
        while let Some(event) = self.generation.next_blocking() {
            self.take(event);
        }
        assert!(self.has_ended, "the stream says how it ends");
    }
}

/// The engine does what the script says and is drained; then everything is as it was before, and who did not read
/// until now finds all that is his.
fn run(script: &Script) {
    let (gate, permits) = StepGate::closed();
    let mut fake = FakeSettings { gate: Some(gate), ..fake() };
    fake.info.steps_in_flight_max = script.steps_in_flight_max;
    fake.info.cache_groups = vec![CacheGroup::new(script.blocks, 16)];
    fake.panicking_steps = vec![script.lost_step];
    let settings = EngineSettings {
        scheduler: SchedulerSettings {
            running_max: script.running_max,
            waiting_max: script.waiting_max,
            ..SchedulerSettings::default()
        },
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
                        let (tokens, has_ended) = (Vec::new(), false);
                        readers.push(Reader { expected, generation, tokens, has_ended });
                    }
                    Err(fault) => assert_eq!(fault.kind, FaultKind::Overloaded, "{fault}"),
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
    let fault = handle.submit(request(1, 1, 1)).unwrap_err();
    assert_eq!((fault.kind, handle.state()), (FaultKind::Unavailable, EngineState::Draining));
    drop(permits);
    // Nobody reads, and still all come to their end.
    let drained = loop {
        let stats = handle.stats();
        if (stats.running, stats.waiting) == (0, 0) {
            break stats;
        }
        thread::yield_now();
    };
    assert_eq!(drained.state, EngineState::Draining);
    let unread = readers.split_off(readers.len() / 2);
    readers.into_iter().for_each(Reader::take_all);
    engine.shutdown();
    assert_eq!(handle.stats().kv_blocks_used, 0, "blocks are lost");
    // What a reader has not taken outlives the engine.
    unread.into_iter().for_each(Reader::take_all);
}

/// Runs a script in a thread of its own, so that a standstill is a failure.
fn run_watched(script: Script) {
    let (ended, end) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        // Dropped at the end, however it ends.
        let _ended = ended;
        run(&script);
    });
    if end.recv_timeout(STANDSTILL) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the engine stands still");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        // A standstill is found by waiting for it, so it is not made smaller many times.
        max_shrink_time: 60_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn slow_readers_hold_up_nobody_and_a_drain_ends_with_nothing_lost(script in script()) {
        run_watched(script);
    }
}
