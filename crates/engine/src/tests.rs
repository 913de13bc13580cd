//! The engine with a fake executor. A gate decides when a step ends, so nothing depends on time.

mod recording;
mod soak;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use telemetry::{Ending, EngineMetrics, Metrics};
use types::{
    Executor, ExecutorInfo, Fault, FaultKind, FinishReason, MemoryReport, RequestEvent,
    SampledToken, SamplingParams, Service, StepOutcome, StepPlan, TokenId,
};

use crate::{
    Engine, EngineHandle, EngineSettings, EngineState, Generation, NewRequest, Phase,
    RequestReport, SchedulerSettings,
    testing::{FakeExecutor, FakeSettings, StepGate, expected_output},
};

const VOCAB_SIZE: u32 = 1000;
const SPECIAL: TokenId = 999;

fn settings() -> EngineSettings {
    EngineSettings { rebuild_pause: Duration::ZERO, ..EngineSettings::default() }
}

fn start(fake: FakeSettings) -> (Engine, EngineHandle) {
    Engine::start(fake.factory(), settings(), EngineMetrics::unregistered()).unwrap()
}

fn fake() -> FakeSettings {
    FakeSettings::new(VOCAB_SIZE)
}

/// An executor that takes one step at a time, and one that takes two.
fn fakes() -> [FakeSettings; 2] {
    [1, 2].map(|steps_in_flight_max| {
        let mut fake = fake();
        fake.info.steps_in_flight_max = steps_in_flight_max;
        fake
    })
}

fn request(seed: u64, prompt_len: usize, tokens_max: u32) -> NewRequest {
    let prompt = (0..prompt_len as u64).map(|at| ((seed * 13 + at * 5) % 900) as TokenId).collect();
    let sampling = SamplingParams { seed, ..SamplingParams::default() };
    let (service, label) = (Service::default(), seed.to_string().into());
    NewRequest { prompt, sampling, tokens_max, service, label }
}

fn expected(request: &NewRequest) -> Vec<TokenId> {
    expected_output(&request.prompt, &request.sampling, request.tokens_max, VOCAB_SIZE).0
}

fn token(generation: &mut Generation) -> TokenId {
    loop {
        match generation.next_blocking() {
            Some(RequestEvent::Prefilled { .. }) => {}
            Some(RequestEvent::Token { token, .. }) => return token,
            other => panic!("not a token: {other:?}"),
        }
    }
}

/// Reads a stream to its end: the tokens, and a fault if it ended in one.
fn read(mut generation: Generation) -> (Vec<TokenId>, Option<Fault>) {
    let mut tokens = Vec::new();
    loop {
        match generation.next_blocking().expect("a stream says how it ends") {
            RequestEvent::Prefilled { .. } | RequestEvent::PromptLogprobs(_) => {}
            RequestEvent::Token { token, .. } => tokens.push(token),
            RequestEvent::Finished { usage, .. } => {
                assert_eq!(usage.generated_tokens as usize, tokens.len());
                assert_eq!(generation.next_blocking(), None);
                return (tokens, None);
            }
            RequestEvent::Failed(fault) => {
                assert_eq!(generation.next_blocking(), None);
                return (tokens, Some(fault));
            }
        }
    }
}

#[test]
fn many_requests_from_many_threads_each_get_their_own_tokens() {
    for fake in fakes() {
        let (engine, handle) = start(fake);
        let clients: Vec<_> = (0..8u64)
            .map(|client| {
                let handle = handle.clone();
                thread::spawn(move || {
                    for index in 0..8 {
                        let seed = client * 100 + index;
                        let new =
                            request(seed, 1 + (seed as usize * 7) % 120, 1 + seed as u32 % 40);
                        let generation = handle.submit(new.clone()).unwrap();
                        assert_eq!(read(generation), (expected(&new), None));
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        let stats = handle.stats();
        assert_eq!((stats.running, stats.waiting, stats.kv_blocks_used), (0, 0, 0));
        assert_eq!(stats.kv_blocks_total, 64);
        engine.shutdown();
    }
}

#[test]
fn a_stream_can_be_read_asynchronously() {
    let (_engine, handle) = start(fake());
    let new = request(3, 10, 5);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let tokens = runtime.block_on(async {
        let mut generation = handle.submit(new.clone()).unwrap();
        let mut tokens = Vec::new();
        while let Some(event) = generation.next().await {
            match event {
                RequestEvent::Prefilled { .. } => {}
                RequestEvent::Token { token, .. } => tokens.push(token),
                RequestEvent::Finished { reason, .. } => assert_eq!(reason, FinishReason::Length),
                other => panic!("{other:?}"),
            }
        }
        tokens
    });
    assert_eq!(tokens, expected(&new));
}

#[test]
fn dropping_a_generation_ends_its_request() {
    for fake in fakes() {
        let (gate, permits) = StepGate::closed();
        let (_engine, handle) = start(FakeSettings { gate: Some(gate), ..fake });
        let mut long = handle.submit(request(1, 10, 400)).unwrap();
        permits.let_through(1);
        token(&mut long);
        assert_eq!(handle.stats().running, 1);
        drop(long);
        let new = request(2, 10, 2);
        let short = handle.submit(new.clone()).unwrap();
        drop(permits);
        assert_eq!(read(short), (expected(&new), None));
        let stats = handle.stats();
        assert_eq!((stats.running, stats.kv_blocks_used), (0, 0), "only the short one finished");
        assert!(stats.generated_tokens < 10, "{stats:?}");
    }
}

#[test]
fn the_next_step_is_submitted_before_the_last_has_ended() {
    let (gate, permits) = StepGate::closed();
    let [_, fake] = fakes();
    let (_engine, handle) = start(FakeSettings { gate: Some(gate), ..fake });
    let mut generation = handle.submit(request(1, 10, 3)).unwrap();
    permits.let_through(1);
    token(&mut generation);
    // The token is out before the step behind it has ended.
    while handle.stats().steps < 3 {
        thread::yield_now();
    }
    assert_eq!(handle.stats().generated_tokens, 1);
    drop(permits);
    assert_eq!(read(handle.submit(request(2, 4, 4)).unwrap()), (expected(&request(2, 4, 4)), None));
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody() {
    let (_engine, handle) = start(fake());
    let (lazy, eager) = (request(1, 10, 300), request(2, 10, 300));
    let unread = handle.submit(lazy.clone()).unwrap();
    assert_eq!(read(handle.submit(eager.clone()).unwrap()).0, expected(&eager));
    assert_eq!(read(unread), (expected(&lazy), None));
}

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let (gate, permits) = StepGate::closed();
    let settings = EngineSettings {
        scheduler: SchedulerSettings {
            running_max: 1,
            waiting_max: 2,
            ..SchedulerSettings::default()
        },
        ..settings()
    };
    let metrics = Metrics::new();
    let fake = FakeSettings { gate: Some(gate), ..fake() };
    let (_engine, handle) = Engine::start(fake.factory(), settings, metrics.engine("m")).unwrap();
    // Waits are predicted once some steps have been measured.
    let mut first = handle.submit(request(0, 4, 20)).unwrap();
    permits.let_through(10);
    for _ in 0..10 {
        token(&mut first);
    }
    let waiting: Vec<_> = (1..3).map(|seed| handle.submit(request(seed, 4, 3)).unwrap()).collect();
    let fault = handle.submit(request(3, 4, 3)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Overloaded);
    assert!(
        fault.retry_after_ms.is_some() && fault.message.contains("2 requests wait"),
        "{fault:?}"
    );
    assert_eq!((handle.stats().waiting, handle.stats().running), (2, 1));
    assert!(metrics.encode().contains("reason=\"overloaded\"} 1"));
    // One that cannot be served in time is refused, and told how long it takes.
    let mut hurried = request(4, 4, 3);
    hurried.service.due = Some(Duration::from_nanos(1));
    let fault = handle.submit(hurried).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Overloaded);
    assert!(
        fault.message.contains("is due in 0 ms") && fault.retry_after_ms.is_some(),
        "{fault:?}"
    );
    drop(permits);
    for generation in waiting {
        assert_eq!(read(generation).1, None);
    }
    let again = request(3, 4, 3);
    assert_eq!(read(handle.submit(again.clone()).unwrap()).0, expected(&again));
}

#[test]
fn a_request_that_can_never_fit_is_refused_with_both_numbers() {
    let (_engine, handle) = start(fake());
    let fault = handle.submit(request(1, 512, 1)).unwrap_err();
    assert_eq!((fault.kind, fault.field.as_deref()), (FaultKind::Invalid, Some("prompt")));
    assert!(fault.message.contains("512 tokens"), "{fault}");
    let fault = handle.submit(request(1, 0, 1)).unwrap_err();
    assert_eq!(fault.message, "the prompt is empty");
    let unknown = NewRequest { prompt: vec![1, VOCAB_SIZE], ..request(1, 1, 1) };
    assert_eq!(
        handle.submit(unknown).unwrap_err().message,
        "prompt has token 1000, but the vocabulary ends at 1000"
    );
    assert_eq!(handle.stats().waiting, 0);
    let clipped = request(1, 500, 100);
    let fits = NewRequest { tokens_max: 12, ..clipped.clone() };
    assert_eq!(read(handle.submit(clipped).unwrap()), (expected(&fits), None));
}

#[test]
fn streams_go_on_when_the_executor_is_lost() {
    // After each loss the six are cleared alone: in six steps, or in twelve where two steps were lost. In those
    // nothing may happen.
    let lost = [(vec![3, 12], vec![25]), (vec![3, 20], vec![40])];
    for (fake, (panicking_steps, faulty_steps)) in fakes().into_iter().zip(lost) {
        let (gate, permits) = StepGate::closed();
        let (_engine, handle) =
            start(FakeSettings { panicking_steps, faulty_steps, gate: Some(gate), ..fake });
        let requests: Vec<_> = (0..6).map(|seed| request(seed, 30, 25)).collect();
        let generations: Vec<_> =
            requests.iter().map(|new| handle.submit(new.clone()).unwrap()).collect();
        drop(permits);
        for (generation, new) in generations.into_iter().zip(&requests) {
            assert_eq!(read(generation), (expected(new), None));
        }
        let stats = handle.stats();
        assert_eq!((stats.executor_rebuilds, stats.state), (3, EngineState::Running));
    }
}

#[test]
fn a_poisonous_request_ends_alone() {
    for fake in fakes() {
        let (panicking_token, failing_token) = (Some(SPECIAL), Some(998));
        let (_engine, handle) = start(FakeSettings { panicking_token, failing_token, ..fake });
        let good: Vec<_> = (0..4).map(|seed| request(seed, 30, 60)).collect();
        let generations: Vec<_> =
            good.iter().map(|new| handle.submit(new.clone()).unwrap()).collect();
        let poison = NewRequest { prompt: vec![1, SPECIAL], ..request(9, 1, 5) };
        let (tokens, fault) = read(handle.submit(poison).unwrap());
        assert_eq!((tokens.len(), fault.unwrap().kind), (0, FaultKind::Internal));
        let failing = NewRequest { prompt: vec![1, 998], ..request(9, 1, 5) };
        assert_eq!(read(handle.submit(failing).unwrap()).1.unwrap().message, "the failing token");
        for (generation, new) in generations.into_iter().zip(&good) {
            assert_eq!(read(generation), (expected(new), None));
        }
        assert_eq!(handle.stats().executor_rebuilds, 2);
    }
}

#[test]
fn an_executor_that_keeps_failing_makes_the_engine_give_up() {
    let built = Arc::new(AtomicU32::new(0));
    let counter = built.clone();
    let factory = move || -> Result<Box<dyn Executor>, Fault> {
        if counter.fetch_add(1, Ordering::Relaxed) == 0 {
            return Ok(Box::new(FakeExecutor::new(FakeSettings {
                faulty_steps: vec![2],
                ..fake()
            })));
        }
        Err(Fault::new(FaultKind::Unavailable, "no device"))
    };
    let settings = EngineSettings { executor_failures_max: 3, ..settings() };
    let (engine, handle) = Engine::start(factory, settings, EngineMetrics::unregistered()).unwrap();
    let new = request(1, 10, 20);
    let (tokens, fault) = read(handle.submit(new.clone()).unwrap());
    assert_eq!(
        (tokens, fault.unwrap().kind),
        (expected(&new)[..2].to_vec(), FaultKind::Unavailable)
    );
    assert_eq!(built.load(Ordering::Relaxed), 4, "once, and three times again");
    assert_eq!(handle.state(), EngineState::Failed);
    assert_eq!(handle.submit(new).unwrap_err().kind, FaultKind::Unavailable);
    engine.shutdown();
}

#[test]
fn an_executor_that_comes_back_with_other_limits_is_not_used() {
    let mut vocab_size = VOCAB_SIZE;
    let factory = move || -> Result<Box<dyn Executor>, Fault> {
        let fake = FakeSettings { faulty_steps: vec![0], ..FakeSettings::new(vocab_size) };
        vocab_size += 1;
        Ok(Box::new(FakeExecutor::new(fake)))
    };
    let (_engine, handle) =
        Engine::start(factory, settings(), EngineMetrics::unregistered()).unwrap();
    let fault = read(handle.submit(request(1, 10, 20)).unwrap()).1.unwrap();
    assert_eq!((fault.kind, handle.state()), (FaultKind::Unavailable, EngineState::Failed));
}

/// Answers with tokens that nobody asked for.
struct Liar(FakeExecutor);

impl Executor for Liar {
    fn info(&self) -> &ExecutorInfo {
        self.0.info()
    }

    fn submit(&mut self, plan: StepPlan) -> Result<(), Fault> {
        self.0.submit(plan)
    }

    fn wait(&mut self) -> Result<StepOutcome, Fault> {
        let mut outcome = self.0.wait()?;
        outcome.sampled.push(SampledToken { slot: types::SlotId(7), token: 1, logprobs: None });
        Ok(outcome)
    }

    fn memory(&self) -> MemoryReport {
        self.0.memory()
    }
}

#[test]
fn an_executor_that_breaks_the_contract_is_replaced() {
    for fake in fakes() {
        let mut first = true;
        let factory = move || -> Result<Box<dyn Executor>, Fault> {
            let honest = FakeExecutor::new(fake.clone());
            Ok(if std::mem::take(&mut first) { Box::new(Liar(honest)) } else { Box::new(honest) })
        };
        let (_engine, handle) =
            Engine::start(factory, settings(), EngineMetrics::unregistered()).unwrap();
        let new = request(1, 10, 20);
        assert_eq!(read(handle.submit(new.clone()).unwrap()), (expected(&new), None));
        assert_eq!(handle.stats().executor_rebuilds, 1);
    }
}

#[test]
fn draining_refuses_new_requests_and_finishes_old_ones() {
    for fake in fakes() {
        let (gate, permits) = StepGate::closed();
        let (_engine, handle) = start(FakeSettings { gate: Some(gate), ..fake });
        let new = request(1, 10, 20);
        let generation = handle.submit(new.clone()).unwrap();
        handle.drain();
        let fault = handle.submit(request(2, 1, 1)).unwrap_err();
        assert_eq!((fault.kind, handle.state()), (FaultKind::Unavailable, EngineState::Draining));
        drop(permits);
        assert_eq!(read(generation), (expected(&new), None));
    }
}

#[test]
fn the_end_of_all_reaches_the_running_and_the_waiting() {
    for fake in fakes() {
        let (gate, permits) = StepGate::closed();
        let (_engine, handle) = start(FakeSettings { gate: Some(gate), ..fake });
        let generations: Vec<_> =
            (0..12).map(|seed| handle.submit(request(seed, 10, 400)).unwrap()).collect();
        let fault = Fault::new(FaultKind::Deadline, "the drain took too long");
        handle.end_all(fault.clone());
        drop(permits);
        for generation in generations {
            assert_eq!(read(generation).1, Some(fault.clone()));
        }
        assert_eq!((handle.stats().running, handle.stats().waiting), (0, 0));
    }
}

#[test]
fn shutdown_ends_every_stream() {
    for fake in fakes() {
        let (gate, permits) = StepGate::closed();
        let (engine, handle) = start(FakeSettings { gate: Some(gate), ..fake });
        let generations: Vec<_> =
            (0..12).map(|seed| handle.submit(request(seed, 10, 400)).unwrap()).collect();
        let stopping = thread::spawn(|| engine.shutdown());
        while handle.state() != EngineState::Stopped {
            thread::yield_now();
        }
        drop(permits);
        stopping.join().unwrap();
        for generation in generations {
            assert_eq!(read(generation).1.unwrap().kind, FaultKind::Unavailable);
        }
        assert_eq!(handle.state(), EngineState::Stopped);
        assert_eq!(handle.submit(request(1, 1, 1)).unwrap_err().message, "the engine has stopped");
    }
}

#[test]
fn an_engine_that_cannot_start_says_why() {
    let metrics = EngineMetrics::unregistered;
    let fails = || Err(Fault::new(FaultKind::NotFound, "no such model"));
    let fault = Engine::start(fails, settings(), metrics()).unwrap_err();
    assert_eq!(fault.message, "no such model");
    let panics = || panic!("out of luck");
    let fault = Engine::start(panics, settings(), metrics()).unwrap_err();
    assert_eq!(fault.message, "building the executor panicked: out of luck");
    let none = SchedulerSettings { waiting_max: 0, ..SchedulerSettings::default() };
    let settings = EngineSettings { scheduler: none, ..settings() };
    let fault = Engine::start(fake().factory(), settings, metrics()).unwrap_err();
    assert_eq!(fault.field.as_deref(), Some("waiting_max"));
}

#[test]
fn what_happens_is_counted() {
    let metrics = Metrics::new();
    let (gate, permits) = StepGate::closed();
    let fake = FakeSettings { gate: Some(gate), failing_token: Some(SPECIAL), ..fake() };
    let (engine, handle) = Engine::start(fake.factory(), settings(), metrics.engine("m")).unwrap();
    // The stream that is complete for its reader, and the one whose reader left, must not finish by themselves.
    let mut complete = handle.submit(request(1, 10, 400)).unwrap();
    let abandoned = handle.submit(request(2, 10, 400)).unwrap();
    permits.let_through(2);
    token(&mut complete);
    complete.complete();
    drop(abandoned);
    drop(permits);
    read(handle.submit(request(3, 10, 7)).unwrap());
    read(handle.submit(NewRequest { prompt: vec![SPECIAL], ..request(4, 1, 1) }).unwrap());
    handle.submit(request(5, 0, 1)).unwrap_err();
    engine.shutdown();
    let text = metrics.encode();
    for line in [
        r#"vllm:request_success_total{model_name="m",finished_reason="stop"} 1"#,
        r#"vllm:request_success_total{model_name="m",finished_reason="abort"} 1"#,
        r#"vllm:request_success_total{model_name="m",finished_reason="length"} 1"#,
        r#"vllm:request_success_total{model_name="m",finished_reason="error"} 1"#,
        r#"brigade_requests_rejected_total{model_name="m",reason="invalid"} 1"#,
        r#"vllm:request_generation_tokens_sum{model_name="m"} 7.0"#,
        r#"vllm:e2e_request_latency_seconds_count{model_name="m"} 4"#,
        r#"vllm:num_requests_running{model_name="m"} 0"#,
        r#"vllm:kv_cache_usage_perc{model_name="m"} 0.0"#,
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\nis not in\n{text}");
    }
}

/// What a future gives that another thread brings to its end; after it was begun, `then` is done once.
fn wait_for<T>(future: impl Future<Output = T>, then: impl FnOnce()) -> T {
    let (mut future, mut then) = (pin!(future), Some(then));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::yield_now(),
        }
        if let Some(then) = then.take() {
            then();
        }
    }
}

#[test]
fn a_long_prompt_makes_way_for_somebody_new() {
    let (gate, permits) = StepGate::closed();
    let (engine, handle) = start(FakeSettings { gate: Some(gate), ..fake() });
    let (long, short) = (request(1, 400, 2), request(2, 4, 2));
    let wanted = [expected(&long), expected(&short)];
    let long = handle.submit(long).unwrap();
    // The first step is under way once it is counted.
    while handle.stats().steps == 0 {
        thread::yield_now();
    }
    let mut short = handle.submit(short).unwrap();
    // The step under way, and one for the short prompt.
    permits.let_through(2);
    assert_eq!(token(&mut short), wanted[1][0]);
    assert_eq!(handle.stats().left_out_tokens, 256);
    drop(permits);
    assert_eq!(read(long).0, wanted[0]);
    assert_eq!(handle.stats().left_out_tokens, 256, "nobody else came");
    engine.shutdown();
}

#[test]
fn requests_are_reported_while_they_are_there_and_afterwards() {
    let (gate, permits) = StepGate::closed();
    let one_slot = SchedulerSettings { running_max: 1, ..SchedulerSettings::default() };
    let settings = EngineSettings { scheduler: one_slot, ..settings() };
    let fake = FakeSettings { gate: Some(gate), ..fake() };
    let (engine, handle) =
        Engine::start(fake.factory(), settings, EngineMetrics::unregistered()).unwrap();
    let mut first = handle.submit(request(1, 4, 2)).unwrap();
    let mut second = handle.submit(request(2, 4, 50)).unwrap();
    let third = handle.submit(request(3, 4, 50)).unwrap();
    let mut reports: Vec<_> =
        [&mut first, &mut second].map(|generation| generation.take_report().unwrap()).into();
    assert!(first.take_report().is_none(), "there is one");
    permits.let_through(3);
    token(&mut second);
    let seen = |label: Option<&str>, count_max| {
        // The engine answers when the step under way has ended.
        let answer = handle.reports(label.map(Into::into), count_max);
        let found = wait_for(answer, || permits.let_through(1)).unwrap();
        let each = |report: &Arc<RequestReport>| {
            (report.label.to_string(), report.explanation.phase, report.ending)
        };
        found.reports.iter().map(each).collect::<Vec<_>>()
    };
    let (ended, stopped) = (Phase::Ended, Some(Ending::Stop));
    let finished = ("1".to_owned(), ended, Some(Ending::Length));
    let running = ("2".to_owned(), Phase::Running, None);
    let waiting = ("3".to_owned(), Phase::Waiting, None);
    assert_eq!(seen(None, 9), [running, waiting.clone(), finished.clone()]);
    assert_eq!(seen(None, 1).len(), 1);
    assert_eq!(seen(Some("1"), 9), [finished]);
    assert_eq!(seen(Some("3"), 9), [waiting]);
    assert_eq!(seen(Some("4"), 9), []);
    second.complete();
    drop(third);
    drop(permits);
    let report = wait_for(reports.remove(1).wait(), || {}).unwrap();
    assert_eq!((&*report.label, report.ending), ("2", stopped));
    let report = wait_for(reports.remove(0).wait(), || {}).unwrap();
    let explanation = &report.explanation;
    assert_eq!((&*report.label, explanation.generated_tokens), ("1", 2));
    assert_eq!(explanation.times.total(), explanation.until - explanation.arrived);
    engine.shutdown();
    wait_for(handle.reports(None, 9), || {}).unwrap_err();
}
