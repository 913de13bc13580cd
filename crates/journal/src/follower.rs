//! A scheduler that is told again what another was told, and has to decide the same.

use std::{fmt, time::Duration};

use scheduler::{Explanation, Scheduler};
use types::{Fault, FaultKind, RequestEvent, RequestId, StepPlan};

use crate::{
    Error,
    encoding::Output,
    record::{PlanMark, Record},
    setup::Setup,
    state::State,
};

/// Follows a scheduler from record to record.
#[derive(Debug)]
pub(crate) struct Follower {
    scheduler: Scheduler,
    now: Duration,
    scratch: Output,
}

/// What came of a record.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Nothing that is told anybody.
    Nothing,
    /// A plan, if there was something to plan.
    Plan(Option<StepPlan>),
    /// What requests are told.
    Events(Vec<(RequestId, RequestEvent)>),
}

/// Something else was decided than recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) recorded: String,
    pub(crate) replayed: String,
}

impl fmt::Display for Difference {
    /// One line, without the plan.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replayed = self.replayed.lines().next().unwrap_or_default();
        write!(f, "recorded was {} and decided again {replayed}", self.recorded)
    }
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

impl Follower {
    /// At the beginning of a journal: at the start of its scheduler, or in the state that it begins with.
    pub(crate) fn new(setup: &Setup, state: Option<&State>) -> Result<Self, Error> {
        let (scheduler, now) = match state {
            Some(state) => (state.scheduler(setup)?, state.now),
            None => {
                let info = setup.info_of_record();
                (Scheduler::new(&info, setup.settings.clone())?, Duration::ZERO)
            }
        };
        Ok(Self { scheduler, now, scratch: Output::default() })
    }

    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// The time of the last record.
    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn state(&self) -> State {
        State::of(&self.scheduler, self.now)
    }

    pub(crate) fn take_ended(&mut self) -> Vec<Explanation> {
        self.scheduler.take_ended()
    }

    /// Decides again what came of the next record.
    pub(crate) fn tell(&mut self, record: &Record) -> Result<Decision, Difference> {
        if let Some(now) = record.now() {
            self.now = self.now.max(now);
        }
        match record {
            Record::Submit { now, request, accepted: true } => {
                let id = request.id;
                self.scheduler.submit(request.clone(), *now).map_err(|error| Difference {
                    recorded: format!("{id} is let in"),
                    replayed: format!("{id} is refused: {error}"),
                })?;
                Ok(Decision::Nothing)
            }
            Record::Abort { now, id, found } => {
                let really = self.scheduler.abort(*id, *now);
                same(found, &really, |found| {
                    format!(
                        "{id} was {} when it was given up",
                        if *found { "there" } else { "gone" }
                    )
                })?;
                Ok(Decision::Nothing)
            }
            Record::EndAll { now, message } => {
                Ok(Decision::Events(self.scheduler.end_all(&fault(message), *now)))
            }
            Record::Plan { now, mark } => self.plan(*now, *mark),
            Record::Commit { now, outcome, events } => {
                let step = outcome.id;
                let result = self.scheduler.commit(outcome.clone(), *now);
                let count = result.as_ref().ok().map(|events| events.len() as u32);
                same(events, &count, |count| match count {
                    Some(count) => format!("{count} events come of {step}"),
                    None => format!("the outcome of {step} is refused"),
                })?;
                Ok(Decision::Events(result.unwrap_or_default()))
            }
            Record::Requeue { now, message } => {
                Ok(Decision::Events(self.scheduler.requeue_all(&fault(message), *now)))
            }
            Record::Submit { accepted: false, .. }
            | Record::BeginningLost { .. }
            | Record::Full
            | Record::End => Ok(Decision::Nothing),
        }
    }

    fn plan(&mut self, now: Duration, recorded: Option<PlanMark>) -> Result<Decision, Difference> {
        let plan = self.scheduler.plan(now);
        let mark = plan.as_ref().map(|plan| PlanMark::of(plan, &mut self.scratch));
        if recorded == mark {
            return Ok(Decision::Plan(plan));
        }
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
        Err(Difference { recorded: shown(recorded), replayed })
    }
}

fn fault(message: &str) -> Fault {
    Fault::new(FaultKind::Internal, message)
}
