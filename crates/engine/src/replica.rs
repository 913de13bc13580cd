//! The step loop of one replica.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::Duration,
};

use journal::RecordedScheduler;
use types::{Fault, FaultKind, RequestEvent, RequestId};

use crate::{
    EngineSettings, EngineState, Reports, RequestReport, command::Command,
    executor_guard::ExecutorGuard, shared::Shared, streams::Streams,
};

/// A flood of commands must not keep the steps of others waiting.
const COMMANDS_PER_STEP_MAX: usize = 1024;

/// What the engine's thread owns.
#[derive(Debug)]
pub(crate) struct Replica {
    scheduler: RecordedScheduler,
    executor: ExecutorGuard,
    streams: Streams,
    shared: Arc<Shared>,
    settings: EngineSettings,
    /// The steps under way, the oldest first.
    under_way: VecDeque<UnderWay>,
    /// When the last step ended.
    last_ended: Duration,
    /// Failures of the executor since the last step that succeeded.
    failures: u32,
    /// New requests in the scheduler's queue as of the last look; each holds a place.
    places_held: u32,
}

/// A step that the executor has and has not answered.
#[derive(Debug)]
struct UnderWay {
    planned: Duration,
    positions: u64,
}

impl Replica {
    pub(crate) fn new(
        scheduler: RecordedScheduler,
        executor: ExecutorGuard,
        shared: Arc<Shared>,
        settings: EngineSettings,
    ) -> Self {
        let streams = Streams::new(shared.metrics.clone());
        let replica = Self {
            scheduler,
            executor,
            streams,
            shared,
            settings,
            under_way: VecDeque::new(),
            last_ended: Duration::ZERO,
            failures: 0,
            places_held: 0,
        };
        replica.publish_numbers();
        replica
    }

    /// Runs until it is told to stop, or nobody is left who could tell it anything.
    pub(crate) fn run(mut self, commands: &mpsc::Receiver<Command>) {
        loop {
            if !self.step() {
                // Nothing to do: wait for a word, without using the processor.
                let Ok(command) = commands.recv() else { return };
                if self.is_told_to_stop(command) {
                    return;
                }
            }
            for command in commands.try_iter().take(COMMANDS_PER_STEP_MAX) {
                if self.is_told_to_stop(command) {
                    return;
                }
            }
        }
    }

    fn is_told_to_stop(&mut self, command: Command) -> bool {
        let now = self.shared.clock.now();
        match command {
            Command::Submit { request, arrived, reader } => {
                let id = request.id;
                self.shared.arrivals.notice();
                self.places_held += 1;
                self.streams.open(id, reader, request.prompt.len(), arrived);
                let outcome = if self.shared.state() == EngineState::Failed {
                    Err(failed())
                } else {
                    self.scheduler.submit(request, arrived).map_err(Fault::from)
                };
                let refused = outcome.err().map(|fault| (id, RequestEvent::Failed(fault)));
                self.publish(refused.into_iter().collect());
            }
            Command::Drop { id, ending } => {
                self.scheduler.abort(id, now);
                self.publish(Vec::new());
                self.streams.close(id, ending, now);
            }
            Command::Report { label, count_max, answer } => {
                let wanted = |report: &Arc<RequestReport>| {
                    label.as_ref().is_none_or(|label| *label == report.label)
                };
                let open = self.scheduler.explain(now);
                let open = open.filter_map(|explanation| self.streams.open_report(explanation));
                let all = open.chain(self.streams.recent().cloned());
                let reports = all.filter(wanted).take(count_max).collect();
                // Whoever asked may have lost patience.
                let _gone = answer.send(Reports { now, reports });
            }
            Command::EndAll(fault) => {
                let events = self.scheduler.end_all(&fault, now);
                self.publish(events);
            }
            Command::Shutdown => {
                let fault = Fault::new(FaultKind::Unavailable, "the engine was shut down");
                let events = self.scheduler.end_all(&fault, now);
                self.publish(events);
                return true;
            }
        }
        false
    }

    /// Gives the executor as many steps as it takes at once, and waits for the oldest. Says whether there was one.
    fn step(&mut self) -> bool {
        let stepped = self.submit_all().and_then(|()| self.finish_oldest());
        stepped.unwrap_or_else(|fault| {
            self.recover(&fault);
            true
        })
    }

    fn submit_all(&mut self) -> Result<(), Fault> {
        loop {
            let planned = self.shared.clock.now();
            let Some(plan) = self.scheduler.plan(planned) else { return Ok(()) };
            self.under_way.push_back(UnderWay { planned, positions: plan.token_count() as u64 });
            // Who starts now leaves a place in the queue, and not only when the step is done.
            self.publish(Vec::new());
            self.executor.submit(plan)?;
        }
    }

    fn finish_oldest(&mut self) -> Result<bool, Fault> {
        let Some(UnderWay { planned, positions }) = self.under_way.pop_front() else {
            return Ok(false);
        };
        let outcome = self.executor.wait()?;
        let now = self.shared.clock.now();
        let events = self.scheduler.commit(outcome, now)?;
        // A step that was submitted while another ran began when that one ended.
        let begun = planned.max(std::mem::replace(&mut self.last_ended, now));
        if positions > 0 {
            self.failures = 0;
            self.shared.metrics.step(now.saturating_sub(begun), positions);
        }
        self.publish(events);
        Ok(true)
    }

    /// A step failed as a whole, and whatever is under way is lost with it. Builds the executor again, or gives up.
    fn recover(&mut self, fault: &Fault) {
        tracing::error!(%fault, "the executor failed; its requests will be computed again");
        self.under_way.clear();
        let blame = Fault::internal("the model failed twice while it computed this request");
        let events = self.scheduler.requeue_all(&blame, self.shared.clock.now());
        for (id, _) in &events {
            tracing::error!(%id, "ended: its step failed twice");
        }
        self.publish(events);
        self.failures += 1;
        while self.failures <= self.settings.executor_failures_max {
            self.shared.metrics.executor_rebuilt();
            self.shared.numbers.executor_rebuilds.fetch_add(1, Ordering::Relaxed);
            match self.executor.build() {
                Ok((info, _)) if info == self.shared.info => return,
                Ok(_) => tracing::error!("the executor came back with other limits"),
                Err(fault) => tracing::error!(%fault, "the executor could not be built"),
            }
            self.failures += 1;
            thread::sleep(self.settings.rebuild_pause);
        }
        self.give_up();
    }

    fn give_up(&mut self) {
        tracing::error!(failures = self.failures, "the executor fails again and again: giving up");
        self.shared.set_state(EngineState::Failed);
        self.executor.discard();
        let now = self.shared.clock.now();
        let events = self.scheduler.end_all(&failed(), now);
        // Nobody is left to be told of the slots.
        self.scheduler.requeue_all(&failed(), now);
        self.publish(events);
    }

    /// Lets the numbers be seen, then the events: who reads an event finds the numbers as they were after it.
    fn publish(&mut self, events: Vec<(RequestId, RequestEvent)>) {
        let held = self.scheduler.waiting_new() as u32;
        let free = std::mem::replace(&mut self.places_held, held) - held;
        let tokens = events.iter().filter(|(_, e)| matches!(e, RequestEvent::Token { .. })).count();
        self.shared.numbers.generated_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        self.publish_numbers();
        let now = self.shared.clock.now();
        if self.shared.forecast().is_old(now) {
            self.shared.set_forecast(self.scheduler.forecast(now));
        }
        // Not before: a request that has just begun would be in neither number, and a drain would take it for ended.
        self.shared.give_back_places(free);
        for explanation in self.scheduler.take_ended() {
            self.streams.explain(explanation);
        }
        self.streams.deliver(events, self.shared.clock.now());
    }

    fn publish_numbers(&self) {
        let Shared { numbers, metrics, .. } = &*self.shared;
        let counters = self.scheduler.counters();
        let (used, total) = self.scheduler.kv_blocks();
        let (running, waiting) = (self.scheduler.running() as u32, self.scheduler.waiting() as u32);
        numbers.set_running_and_again(running, waiting - self.places_held);
        numbers.kv_blocks_used.store(used, Ordering::Relaxed);
        numbers.kv_blocks_total.store(total, Ordering::Relaxed);
        numbers.steps.store(counters.steps, Ordering::Relaxed);
        let before = numbers.left_out_tokens.swap(counters.left_out_tokens, Ordering::Relaxed);
        metrics.left_out(counters.left_out_tokens - before);
        let before = numbers.preemptions.swap(counters.preemptions, Ordering::Relaxed);
        metrics.preempted(counters.preemptions - before);
        let (queried, hits) = (counters.prefix_queried_tokens, counters.prefix_hit_tokens);
        let queried_before = numbers.prefix_queried_tokens.swap(queried, Ordering::Relaxed);
        let hits_before = numbers.prefix_hit_tokens.swap(hits, Ordering::Relaxed);
        metrics.prefixes(queried - queried_before, hits - hits_before);
        let hits_before = numbers.host_hit_tokens.swap(counters.host_hit_tokens, Ordering::Relaxed);
        let copied = [counters.blocks_to_host, counters.blocks_to_device];
        let before = [0, 1]
            .map(|way: usize| numbers.blocks_copied[way].swap(copied[way], Ordering::Relaxed));
        let [to_host, to_device] = [0, 1].map(|way: usize| copied[way] - before[way]);
        metrics.copied(to_host, to_device, counters.host_hit_tokens - hits_before);
        let (used_on_host, total_on_host) = self.scheduler.host_blocks();
        numbers.host_blocks_used.store(used_on_host, Ordering::Relaxed);
        numbers.host_blocks_total.store(total_on_host, Ordering::Relaxed);
        metrics.set_host_blocks(used_on_host, total_on_host);
        let (drafted, accepted) = (counters.drafted_tokens, counters.accepted_tokens);
        let drafted_before = numbers.drafted_tokens.swap(drafted, Ordering::Relaxed);
        let accepted_before = numbers.accepted_tokens.swap(accepted, Ordering::Relaxed);
        metrics.guesses(drafted - drafted_before, accepted - accepted_before);
        metrics.set_requests(running, waiting);
        metrics.set_kv_blocks(used, total);
    }
}

fn failed() -> Fault {
    let message = "the engine has failed: its executor was lost and did not come back";
    Fault::new(FaultKind::Unavailable, message)
}
