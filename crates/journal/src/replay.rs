//! Making a scheduler's decisions again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scheduler::{Explanation, Scheduler};
use types::{Fault, FaultKind, FinishReason, Request, RequestEvent, RequestId, StepId, StepPlan};

use crate::{
    Error, Journal,
    encoding::Output,
    record::{PlanMark, Record},
    setup::Setup,
};

/// What a journal tells when everything in it is decided again.
#[derive(Debug)]
pub struct Replay {
    /// What the scheduler was made of.
    pub setup: Setup,
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
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Of those, cached when it started.
    pub cached_tokens: u32,
    /// Tokens it got.
    pub tokens: u32,
    /// When the first of them came.
    pub first_token: Option<Duration>,
    /// How often it lost its slot.
    pub preemptions: u32,
    /// What it did, without gaps.
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
    if journal.records.first() == Some(&Record::BeginningLost) {
        return Err(Error::BeginningLost { records: journal.records.len() - 1 });
    }
    let setup = journal.setup.clone();
    let scheduler = Scheduler::new(&setup.info_of_record(), setup.settings.clone())?;
    let replay = Replay {
        setup,
        steps: Vec::new(),
        requests: BTreeMap::new(),
        losses: Vec::new(),
        refused: 0,
        divergence: None,
        is_full: false,
        is_whole: false,
    };
    let mut run = Run {
        scheduler,
        replay,
        lines,
        scratch: Output::default(),
        now: Duration::ZERO,
        running: BTreeSet::new(),
    };
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
    scheduler: Scheduler,
    replay: Replay,
    lines: bool,
    scratch: Output,
    now: Duration,
    /// Requests that had a slot after the last plan.
    running: BTreeSet<RequestId>,
}

struct Difference {
    recorded: String,
    replayed: String,
}

fn same<T: PartialEq>(
    recorded: &T,
    replayed: &T,
    shown: impl Fn(&T) -> String,
) -> Result<(), Difference> {
    if recorded == replayed {
        return Ok(());
    }
    Err(Difference { recorded: shown(recorded), replayed: shown(replayed) })
}

impl Run {
    fn apply(&mut self, record: &Record) -> Result<(), Difference> {
        let result = self.tell(record);
        for explanation in self.scheduler.take_ended() {
            if let Some(life) = self.replay.requests.get_mut(&explanation.id) {
                life.explanation = Some(explanation);
            }
        }
        result
    }

    fn tell(&mut self, record: &Record) -> Result<(), Difference> {
        match record {
            Record::Submit { now, request, accepted } => {
                self.now = self.now.max(*now);
                return self.submit(request, *now, *accepted);
            }
            Record::Abort { now, id, found } => {
                self.now = *now;
                let really = self.scheduler.abort(*id, *now);
                self.end(*id, Ending::Aborted);
                same(found, &really, |found| {
                    format!(
                        "{id} was {} when it was given up",
                        if *found { "there" } else { "gone" }
                    )
                })?;
            }
            Record::EndAll { now, message } => {
                self.now = *now;
                let events = self.scheduler.end_all(&fault(message), *now);
                self.take(&events);
            }
            Record::Plan { now, mark } => {
                self.now = *now;
                return self.plan(*now, *mark);
            }
            Record::Commit { now, outcome, events } => {
                self.now = *now;
                let step = outcome.id;
                let result = self.scheduler.commit(outcome.clone(), *now);
                let count = result.as_ref().ok().map(|events| events.len() as u32);
                same(events, &count, |count| match count {
                    Some(count) => format!("{count} events come of {step}"),
                    None => format!("the outcome of {step} is refused"),
                })?;
                if let Some(step) = self.replay.steps.iter_mut().rev().find(|s| s.id == step) {
                    step.ended = Some(*now);
                }
                self.take(&result.unwrap_or_default());
            }
            Record::Requeue { now, message } => {
                self.now = *now;
                self.replay.losses.push(*now);
                let events = self.scheduler.requeue_all(&fault(message), *now);
                self.take(&events);
                for id in std::mem::take(&mut self.running) {
                    self.enter(id, Phase::Waits);
                }
            }
            Record::Full => self.replay.is_full = true,
            Record::End => self.replay.is_whole = true,
            Record::BeginningLost => {}
        }
        Ok(())
    }

    fn submit(
        &mut self,
        request: &Request,
        now: Duration,
        accepted: bool,
    ) -> Result<(), Difference> {
        if !accepted {
            self.replay.refused += 1;
            return Ok(());
        }
        let id = request.id;
        if self.replay.requests.contains_key(&id) {
            let recorded = format!("{id} is let in");
            return Err(Difference { recorded, replayed: format!("{id} was here before") });
        }
        if let Err(error) = self.scheduler.submit(request.clone(), now) {
            let recorded = format!("{id} is let in");
            return Err(Difference { recorded, replayed: format!("{id} is refused: {error}") });
        }
        let life = Life {
            arrived: now,
            prompt_tokens: request.prompt.len() as u32,
            cached_tokens: 0,
            tokens: 0,
            first_token: None,
            preemptions: 0,
            spans: vec![Span { phase: Phase::Waits, from: now }],
            ended: None,
            explanation: None,
        };
        self.replay.requests.insert(id, life);
        Ok(())
    }

    fn plan(&mut self, now: Duration, recorded: Option<PlanMark>) -> Result<(), Difference> {
        let plan = self.scheduler.plan(now);
        let mark = plan.as_ref().map(|plan| PlanMark::of(plan, &mut self.scratch));
        if recorded != mark {
            let shown = |mark: Option<PlanMark>| match mark {
                Some(PlanMark { digest, items, positions }) => {
                    format!("a plan of {items} items, {positions} positions, digest {digest:08x}")
                }
                None => "no plan".to_owned(),
            };
            let mut replayed = shown(mark);
            if let Some(plan) = &plan {
                replayed.push_str(&format!("\n{plan}"));
            }
            return Err(Difference { recorded: shown(recorded), replayed });
        }
        if let Some(plan) = plan {
            self.planned(&plan, now);
        }
        Ok(())
    }

    fn planned(&mut self, plan: &StepPlan, now: Duration) {
        let mut step = Step {
            id: plan.id,
            planned: now,
            ended: None,
            prompt_positions: 0,
            token_positions: 0,
            blocks_used: self.scheduler.kv_blocks().0,
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
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
            let id = self.scheduler.request_in(item.slot);
            running.extend(id.map(|id| (id, phase)));
        }
        self.replay.steps.push(step);
        for (id, phase) in running {
            self.enter(id, phase);
            self.running.insert(id);
        }
        // Those that ran and have no slot any more were preempted.
        let has_lost = |id: &RequestId| !self.scheduler.has_slot(*id);
        for id in self.running.iter().copied().filter(has_lost).collect::<Vec<_>>() {
            self.running.remove(&id);
            self.enter(id, Phase::Waits);
            if let Some(life) = self.replay.requests.get_mut(&id) {
                life.preemptions += 1;
            }
        }
    }

    fn enter(&mut self, id: RequestId, phase: Phase) {
        let Some(life) = self.replay.requests.get_mut(&id) else { return };
        if life.ended.is_none() && life.spans.last().is_none_or(|span| span.phase != phase) {
            life.spans.push(Span { phase, from: self.now });
        }
    }

    fn take(&mut self, events: &[(RequestId, RequestEvent)]) {
        for (id, event) in events {
            let Some(life) = self.replay.requests.get_mut(id) else { continue };
            match event {
                RequestEvent::Prefilled { cached_tokens } => life.cached_tokens = *cached_tokens,
                RequestEvent::PromptLogprobs(_) => {}
                RequestEvent::Token { .. } => {
                    life.tokens += 1;
                    life.first_token.get_or_insert(self.now);
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
        self.running.remove(&id);
        if let Some(life) = self.replay.requests.get_mut(&id) {
            life.ended.get_or_insert((self.now, ending));
        }
    }
}

fn fault(message: &str) -> Fault {
    Fault::new(FaultKind::Internal, message)
}
