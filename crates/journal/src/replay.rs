//! Making a scheduler's decisions again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scheduler::Explanation;
use types::{FinishReason, Request, RequestEvent, RequestId, StepId, StepPlan};

use crate::{
    Error, Journal,
    follower::{Decision, Difference, Follower},
    record::Record,
    setup::Setup,
};

/// What a journal tells when everything in it is decided again.
#[derive(Debug)]
pub struct Replay {
    /// What the scheduler was made of.
    pub setup: Setup,
    /// The time of the last call before the journal begins, where that is not the start.
    pub begins: Option<Duration>,
    /// The steps, in order; the last may not have ended.
    pub steps: Vec<Step>,
    /// What became of each request.
    pub requests: BTreeMap<RequestId, Life>,
    /// Times when the executor was lost.
    pub losses: Vec<Duration>,
    /// Requests that were refused.
    pub refused: u64,
    /// Where the same calls led to another decision than the recorded one, if they did. Nothing after it was looked at.
    pub divergence: Option<Divergence>,
    /// The journal reached its limit; more happened than is in it.
    pub is_full: bool,
    /// The journal says itself that it is whole.
    pub is_whole: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub id: StepId,
    /// When it was planned.
    pub planned: Duration,
    /// When it ended.
    pub ended: Option<Duration>,
    /// Positions computed of prompts, and of sequences computed again.
    pub prompt_positions: u32,
    /// Positions for next tokens, those of drafts among them.
    pub token_positions: u32,
    /// KV blocks in use once it was planned.
    pub blocks_used: u64,
    /// Requests with a slot then.
    pub running: usize,
    /// Requests waiting then.
    pub waiting: usize,
    /// The plan, as one line, where lines were asked for.
    pub line: Option<String>,
}

/// One request from its arrival to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    /// When it came.
    pub arrived: Duration,
    /// It came before the journal begins: what became of it until then is not known, but for the numbers here.
    pub came_before: bool,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Of those, cached when it started.
    pub cached_tokens: u32,
    /// Tokens it got.
    pub tokens: u32,
    /// When the first of them came, if the journal has it.
    pub first_token: Option<Duration>,
    /// How often it lost its slot.
    pub preemptions: u32,
    /// What it did, without gaps, from its arrival or the journal's beginning on.
    pub spans: Vec<Span>,
    /// When it ended, and how.
    pub ended: Option<(Duration, Ending)>,
    /// Where its time went, once it has ended.
    pub explanation: Option<Explanation>,
}

/// A stretch of time in which a request did one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What.
    pub phase: Phase,
    /// Since when.
    pub from: Duration,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for a slot.
    Waits,
    /// Its prompt is computed, or all of it again.
    Prompt,
    /// It gets tokens.
    Tokens,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It drew a stop token.
    Stop,
    /// It had all its tokens.
    Length,
    /// It failed.
    Failed,
    /// Nobody wanted it any more.
    Aborted,
}

/// Where a replay went another way than the recorded run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The number of the record, from 0.
    pub record: usize,
    /// What was recorded.
    pub recorded: String,
    /// What the replay decided.
    pub replayed: String,
}

/// Makes all decisions of a journal again, up to the first that differs. With `lines`, each step has its plan as text.
pub fn replay(journal: &Journal, lines: bool) -> Result<Replay, Error> {
    if let Some(Record::BeginningLost { why }) = journal.records.first() {
        let (why, records) = (why.clone(), journal.records.len() - 1);
        return Err(Error::BeginningLost { why, records });
    }
    let follower = Follower::new(&journal.setup, journal.state.as_ref())?;
    let replay = Replay {
        setup: journal.setup.clone(),
        begins: journal.state.as_ref().map(|state| state.now),
        steps: Vec::new(),
        requests: BTreeMap::new(),
        losses: Vec::new(),
        refused: 0,
        divergence: None,
        is_full: false,
        is_whole: false,
    };
    let mut run = Run { follower, replay, lines, running: BTreeSet::new() };
    run.find_requests();
    for (index, record) in journal.records.iter().enumerate() {
        if let Err(difference) = run.apply(record) {
            let Difference { recorded, replayed } = difference;
            run.replay.divergence = Some(Divergence { record: index, recorded, replayed });
            break;
        }
    }
    Ok(run.replay)
}

struct Run {
    follower: Follower,
    replay: Replay,
    lines: bool,
    /// Requests that had a slot after the last plan.
    running: BTreeSet<RequestId>,
}

impl Run {
    /// Takes down the requests that were there before the journal begins.
    fn find_requests(&mut self) {
        let now = self.follower.now();
        for known in self.follower.scheduler().explain(now) {
            let phase = match known.phase {
                scheduler::Phase::Waiting | scheduler::Phase::Ended => Phase::Waits,
                scheduler::Phase::Running if known.generated_tokens == 0 => Phase::Prompt,
                scheduler::Phase::Running => Phase::Tokens,
            };
            if phase != Phase::Waits {
                self.running.insert(known.id);
            }
            let life = Life {
                arrived: known.arrived,
                came_before: true,
                prompt_tokens: known.prompt_tokens,
                cached_tokens: known.prefix.hit_tokens,
                tokens: known.generated_tokens,
                first_token: None,
                preemptions: known.preemptions,
                spans: vec![Span { phase, from: now }],
                ended: None,
                explanation: None,
            };
            self.replay.requests.insert(known.id, life);
        }
    }

    fn apply(&mut self, record: &Record) -> Result<(), Difference> {
        let result = self.tell(record);
        for explanation in self.follower.take_ended() {
            if let Some(life) = self.replay.requests.get_mut(&explanation.id) {
                life.explanation = Some(explanation);
            }
        }
        result
    }

    fn tell(&mut self, record: &Record) -> Result<(), Difference> {
        if let Record::Submit { request: Request { id, .. }, accepted: true, .. } = record
            && self.replay.requests.contains_key(id)
        {
            let recorded = format!("{id} is let in");
            return Err(Difference { recorded, replayed: format!("{id} was here before") });
        }
        match (self.follower.tell(record)?, record) {
            (Decision::Plan(plan), _) => {
                if let Some(plan) = plan {
                    self.planned(&plan);
                }
            }
            (Decision::Events(events), record) => {
                if let Record::Commit { now, outcome, .. } = record
                    && let Some(step) =
                        self.replay.steps.iter_mut().rev().find(|step| step.id == outcome.id)
                {
                    step.ended = Some(*now);
                }
                self.take(&events);
                if let Record::Requeue { now, .. } = record {
                    self.replay.losses.push(*now);
                    for id in std::mem::take(&mut self.running) {
                        self.enter(id, Phase::Waits);
                    }
                }
            }
            (Decision::Nothing, Record::Submit { accepted: false, .. }) => {
                self.replay.refused += 1;
            }
            (Decision::Nothing, Record::Submit { now, request, .. }) => {
                self.submitted(request, *now)
            }
            (Decision::Nothing, Record::Abort { id, .. }) => self.end(*id, Ending::Aborted),
            (Decision::Nothing, Record::Full) => self.replay.is_full = true,
            (Decision::Nothing, Record::End) => self.replay.is_whole = true,
            (Decision::Nothing, _) => {}
        }
        Ok(())
    }

    fn submitted(&mut self, request: &Request, now: Duration) {
        let life = Life {
            arrived: now,
            came_before: false,
            prompt_tokens: request.prompt.len() as u32,
            cached_tokens: 0,
            tokens: 0,
            first_token: None,
            preemptions: 0,
            spans: vec![Span { phase: Phase::Waits, from: now }],
            ended: None,
            explanation: None,
        };
        self.replay.requests.insert(request.id, life);
    }

    fn planned(&mut self, plan: &StepPlan) {
        let scheduler = self.follower.scheduler();
        let mut step = Step {
            id: plan.id,
            planned: self.follower.now(),
            ended: None,
            prompt_positions: 0,
            token_positions: 0,
            blocks_used: scheduler.kv_blocks().0,
            running: scheduler.running(),
            waiting: scheduler.waiting(),
            line: self.lines.then(|| plan.to_string()),
        };
        let mut running = Vec::with_capacity(plan.items.len());
        for item in &plan.items {
            let count = item.positions.len() as u32;
            let phase =
                if item.sample && item.known().len() == 1 { Phase::Tokens } else { Phase::Prompt };
            match phase {
                Phase::Tokens => step.token_positions += count,
                _ => step.prompt_positions += count,
            }
            let id = scheduler.request_in(item.slot);
            running.extend(id.map(|id| (id, phase)));
        }
        self.replay.steps.push(step);
        for (id, phase) in running {
            self.enter(id, phase);
            self.running.insert(id);
        }
        // Those that ran and have no slot any more were preempted.
        let has_lost = |id: &RequestId| !self.follower.scheduler().has_slot(*id);
        for id in self.running.iter().copied().filter(has_lost).collect::<Vec<_>>() {
            self.running.remove(&id);
            self.enter(id, Phase::Waits);
            if let Some(life) = self.replay.requests.get_mut(&id) {
                life.preemptions += 1;
            }
        }
    }

    fn enter(&mut self, id: RequestId, phase: Phase) {
        let now = self.follower.now();
        let Some(life) = self.replay.requests.get_mut(&id) else { return };
        if life.ended.is_none() && life.spans.last().is_none_or(|span| span.phase != phase) {
            life.spans.push(Span { phase, from: now });
        }
    }

    fn take(&mut self, events: &[(RequestId, RequestEvent)]) {
        let now = self.follower.now();
        for (id, event) in events {
            let Some(life) = self.replay.requests.get_mut(id) else { continue };
            match event {
                RequestEvent::Prefilled { cached_tokens } => life.cached_tokens = *cached_tokens,
                RequestEvent::PromptLogprobs(_) => {}
                RequestEvent::Token { .. } => {
                    life.tokens += 1;
                    if life.tokens == 1 {
                        life.first_token = Some(now);
                    }
                }
                RequestEvent::Finished { reason: FinishReason::Length, .. } => {
                    self.end(*id, Ending::Length);
                }
                RequestEvent::Finished { .. } => self.end(*id, Ending::Stop),
                RequestEvent::Failed(_) => self.end(*id, Ending::Failed),
            }
        }
    }

    fn end(&mut self, id: RequestId, ending: Ending) {
        let now = self.follower.now();
        self.running.remove(&id);
        if let Some(life) = self.replay.requests.get_mut(&id) {
            life.ended.get_or_insert((now, ending));
        }
    }
}
