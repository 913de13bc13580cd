//! Tokens and names made unreadable, so that what begins alike still begins alike, and what repeats itself still does
//! where guesses depend on it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
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
///
/// Where next tokens are guessed, a token that comes again in the same text has the hash of its first time again, since
/// guesses are made of what is repeated. Texts that begin alike still do, and no more can be told of different texts.
pub(crate) struct Hider {
    /// Its key comes from the system and is in no record.
    key: RandomState,
    vocab_size: u32,
    shows_repeats: bool,
    slots: BTreeMap<SlotId, Occupant>,
    /// Who draws a token in each step under way: a slot may have changed hands when the step ends.
    flights: VecDeque<(StepId, Vec<(SlotId, Occupant)>)>,
}

/// A request in a slot: its text so far, and how it samples.
type Occupant = Arc<Mutex<(Text, Arc<SamplingParams>)>>;

/// What was hidden of one text.
#[derive(Default)]
struct Text {
    /// The hash of its tokens.
    chain: u64,
    /// What stands for tokens that came before, where repeats are shown.
    known: HashMap<TokenId, TokenId>,
    /// All that stands for one.
    taken: HashSet<TokenId>,
}

impl Hider {
    pub(crate) fn new(vocab_size: u32, shows_repeats: bool) -> Self {
        let (slots, flights) = (BTreeMap::new(), VecDeque::new());
        Self { key: RandomState::new(), vocab_size, shows_repeats, slots, flights }
    }

    fn hash(&self, value: impl Hash) -> u64 {
        self.key.hash_one(value)
    }

    /// What stands for the next token of a text.
    fn hide(&self, text: &mut Text, token: TokenId) -> TokenId {
        text.chain = self.hash((text.chain, token));
        let mut hidden = shown(text.chain);
        if !self.shows_repeats {
            return hidden;
        }
        if let Some(known) = text.known.get(&token) {
            return *known;
        }
        // Two tokens of a text never look the same.
        while !text.taken.insert(hidden) {
            hidden = shown(u64::from(hidden) + 1);
        }
        text.known.insert(token, hidden);
        hidden
    }

    pub(crate) fn prompt(&self, tokens: &[TokenId]) -> Vec<TokenId> {
        let mut text = Text::default();
        tokens.iter().map(|token| self.hide(&mut text, *token)).collect()
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
            let mut text = Text::default();
            for token in &admission.tokens {
                self.hide(&mut text, *token);
            }
            let occupant = Arc::new(Mutex::new((text, admission.sampling.clone())));
            self.slots.insert(admission.slot, occupant);
        }
        let drawing = plan.items.iter().filter(|item| item.sample);
        let drawing = drawing.filter_map(|item| {
            self.slots.get(&item.slot).map(|occupant| (item.slot, occupant.clone()))
        });
        self.flights.push_back((plan.id, drawing.collect()));
    }

    /// The tokens that a step drew. Of those that an executor drew after a stop token, because it was guessed, none: a
    /// stop token stands as it is, and differs from its hash in the guess.
    pub(crate) fn outcome(&mut self, outcome: &StepOutcome) -> Vec<SampledToken> {
        let is_next = self.flights.front().is_some_and(|(id, _)| *id == outcome.id);
        let drawing = if is_next { self.flights.pop_front() } else { None };
        let drawing: BTreeMap<SlotId, Occupant> =
            drawing.map(|(_, drawing)| drawing.into_iter().collect()).unwrap_or_default();
        let mut stopped = BTreeSet::new();
        let hide = |&SampledToken { slot, token, .. }: &SampledToken| {
            if stopped.contains(&slot) {
                return None;
            }
            let token = match drawing.get(&slot) {
                Some(occupant) => {
                    let mut occupant = occupant.lock().unwrap_or_else(PoisonError::into_inner);
                    let (text, sampling) = &mut *occupant;
                    if sampling.stop_token_ids.contains(&token) {
                        stopped.insert(slot);
                    }
                    self.drawn(text, sampling, token)
                }
                None => HASHES,
            };
            Some(SampledToken { slot, token, logprobs: None })
        };
        outcome.sampled.iter().filter_map(hide).collect()
    }

    fn drawn(&self, text: &mut Text, sampling: &SamplingParams, token: TokenId) -> TokenId {
        if token >= self.vocab_size {
            return NO_TOKEN;
        }
        let hidden = self.hide(text, token);
        if sampling.stop_token_ids.contains(&token) { token } else { hidden }
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
