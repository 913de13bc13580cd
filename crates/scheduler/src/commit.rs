//! Folding the outcome of a step back into the state.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use types::{
    Fault, RequestEvent, RequestId, SampledToken, SamplingParams, SlotId, StepOutcome,
    TokenLogprobs, planted, planted::Planted,
};

use crate::{
    Error, Scheduler,
    account::Shared,
    plan::{Flight, FlightItem},
    sequence::Running,
};

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
        let positions = flight.items.iter().map(|item| &item.positions);
        let step = Shared {
            begun,
            ended: now,
            requests: flight.items.len() as u32,
            positions: positions.clone().map(|positions| positions.len() as u32).sum(),
        };
        self.pace.observe(positions, now.saturating_sub(begun));
        let mut failed: BTreeMap<SlotId, Fault> = outcome.failed.into_iter().collect();
        let mut logprobs: BTreeMap<SlotId, Vec<TokenLogprobs>> =
            outcome.prompt_logprobs.into_iter().collect();
        let mut sampled = outcome.sampled.into_iter();
        let mut events = Vec::with_capacity(flight.items.len());
        for item in flight.items {
            let result = match failed.remove(&item.slot) {
                Some(fault) => Err(fault),
                None => Ok(item.sample.then(|| sampled.next().expect("checked above"))),
            };
            let logprobs = logprobs.remove(&item.slot).unwrap_or_default();
            self.apply(&step, &item, result, logprobs, &mut events);
        }
        Ok(events)
    }

    /// What one item brought. Nothing, if its request has ended meanwhile: it was aborted, or drew a stop token in the
    /// step before when this one was under way already.
    ///
    /// A request that was preempted since is in the queue, and takes what it gets there: it may even end. It cannot
    /// have another slot yet, because a step that preempts starts nobody, and the one after it is planned after this.
    fn apply(
        &mut self,
        step: &Shared,
        item: &FlightItem,
        result: Result<Option<SampledToken>, Fault>,
        logprobs: Vec<TokenLogprobs>,
        events: &mut Vec<(RequestId, RequestEvent)>,
    ) {
        let id = item.request;
        let running = self.slots.get_mut(item.slot).filter(|r| r.ticket.id == id);
        let (arrived, sequence) = match running {
            Some(running) => {
                let Running { ticket, sequence, tables, computed, drawing, .. } = running;
                *drawing -= u32::from(item.sample);
                if result.is_ok() {
                    *computed = item.positions.end;
                    self.kv.remember(tables, &mut sequence.key, &sequence.tokens, *computed);
                }
                (ticket.arrived, sequence)
            }
            None => match self.queue.get_mut(id) {
                Some((ticket, sequence)) => (ticket.arrived, sequence),
                None => return,
            },
        };
        sequence.account.take_part(step, &item.positions, sequence.prompt_len);
        let sampled = match result {
            Ok(sampled) => sampled,
            Err(fault) => {
                self.drop_spoilt(id, step.ended);
                events.push((id, RequestEvent::Failed(fault)));
                return;
            }
        };
        sequence.probation = sequence.probation.filter(|suspect| item.positions.end < *suspect);
        sequence.prompt_logprobs.add(item.positions.start, logprobs);
        let Some(SampledToken { token, logprobs, .. }) = sampled else { return };
        if sequence.generated() == 0 {
            let cached_tokens = sequence.cached_tokens;
            events.push((id, RequestEvent::Prefilled { cached_tokens }));
        }
        if let Some(whole) = sequence.prompt_logprobs.take_whole(sequence.prompt_len) {
            // Computed again after a preemption, they would be of no use to anyone.
            let sampling = SamplingParams { prompt_logprobs: None, ..(*sequence.sampling).clone() };
            sequence.sampling = Arc::new(sampling);
            events.push((id, RequestEvent::PromptLogprobs(whole)));
        }
        sequence.tokens.push(token);
        if !planted::strikes(Planted::LostToken) {
            events.push((id, RequestEvent::Token { token, logprobs }));
        }
        if let Some(reason) = sequence.finish_reason() {
            let usage = sequence.usage(arrived);
            self.outputs.observe(usage.generated_tokens);
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
        let has_failed = failures(flight, outcome)?;
        let mut sampled = outcome.sampled.iter();
        for item in flight.items.iter().filter(|item| item.sample && !has_failed(item.slot)) {
            let got = sampled.next();
            let wrong =
                || Error::WrongSample { step, wanted: Some(item.slot), got: got.map(|s| s.slot) };
            let &SampledToken { slot, token, .. } =
                got.filter(|sampled| sampled.slot == item.slot).ok_or_else(wrong)?;
            let vocab_size = self.limits.vocab_size;
            if token >= vocab_size {
                return Err(Error::TokenOutOfVocabulary { step, slot, token, vocab_size });
            }
        }
        if let Some(extra) = sampled.next() {
            return Err(Error::WrongSample { step, wanted: None, got: Some(extra.slot) });
        }
        let brought: BTreeMap<SlotId, usize> =
            outcome.prompt_logprobs.iter().map(|(slot, new)| (*slot, new.len())).collect();
        for item in flight.items.iter().filter(|item| !has_failed(item.slot)) {
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
fn failures(flight: &Flight, outcome: &StepOutcome) -> Result<impl Fn(SlotId) -> bool, Error> {
    let failed: Vec<SlotId> = outcome.failed.iter().map(|(slot, _)| *slot).collect();
    for slot in &failed {
        if !flight.items.iter().any(|item| item.slot == *slot) {
            return Err(Error::WrongFailure { step: outcome.id, slot: *slot });
        }
    }
    Ok(move |slot| failed.contains(&slot))
}
