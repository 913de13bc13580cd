//! Tokens and names made unreadable, so that what begins alike still begins alike.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use types::{SampledToken, SamplingParams, SlotId, StepId, StepOutcome, StepPlan, TokenId};

/// Hashes are at or above this, tokens below.
const HASHES: u32 = 1 << 31;
/// Stands for a token that is not in the vocabulary: the scheduler refuses it.
const NO_TOKEN: TokenId = u32::MAX;

/// Hides tokens behind hashes of themselves and all before them, under a key of its own.
pub(crate) struct Hider {
    /// Its key comes from the system and is in no record.
    key: RandomState,
    vocab_size: u32,
    slots: BTreeMap<SlotId, Occupant>,
    /// Who draws a token in each step under way: a slot may have changed hands when the step ends.
    flights: VecDeque<(StepId, Vec<(SlotId, Occupant)>)>,
}

/// A request in a slot: the hash of its tokens so far, and how it samples.
type Occupant = Arc<Mutex<(u64, Arc<SamplingParams>)>>;

impl Hider {
    pub(crate) fn new(vocab_size: u32) -> Self {
        let (slots, flights) = (BTreeMap::new(), VecDeque::new());
        Self { key: RandomState::new(), vocab_size, slots, flights }
    }

    fn hash(&self, value: impl Hash) -> u64 {
        self.key.hash_one(value)
    }

    pub(crate) fn prompt(&self, tokens: &[TokenId]) -> Vec<TokenId> {
        let mut chain = 0;
        let hide = |token| {
            chain = self.hash((chain, token));
            shown(chain)
        };
        tokens.iter().map(hide).collect()
    }

    /// A name; nobody in particular stays so.
    pub(crate) fn name(&self, name: &str) -> Arc<str> {
        if name.is_empty() { "".into() } else { format!("{:016x}", self.hash(name)).into() }
    }

    /// A plan was made: remembers who is to draw.
    pub(crate) fn planned(&mut self, plan: &StepPlan) {
        for slot in &plan.release {
            self.slots.remove(slot);
        }
        for admission in &plan.admit {
            let chain = admission.tokens.iter().fold(0, |chain, token| self.hash((chain, *token)));
            let occupant = Arc::new(Mutex::new((chain, admission.sampling.clone())));
            self.slots.insert(admission.slot, occupant);
        }
        let drawing = plan.items.iter().filter(|item| item.sample);
        let drawing = drawing.filter_map(|item| {
            self.slots.get(&item.slot).map(|occupant| (item.slot, occupant.clone()))
        });
        self.flights.push_back((plan.id, drawing.collect()));
    }

    /// The tokens that a step drew.
    pub(crate) fn outcome(&mut self, outcome: &StepOutcome) -> Vec<SampledToken> {
        let is_next = self.flights.front().is_some_and(|(id, _)| *id == outcome.id);
        let drawing = if is_next { self.flights.pop_front() } else { None };
        let drawing: BTreeMap<SlotId, Occupant> =
            drawing.map(|(_, drawing)| drawing.into_iter().collect()).unwrap_or_default();
        let hide = |sampled: &SampledToken| {
            let occupant = drawing.get(&sampled.slot);
            let token = occupant.map_or(HASHES, |occupant| self.drawn(occupant, sampled.token));
            SampledToken { slot: sampled.slot, token, logprobs: None }
        };
        outcome.sampled.iter().map(hide).collect()
    }

    fn drawn(&self, occupant: &Occupant, token: TokenId) -> TokenId {
        if token >= self.vocab_size {
            return NO_TOKEN;
        }
        let (chain, sampling) = &mut *occupant.lock().unwrap_or_else(PoisonError::into_inner);
        *chain = self.hash((*chain, token));
        if sampling.stop_token_ids.contains(&token) { token } else { shown(*chain) }
    }

    /// The executor is lost, and what it held.
    pub(crate) fn lost(&mut self) {
        self.slots.clear();
        self.flights.clear();
    }
}

fn shown(chain: u64) -> TokenId {
    let hash = HASHES | chain as u32;
    if hash == NO_TOKEN { HASHES } else { hash }
}

impl fmt::Debug for Hider {
    /// Not its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hider").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}
