//! What happened, one record each.

use std::time::Duration;

use types::{
    BlockCopy, CopyDirection, Fault, FaultKind, Request, RequestId, SampledToken, SamplingParams,
    Service, SlotAdmission, SlotId, StateCopy, StepId, StepOutcome, StepPlan, WorkItem,
};

use crate::encoding::{Input, Output, Read};

/// One call of the scheduler, as far as it decides what comes of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A request came.
    Submit {
        /// When.
        now: Duration,
        /// What it asked for: of its sampling parameters, the stop tokens and whether it wanted log-probabilities.
        request: Request,
        /// Whether it was let in. One that was not changed nothing.
        accepted: bool,
    },
    /// A request was given up.
    Abort {
        /// When.
        now: Duration,
        /// Which.
        id: RequestId,
        /// Whether it was there.
        found: bool,
    },
    /// Every request was ended.
    EndAll {
        /// When.
        now: Duration,
        /// Why.
        message: String,
    },
    /// A step was asked for.
    Plan {
        /// When.
        now: Duration,
        /// What was planned, if anything.
        mark: Option<PlanMark>,
    },
    /// A step ended.
    Commit {
        /// When.
        now: Duration,
        /// What came of it.
        outcome: StepOutcome,
        /// How many events it meant; nothing if it did not answer its plan.
        events: Option<u32>,
    },
    /// The executor was lost, and its requests were queued again.
    Requeue {
        /// When.
        now: Duration,
        /// What the requests to blame were told.
        message: String,
    },
    /// Earlier records were dropped to make room, and what the scheduler knew after them is not known. First in what a
    /// ring gives to which that happened.
    BeginningLost {
        /// Why.
        why: String,
    },
    /// Nothing more was recorded, since the journal had reached its limit.
    Full,
    /// Recording ended because the scheduler did: nothing is missing. Last in a file that is whole.
    End,
}

/// A plan, as far as it can be told from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanMark {
    /// The check sum of all of it: slots, positions, block ids, copies, draws, lengths of drafts; not of the
    /// tokens of admissions and drafts, which may be hidden.
    pub digest: u32,
    /// Its items.
    pub items: u32,
    /// Positions in them.
    pub positions: u32,
}

impl PlanMark {
    /// The mark of a plan. `scratch` is overwritten.
    pub(crate) fn of(plan: &StepPlan, scratch: &mut Output) -> Self {
        scratch.0.clear();
        let StepPlan { id, release, admit, copies, state_copies, items } = plan;
        scratch.number(id.0);
        scratch.list(release.iter(), |out, slot| out.number(slot.0));
        scratch.list(admit.iter(), |out, admission| {
            let SlotAdmission { slot, tokens, prompt_len, sampling: _ } = admission;
            out.number(slot.0);
            out.number(tokens.len() as u64);
            out.number(*prompt_len);
        });
        scratch.list(copies.iter(), |out, copy| {
            let BlockCopy { group, direction, block, slot } = *copy;
            out.number(group);
            out.flag(direction == CopyDirection::ToHost);
            out.word(block.0);
            out.word(slot.0);
        });
        scratch.list(state_copies.iter(), |out, copy| {
            let StateCopy { group, from, to } = *copy;
            out.number(group);
            out.word(from.0);
            out.word(to.0);
        });
        scratch.list(items.iter(), |out, item| {
            let WorkItem { slot, positions, draft, block_tables, sample, gives_way } = item;
            out.number(slot.0);
            out.number(positions.start);
            out.number(positions.end);
            out.number(draft.len() as u64);
            out.flag(*sample);
            out.flag(*gives_way);
            out.list(block_tables.iter(), |out, table| {
                out.words(table.iter().map(|block| block.0));
            });
        });
        Self {
            digest: crc32fast::hash(&scratch.0),
            items: items.len() as u32,
            positions: plan.token_count() as u32,
        }
    }
}

impl Record {
    /// When it happened, if it happened to the scheduler.
    pub(crate) fn now(&self) -> Option<Duration> {
        match self {
            Self::Submit { now, .. }
            | Self::Abort { now, .. }
            | Self::EndAll { now, .. }
            | Self::Plan { now, .. }
            | Self::Commit { now, .. }
            | Self::Requeue { now, .. } => Some(*now),
            Self::BeginningLost { .. } | Self::Full | Self::End => None,
        }
    }

    pub(crate) fn encode(&self, out: &mut Output) {
        match self {
            Self::Submit { now, request, accepted } => {
                out.0.push(b'S');
                out.time(*now);
                out.flag(*accepted);
                encode_request(request, out);
            }
            Self::Abort { now, id, found } => {
                out.0.push(b'A');
                out.time(*now);
                out.number(id.0);
                out.flag(*found);
            }
            Self::EndAll { now, message } => {
                out.0.push(b'E');
                out.time(*now);
                out.text(message);
            }
            Self::Plan { now, mark } => {
                out.0.push(b'P');
                out.time(*now);
                out.optional(*mark, |out, PlanMark { digest, items, positions }| {
                    out.word(digest);
                    out.number(items);
                    out.number(positions);
                });
            }
            Self::Commit { now, outcome, events } => {
                out.0.push(b'C');
                out.time(*now);
                out.optional(*events, Output::number);
                encode_outcome(outcome, out);
            }
            Self::Requeue { now, message } => {
                out.0.push(b'R');
                out.time(*now);
                out.text(message);
            }
            Self::BeginningLost { why } => {
                out.0.push(b'L');
                out.text(why);
            }
            Self::Full => out.0.push(b'F'),
            Self::End => out.0.push(b'Z'),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Read<Self> {
        let (kind, rest) = bytes.split_first().ok_or("it is empty")?;
        let input = &mut Input(rest);
        let record = match kind {
            b'S' => {
                let (now, accepted) = (input.time()?, input.flag()?);
                Self::Submit { now, accepted, request: decode_request(input)? }
            }
            b'A' => Self::Abort {
                now: input.time()?,
                id: RequestId(input.long()?),
                found: input.flag()?,
            },
            b'E' => Self::EndAll { now: input.time()?, message: input.text()? },
            b'P' => Self::Plan {
                now: input.time()?,
                mark: input.optional(|input| {
                    Ok(PlanMark {
                        digest: input.word()?,
                        items: input.number()?,
                        positions: input.number()?,
                    })
                })?,
            },
            b'C' => {
                let (now, events) = (input.time()?, input.optional(Input::number)?);
                Self::Commit { now, events, outcome: decode_outcome(input)? }
            }
            b'R' => Self::Requeue { now: input.time()?, message: input.text()? },
            b'L' => Self::BeginningLost { why: input.text()? },
            b'F' => Self::Full,
            b'Z' => Self::End,
            other => return Err(format!("there is no kind `{}`", other.escape_ascii())),
        };
        input.end()?;
        Ok(record)
    }
}

fn encode_request(request: &Request, out: &mut Output) {
    let Request { id, prompt, sampling, tokens_max, service } = request;
    out.number(id.0);
    out.words(prompt.iter().copied());
    out.list(sampling.stop_token_ids.iter(), |out, token| out.number(*token));
    out.flag(sampling.prompt_logprobs.is_some());
    out.number(*tokens_max);
    let Service { priority, due, tenant, cache_salt } = service;
    out.word(*priority as u32);
    out.optional(*due, Output::time);
    out.text(tenant);
    out.text(cache_salt);
}

fn decode_request(input: &mut Input<'_>) -> Read<Request> {
    Ok(Request {
        id: RequestId(input.long()?),
        prompt: input.list(Input::word)?,
        sampling: SamplingParams {
            stop_token_ids: input.list(Input::number)?,
            prompt_logprobs: input.flag()?.then_some(0),
            ..SamplingParams::default()
        },
        tokens_max: input.number()?,
        service: Service {
            priority: input.word()? as i32,
            due: input.optional(Input::time)?,
            tenant: input.text()?.into(),
            cache_salt: input.text()?.into(),
        },
    })
}

fn encode_outcome(outcome: &StepOutcome, out: &mut Output) {
    let StepOutcome { id, sampled, prompt_logprobs, failed, left_out } = outcome;
    out.number(id.0);
    out.list(sampled.iter(), |out, sampled| {
        let SampledToken { slot, token, logprobs: _ } = sampled;
        out.number(slot.0);
        out.word(*token);
    });
    out.list(prompt_logprobs.iter(), |out, (slot, logprobs)| {
        out.number(slot.0);
        out.number(logprobs.len() as u64);
    });
    out.list(failed.iter(), |out, (slot, fault)| {
        out.number(slot.0);
        out.text(&fault.message);
    });
    out.number(*left_out);
}

fn decode_outcome(input: &mut Input<'_>) -> Read<StepOutcome> {
    let nothing = types::TokenLogprobs { token: 0, logprob: 0.0, top: Vec::new() };
    Ok(StepOutcome {
        id: StepId(input.long()?),
        sampled: input.list(|input| {
            let (slot, token) = (SlotId(input.number()?), input.word()?);
            Ok(SampledToken { slot, token, logprobs: None })
        })?,
        prompt_logprobs: input.list(|input| {
            let (slot, count) = (SlotId(input.number()?), input.number()? as usize);
            if count > 1 << 24 {
                return Err(format!("{count} log-probabilities"));
            }
            Ok((slot, vec![nothing.clone(); count]))
        })?,
        failed: input.list(|input| {
            let slot = SlotId(input.number()?);
            Ok((slot, Fault::new(FaultKind::Internal, input.text()?)))
        })?,
        left_out: input.number()?,
    })
}
