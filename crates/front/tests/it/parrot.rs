//! An executor whose answers a test can choose: it says its prompt once more and then stops.
//!
//! At a temperature above 0 it begins somewhere within the prompt, as the seed says, so that a test can see seeds at
//! work. With a gate, every step waits to be let through.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, mpsc},
};

use types::{
    CacheGroup, Executor, ExecutorInfo, Fault, MemoryReport, SampledToken, SlotAdmission, SlotId,
    StepOutcome, StepPlan, TokenId, TokenLogprobs,
};

use super::text::{END, VOCAB_SIZE};

pub(crate) const CONTEXT_MAX: u32 = 512;
pub(crate) const SLOTS_MAX: u32 = 8;

/// Lets steps through; dropping it opens the gate for good.
pub(crate) struct Permits(mpsc::Sender<()>);

impl Permits {
    pub(crate) fn allow(&self, steps: usize) {
        for _ in 0..steps {
            self.0.send(()).unwrap();
        }
    }
}

#[derive(Clone)]
pub(crate) struct Gate(Arc<Mutex<mpsc::Receiver<()>>>);

pub(crate) fn gate() -> (Gate, Permits) {
    let (sender, receiver) = mpsc::channel();
    (Gate(Arc::new(Mutex::new(receiver))), Permits(sender))
}

pub(crate) struct Parrot {
    info: ExecutorInfo,
    gate: Option<Gate>,
    slots: BTreeMap<SlotId, Speech>,
    under_way: VecDeque<StepPlan>,
}

struct Speech {
    tokens: Vec<TokenId>,
    admission: SlotAdmission,
}

impl Parrot {
    pub(crate) fn new(gate: Option<Gate>) -> Self {
        let info = ExecutorInfo {
            cache_groups: vec![CacheGroup::new(1024, 16)],
            step_tokens_max: 4096,
            slots_max: SLOTS_MAX,
            context_max: CONTEXT_MAX,
            vocab_size: VOCAB_SIZE,
            steps_in_flight_max: 1,
            draft_tokens_max: 0,
        };
        Self { info, gate, slots: BTreeMap::new(), under_way: VecDeque::new() }
    }
}

impl Speech {
    fn next(&self) -> TokenId {
        let prompt = &self.tokens[..self.admission.prompt_len as usize];
        let said = self.tokens.len() - prompt.len();
        let sampling = &self.admission.sampling;
        let start =
            if sampling.temperature > 0.0 { sampling.seed as usize % prompt.len() } else { 0 };
        let goes_on = (said as u32) < sampling.tokens_min
            || (sampling.stop_token_ids.is_empty() || said < prompt.len());
        if goes_on { prompt[(start + said) % prompt.len()] } else { END }
    }
}

fn logprobs(token: TokenId, top: u32) -> TokenLogprobs {
    let alternatives = (0..top).map(|rank| ((token + rank) % VOCAB_SIZE, -0.25 - rank as f32));
    TokenLogprobs { token, logprob: -0.25, top: alternatives.collect() }
}

impl Executor for Parrot {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn submit(&mut self, plan: StepPlan) -> Result<(), Fault> {
        self.under_way.push_back(plan);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutcome, Fault> {
        let plan = self.under_way.pop_front().expect("a step is under way");
        if let Some(gate) = &self.gate {
            // An error means that the gate is open for good.
            let _open = gate.0.lock().unwrap().recv();
        }
        for slot in &plan.release {
            self.slots.remove(slot);
        }
        for admission in plan.admit {
            let tokens = admission.tokens.clone();
            self.slots.insert(admission.slot, Speech { tokens, admission });
        }
        let mut outcome = StepOutcome::empty(plan.id);
        for item in plan.items {
            let slot = item.slot;
            let speech = self.slots.get_mut(&slot).expect("an item has a slot");
            let sampling = Arc::clone(&speech.admission.sampling);
            if let Some(top) = sampling.prompt_logprobs {
                let followed = item.positions.start + 1
                    ..(item.positions.end + 1).min(speech.admission.prompt_len);
                let of_prompt: Vec<TokenLogprobs> =
                    followed.map(|index| logprobs(speech.tokens[index as usize], top)).collect();
                if !of_prompt.is_empty() {
                    outcome.prompt_logprobs.push((slot, of_prompt));
                }
            }
            if item.sample {
                let token = speech.next();
                speech.tokens.push(token);
                let logprobs = sampling.logprobs.map(|top| logprobs(token, top));
                outcome.sampled.push(SampledToken { slot, token, logprobs });
            }
        }
        Ok(outcome)
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport::default()
    }
}
