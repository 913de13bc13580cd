//! A scheduler that writes down what it is told.

use std::{io, ops::Deref, path::Path, sync::Arc, time::Duration};

use scheduler::{Error, Explanation, Scheduler, Settings};
use types::{
    ExecutorInfo, Fault, Request, RequestEvent, RequestId, SamplingParams, Service, StepOutcome,
    StepPlan,
};

use crate::{
    JournalFile, Ring,
    encoding::{Output, framed},
    hiding::Hider,
    record::{PlanMark, Record},
    ring::RingWriter,
    setup::{Setup, TokenRecord},
};

/// Writes records to where they go: into memory, to a file, or both.
#[derive(Debug)]
pub struct Recorder {
    setup: Setup,
    hider: Option<Hider>,
    ring: Option<RingWriter>,
    file: Option<JournalFile>,
    scratch: Output,
}

impl Recorder {
    /// A recorder for a scheduler that is made of `info` and `settings`.
    pub fn new(info: &ExecutorInfo, settings: &Settings, tokens: TokenRecord) -> Self {
        let guesses = settings.draft_tokens_max > 0 && info.draft_tokens_max > 0;
        let hider = || Hider::new(info.vocab_size, guesses);
        let hider = (tokens == TokenRecord::Hashes).then(hider);
        let tenant_weights = match &hider {
            Some(hider) => {
                let weights = settings.tenant_weights.iter();
                weights.map(|(tenant, weight)| (hider.name(tenant), *weight)).collect()
            }
            None => settings.tenant_weights.clone(),
        };
        let setup = Setup {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tokens,
            info: info.clone(),
            settings: Settings { tenant_weights, ..settings.clone() },
        };
        Self { setup, hider, ring: None, file: None, scratch: Output::default() }
    }

    /// Keeps the newest `bytes_max` bytes in memory, from the start on. An error if there can be no thread for it.
    pub fn keep_in_memory(&mut self, bytes_max: usize) -> io::Result<()> {
        self.ring = Some(RingWriter::start(&self.setup, bytes_max)?);
        Ok(())
    }

    /// What is kept in memory, if anything is.
    pub fn memory(&self) -> Option<Arc<Ring>> {
        self.ring.as_ref().map(|writer| writer.ring().clone())
    }

    /// Writes to a file, from now on, at most about `bytes_max` bytes.
    pub fn write_to(&mut self, path: &Path, bytes_max: u64) -> io::Result<()> {
        self.file = Some(JournalFile::create(path, &self.setup, bytes_max)?);
        Ok(())
    }

    fn push(&mut self, record: &Record) {
        self.scratch.0.clear();
        record.encode(&mut self.scratch);
        let frame = framed(&self.scratch.0);
        if let Some(ring) = &self.ring {
            ring.push(&frame);
        }
        if let Some(file) = &mut self.file {
            file.push(&frame);
        }
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            file.flush();
        }
    }

    /// A request without what decides nothing, and without what is to be hidden.
    fn recorded(&self, request: &Request) -> Request {
        let Request { id, prompt, sampling, tokens_max, service } = request;
        let SamplingParams { stop_token_ids, prompt_logprobs, .. } = sampling;
        let sampling = SamplingParams {
            stop_token_ids: stop_token_ids.clone(),
            prompt_logprobs: *prompt_logprobs,
            ..SamplingParams::default()
        };
        let (prompt, service) = match &self.hider {
            Some(hider) => {
                let tenant = hider.name(&service.tenant);
                let cache_salt = hider.name(&service.cache_salt);
                (hider.prompt(prompt), Service { tenant, cache_salt, ..service.clone() })
            }
            None => (prompt.clone(), service.clone()),
        };
        Request { id: *id, prompt, sampling, tokens_max: *tokens_max, service }
    }
}

/// A scheduler whose calls are recorded, if there is a recorder. To look at, it is a [`Scheduler`]; each method here
/// is the scheduler's of the same name.
#[derive(Debug)]
pub struct RecordedScheduler {
    scheduler: Scheduler,
    recorder: Option<Recorder>,
    steps_in_flight_max: usize,
}

impl RecordedScheduler {
    /// A scheduler that was told nothing yet, with what is to record it.
    pub fn new(scheduler: Scheduler, info: &ExecutorInfo, recorder: Option<Recorder>) -> Self {
        let steps_in_flight_max = info.steps_in_flight_max.max(1) as usize;
        Self { scheduler, recorder, steps_in_flight_max }
    }

    /// [`Scheduler::submit`].
    pub fn submit(&mut self, request: Request, now: Duration) -> Result<(), Error> {
        let recorded = self.recorder.as_ref().map(|recorder| recorder.recorded(&request));
        let result = self.scheduler.submit(request, now);
        if let (Some(recorder), Some(request)) = (&mut self.recorder, recorded) {
            recorder.push(&Record::Submit { now, request, accepted: result.is_ok() });
        }
        result
    }

    /// [`Scheduler::abort`].
    pub fn abort(&mut self, id: RequestId, now: Duration) -> bool {
        let found = self.scheduler.abort(id, now);
        if let Some(recorder) = &mut self.recorder {
            recorder.push(&Record::Abort { now, id, found });
        }
        found
    }

    /// [`Scheduler::end_all`].
    pub fn end_all(&mut self, fault: &Fault, now: Duration) -> Vec<(RequestId, RequestEvent)> {
        if let Some(recorder) = &mut self.recorder {
            recorder.push(&Record::EndAll { now, message: fault.message.clone() });
            recorder.flush();
        }
        self.scheduler.end_all(fault, now)
    }

    /// [`Scheduler::plan`].
    pub fn plan(&mut self, now: Duration) -> Option<StepPlan> {
        if self.scheduler.in_flight() >= self.steps_in_flight_max {
            // The scheduler has nothing to say, and remembers nothing of it.
            return None;
        }
        let plan = self.scheduler.plan(now);
        if let Some(recorder) = &mut self.recorder {
            if let (Some(hider), Some(plan)) = (&mut recorder.hider, &plan) {
                hider.planned(plan);
            }
            let mark = plan.as_ref().map(|plan| PlanMark::of(plan, &mut recorder.scratch));
            recorder.push(&Record::Plan { now, mark });
            if plan.is_none() && self.scheduler.in_flight() == 0 {
                recorder.flush();
            }
        }
        plan
    }

    /// [`Scheduler::commit`].
    pub fn commit(
        &mut self,
        outcome: StepOutcome,
        now: Duration,
    ) -> Result<Vec<(RequestId, RequestEvent)>, Error> {
        let Some(recorder) = &mut self.recorder else { return self.scheduler.commit(outcome, now) };
        let sampled = match &mut recorder.hider {
            Some(hider) => hider.outcome(&outcome),
            None => outcome.sampled.clone(),
        };
        let (prompt_logprobs, failed) = (outcome.prompt_logprobs.clone(), outcome.failed.clone());
        let StepOutcome { id, left_out, .. } = outcome;
        let recorded = StepOutcome { id, sampled, prompt_logprobs, failed, left_out };
        let result = self.scheduler.commit(outcome, now);
        let events = result.as_ref().ok().map(|events| events.len() as u32);
        recorder.push(&Record::Commit { now, outcome: recorded, events });
        result
    }

    /// [`Scheduler::requeue_all`].
    pub fn requeue_all(&mut self, fault: &Fault, now: Duration) -> Vec<(RequestId, RequestEvent)> {
        if let Some(recorder) = &mut self.recorder {
            if let Some(hider) = &mut recorder.hider {
                hider.lost();
            }
            recorder.push(&Record::Requeue { now, message: fault.message.clone() });
            recorder.flush();
        }
        self.scheduler.requeue_all(fault, now)
    }

    /// [`Scheduler::take_ended`]: decides nothing, so it is not recorded.
    pub fn take_ended(&mut self) -> Vec<Explanation> {
        self.scheduler.take_ended()
    }
}

impl Deref for RecordedScheduler {
    type Target = Scheduler;

    fn deref(&self) -> &Scheduler {
        &self.scheduler
    }
}
