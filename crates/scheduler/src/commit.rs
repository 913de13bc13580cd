//! Folding the outcome of a step back into the state.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use queue::Ticket;
use types::{
    Fault, RequestEvent, RequestId, SampledToken, SamplingParams, SlotId, StepOutcome,
    TokenLogprobs, planted, planted::Planted,
};

use crate::{Error, Scheduler, account::Shared, plan::FlightItem, sequence::Running};

impl Scheduler {
    /// Takes the outcome of the oldest step under way and gives what it means for each request, in order.
    ///
    /// Nothing changes when the outcome does not answer the plan: the executor cannot be trusted then.
    pub fn commit(
        &mut self,
        outcome: StepOutcome,
        now: Duration,
    ) -> Result<Vec<(RequestId, RequestEvent)>, Error> {
        self.check(&outcome)?;
        let flight = self.flights.pop_front().expect("checked above");
        // A step that was planned while another ran began when that one ended.
        let begun = flight.planned.max(std::mem::replace(&mut self.committed, now));
        let (computed, left_out) =
            flight.items.split_at(flight.items.len() - outcome.left_out as usize);
        let positions = computed.iter().map(|item| &item.positions);
        let step = Shared {
            begun,
            ended: now,
            requests: flight.items.len() as u32,
            positions: positions.clone().map(|positions| positions.len() as u32).sum(),
        };
        if left_out.is_empty() {
            let took = now.saturating_sub(begun);
            self.pace.observe(positions, flight.has_prompts, flight.copies, took);
        }
        for item in left_out {
            self.leave_out(&step, item);
        }
        for id in &flight.restored {
            if let Some(sequence) = self.sequence_mut(*id) {
                sequence.account.restored(&step);
            }
        }
        let mut failed: BTreeMap<SlotId, Fault> = outcome.failed.into_iter().collect();
        let mut logprobs: BTreeMap<SlotId, Vec<TokenLogprobs>> =
            outcome.prompt_logprobs.into_iter().collect();
        let mut sampled = outcome.sampled.into_iter().peekable();
        let mut events = Vec::with_capacity(flight.items.len());
        for item in computed {
            let logprobs = logprobs.remove(&item.slot).unwrap_or_default();
            let outcome = failed.remove(&item.slot).map_or(Ok(logprobs), Err);
            let mut drawn = std::iter::from_fn(|| sampled.next_if(|next| next.slot == item.slot));
            self.apply(&step, item, outcome, &mut drawn, &mut events);
            // Those of a request that has ended are nobody's.
            drawn.for_each(drop);
        }
        Ok(events)
    }

    /// Has the positions of an item that was left out computed later.
    fn leave_out(&mut self, step: &Shared, item: &FlightItem) {
        let running = self.slots.get_mut(item.slot).filter(|r| r.ticket.id == item.request);
        let Some(running) = running else { return };
        let start = item.positions.start;
        running.planned = start;
        running.drawing -= u32::from(item.sample);
        if item.is_next_token() {
            running.token_left_out = true;
        } else {
            running.leave_out_part(item.positions.len() as u32);
            self.counters.left_out_tokens += item.positions.len() as u64;
        }
        running.sequence.account.take_part(step, &(start..start), running.sequence.prompt_len);
    }

    /// What one item brought: log-probabilities of its prompt, and the tokens drawn. Nothing, if its request has ended
    /// meanwhile: it was aborted, or drew a stop token in the step before when this one was under way already.
    ///
    /// A request that was preempted since is in the queue, and takes what it gets there: it may even end. It cannot
    /// have another slot yet, because a step that preempts starts nobody, and the one after it is planned after this.
    fn apply(
        &mut self,
        step: &Shared,
        item: &FlightItem,
        outcome: Result<Vec<TokenLogprobs>, Fault>,
        drawn: &mut dyn Iterator<Item = SampledToken>,
        events: &mut Vec<(RequestId, RequestEvent)>,
    ) {
        let id = item.request;
        let mut running = self.slots.get_mut(item.slot).filter(|r| r.ticket.id == id);
        if let Some(running) = &mut running {
            running.drawing -= u32::from(item.sample);
            running.drafted = 0;
            running.token_left_out = false;
            if item.is_part {
                running.keep_part(item.positions.len() as u32);
            }
        }
        let place = running.map(|running| (running.ticket, &mut running.sequence));
        let place =
            place.or_else(|| self.queue.get_mut(id).map(|(ticket, sequence)| (*ticket, sequence)));
        let Some((Ticket { arrived, .. }, sequence)) = place else { return };
        sequence.account.take_part(step, &item.positions, sequence.prompt_len);
        let logprobs = match outcome {
            Ok(logprobs) => logprobs,
            Err(fault) => {
                self.drop_spoilt(id, step.ended);
                events.push((id, RequestEvent::Failed(fault)));
                return;
            }
        };
        let guessed = item.draft.len() as u32;
        let known_end = item.positions.end - guessed;
        sequence.probation = sequence.probation.filter(|suspect| known_end < *suspect);
        sequence.prompt_logprobs.add(item.positions.start, logprobs);
        let before = sequence.len();
        let mut ended = None;
        for SampledToken { token, logprobs, .. } in drawn {
            if sequence.generated() == 0 {
                let cached_tokens = sequence.cached_tokens;
                events.push((id, RequestEvent::Prefilled { cached_tokens }));
            }
            if let Some(whole) = sequence.prompt_logprobs.take_whole(sequence.prompt_len) {
                // Computed again after a preemption, they would be of no use to anyone.
                let sampling =
                    SamplingParams { prompt_logprobs: None, ..(*sequence.sampling).clone() };
                sequence.sampling = Arc::new(sampling);
                events.push((id, RequestEvent::PromptLogprobs(whole)));
            }
            sequence.tokens.push(token);
            self.outputs.observe_token(sequence.generated());
            if !planted::strikes(Planted::LostToken) {
                events.push((id, RequestEvent::Token { token, logprobs }));
            }
            ended = sequence.finish_reason();
            if ended.is_some() {
                break;
            }
        }
        let accepted = (sequence.len() - before).saturating_sub(1);
        if let Some(drafter) = sequence.drafter.as_mut().filter(|_| guessed > 0) {
            drafter.judge(guessed, accepted);
            sequence.account.guessed(guessed, accepted);
            self.counters.drafted_tokens += u64::from(guessed);
            self.counters.accepted_tokens += u64::from(accepted);
        }
        let usage = sequence.usage(arrived);
        if let Some(running) = self.slots.get_mut(item.slot).filter(|r| r.ticket.id == id) {
            let Running { sequence, tables, computed, planned, .. } = running;
            *computed = known_end + accepted;
            self.kv.remember(tables, &mut sequence.key, &sequence.tokens, *computed);
            // Steps under way begin no earlier.
            self.kv.give_back(tables, *computed);
            if guessed > 0 {
                *planned += accepted;
                self.kv.shrink(tables, sequence.len());
            }
        }
        if let Some(reason) = ended {
            self.abort(id, step.ended);
            events.push((id, RequestEvent::Finished { reason, usage }));
            if planted::strikes(Planted::StreamOutOfOrder) {
                let last = events.len() - 1;
                events.swap(last - 1, last);
            }
        }
    }

    /// Whether the outcome answers the oldest step under way, item by item.
    fn check(&self, outcome: &StepOutcome) -> Result<(), Error> {
        let step = outcome.id;
        let Some(flight) = self.flights.front().filter(|flight| flight.id == step) else {
            let under_way = self.flights.front().map(|flight| flight.id);
            return Err(Error::WrongStep { step, under_way });
        };
        let giving_way = flight.items.iter().filter(|item| item.gives_way).count();
        let left_out = outcome.left_out as usize;
        if left_out > 0 && left_out != giving_way {
            return Err(Error::WrongLeftOut { step, left_out, giving_way });
        }
        let computed = &flight.items[..flight.items.len() - left_out];
        let has_failed = failures(computed, outcome)?;
        let mut sampled = outcome.sampled.iter().peekable();
        for item in computed.iter().filter(|item| item.sample && !has_failed(item.slot)) {
            let got = sampled.next();
            let wrong =
                || Error::WrongSample { step, wanted: Some(item.slot), got: got.map(|s| s.slot) };
            let mut last = got.filter(|sampled| sampled.slot == item.slot).ok_or_else(wrong)?;
            let mut guesses = item.draft.iter();
            loop {
                let (&SampledToken { slot, token, .. }, vocab_size) =
                    (last, self.limits.vocab_size);
                if token >= vocab_size {
                    return Err(Error::TokenOutOfVocabulary { step, slot, token, vocab_size });
                }
                if guesses.next() != Some(&token) {
                    break;
                }
                let Some(next) = sampled.next_if(|next| next.slot == slot) else { break };
                last = next;
            }
        }
        if let Some(extra) = sampled.next() {
            return Err(Error::WrongSample { step, wanted: None, got: Some(extra.slot) });
        }
        let brought: BTreeMap<SlotId, usize> =
            outcome.prompt_logprobs.iter().map(|(slot, new)| (*slot, new.len())).collect();
        for item in computed.iter().filter(|item| !has_failed(item.slot)) {
            let (slot, wanted) = (item.slot, item.prompt_logprobs);
            let got = brought.get(&slot).copied().unwrap_or(0);
            if got != wanted as usize {
                return Err(Error::WrongPromptLogprobs { step, slot, wanted, got });
            }
        }
        Ok(())
    }
}

/// Says of a slot whether it failed; an error if one did that was not asked for.
fn failures(
    items: &[FlightItem],
    outcome: &StepOutcome,
) -> Result<impl Fn(SlotId) -> bool + use<>, Error> {
    let failed: Vec<SlotId> = outcome.failed.iter().map(|(slot, _)| *slot).collect();
    for slot in &failed {
        if !items.iter().any(|item| item.slot == *slot) {
            return Err(Error::WrongFailure { step: outcome.id, slot: *slot });
        }
    }
    Ok(move |slot| failed.contains(&slot))
}
