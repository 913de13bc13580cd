//! A deterministic model that answers plans, and checks that they keep to the contract.
//!
//! The token drawn after a sequence is a hash of the sequence, the seed and the position, and the sequence is read back
//! from a KV cache by the plan's own block tables: a plan that mixes up blocks gives other tokens or an assertion. What
//! falls out of a window is neither read nor held. A recurrent state is the hash of all tokens that it has seen, and a
//! request goes on with the state of exactly its own beginning.

use std::collections::{BTreeMap, BTreeSet};

use types::{
    BlockCopy, BlockId, CacheGroup, CopyDirection, ExecutorInfo, Fault, FinishReason, SampledToken,
    SamplingParams, SlotAdmission, SlotId, StateCopy, StepOutcome, StepPlan, TokenId,
    TokenLogprobs, WorkItem,
};

/// A model whose output is known without running it: see [`expected_output`].
#[derive(Debug)]
pub struct FakeModel {
    info: ExecutorInfo,
    /// A request with this token in its prompt fails alone.
    failing_token: Option<TokenId>,
    slots: BTreeMap<SlotId, FakeSlot>,
    /// For each group, block and offset, the hash of all tokens up to that position; of a state there is one a block.
    cache: Vec<Vec<Vec<u64>>>,
    /// The same for each group and slot in the host's memory.
    host: Vec<Vec<Vec<u64>>>,
    leaves_out: bool,
}

#[derive(Debug)]
struct FakeSlot {
    admission: SlotAdmission,
    tokens: Vec<TokenId>,
    /// `None` before its first item, which may begin with what is cached.
    computed: Option<u32>,
    /// Where its last item began.
    began: u32,
    failed: bool,
}

impl FakeSlot {
    fn prompt(&self) -> &[TokenId] {
        &self.tokens[..self.admission.prompt_len as usize]
    }
}

impl FakeModel {
    /// A model with these limits.
    pub fn new(info: ExecutorInfo) -> Self {
        let groups = info.cache_groups.iter();
        let room = |group: &CacheGroup, blocks: u32| {
            let entries = if group.is_state() { 1 } else { group.block_tokens };
            vec![vec![0; entries as usize]; blocks as usize]
        };
        let cache = groups.clone().map(|group| room(group, group.blocks)).collect();
        let host = groups.map(|group| room(group, group.host_blocks)).collect();
        let slots = BTreeMap::new();
        Self { info, failing_token: None, slots, cache, host, leaves_out: false }
    }

    /// The same model, in which every request fails alone that has this token in its prompt.
    #[must_use]
    pub fn with_failing_token(mut self, token: TokenId) -> Self {
        self.failing_token = Some(token);
        self
    }

    /// The next step leaves out what gives way.
    pub fn leave_out(&mut self) {
        self.leaves_out = true;
    }

    /// The model's limits.
    pub fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    /// Slots in use.
    pub fn slots_used(&self) -> usize {
        self.slots.len()
    }

    /// The prompt of the request in `slot`.
    pub fn prompt(&self, slot: SlotId) -> Option<&[TokenId]> {
        self.slots.get(&slot).map(FakeSlot::prompt)
    }

    /// Runs a step.
    ///
    /// # Panics
    /// When the plan breaks the contract.
    pub fn run(&mut self, plan: &StepPlan) -> StepOutcome {
        for slot in &plan.release {
            assert!(self.slots.remove(slot).is_some(), "{plan}: {slot} is not in use");
        }
        for admission in &plan.admit {
            let slot = admission.slot;
            assert!(slot.0 < self.info.slots_max, "{plan}: {slot} does not exist");
            let (admission, tokens) = (admission.clone(), admission.tokens.clone());
            let taken = self.slots.insert(
                slot,
                FakeSlot { admission, tokens, computed: None, began: 0, failed: false },
            );
            assert!(taken.is_none(), "{plan}: {slot} is in use");
        }
        self.copy(plan);
        assert!(plan.token_count() <= self.info.step_tokens_max as usize, "{plan}: over budget");
        let giving_way = plan.items_giving_way();
        let all = plan.items.iter().filter(|item| item.gives_way).count();
        assert_eq!(giving_way, all, "{plan}: what gives way stands behind all else");
        assert!(giving_way == 0 || self.info.steps_in_flight_max == 1, "{plan}: two at once");
        let mut outcome = StepOutcome::empty(plan.id);
        let mut items = &plan.items[..];
        if std::mem::take(&mut self.leaves_out) {
            let left_out;
            (items, left_out) = items.split_at(items.len() - giving_way);
            left_out.iter().for_each(|item| self.spoil(item));
            outcome.left_out = giving_way as u32;
        }
        for (index, item) in items.iter().enumerate() {
            let again = plan.items[..index].iter().any(|earlier| earlier.slot == item.slot);
            assert!(!again, "{plan}: two items of {}", item.slot);
            self.run_item(plan, item, &mut outcome);
        }
        outcome
    }

    /// Copies of one group and direction that stand side by side are done at once: none may depend on another.
    fn copy(&mut self, plan: &StepPlan) {
        let is_at_once = |one: &BlockCopy, other: &BlockCopy| {
            (one.group, one.direction) == (other.group, other.direction)
        };
        for copies in plan.copies.chunk_by(is_at_once) {
            let mut written = BTreeSet::new();
            for &BlockCopy { group, direction, block, slot } in copies {
                let [block, slot] = [block.0, slot.0].map(|place| place as usize);
                let (cache, host) =
                    (&mut self.cache[group as usize], &mut self.host[group as usize]);
                let (from, to, place) = match direction {
                    CopyDirection::ToHost => (&mut cache[block], &mut host[slot], slot),
                    CopyDirection::ToDevice => (&mut host[slot], &mut cache[block], block),
                };
                assert!(written.insert(place), "{plan}: copies to one place at once");
                to.clone_from(from);
            }
        }
        for &StateCopy { group, from, to } in &plan.state_copies {
            assert!(self.info.cache_groups[group as usize].is_state(), "{plan}: of no state");
            let cache = &mut self.cache[group as usize];
            cache[to.0 as usize] = cache[from.0 as usize].clone();
        }
    }

    /// An item that is left out may have been begun.
    fn spoil(&mut self, item: &WorkItem) {
        for (group, table) in item.block_tables.iter().enumerate() {
            let block_tokens = self.info.cache_groups[group].block_tokens;
            for position in item.positions.clone() {
                let block = table[(position / block_tokens) as usize];
                let offset = (position % block_tokens) as usize;
                self.cache[group][block.0 as usize][offset] = u64::MAX;
            }
        }
    }

    fn run_item(&mut self, plan: &StepPlan, item: &WorkItem, outcome: &mut StepOutcome) {
        let WorkItem { slot, ref positions, ref draft, ref block_tables, sample, gives_way } =
            *item;
        let fake = self.slots.get_mut(&slot).expect("an item has a slot in use");
        assert!(!positions.is_empty(), "{plan}: {slot} has nothing to do");
        if fake.failed {
            // Asked for before the failure was known.
            outcome.failed.push((slot, Fault::internal("failed before")));
            return;
        }
        let begin = fake.computed.unwrap_or(positions.start);
        // Everything before is computed: another step under way may have begun where the last item did.
        let is_alone = fake.computed.is_none() || self.info.steps_in_flight_max == 1;
        let whole = if is_alone { positions.start } else { fake.began };
        fake.began = positions.start;
        assert_eq!(positions.start, begin, "{plan}: {slot} leaves a gap");
        let known = item.known();
        assert!(known.end as usize <= fake.tokens.len(), "{plan}: {slot} runs ahead");
        assert!(draft.len() <= self.info.draft_tokens_max as usize, "{plan}: too long a draft");
        assert!(draft.is_empty() || sample, "{plan}: {slot} has a draft and draws nothing");
        let tokens = [&fake.tokens[..known.end as usize], draft].concat();
        assert!(positions.end < self.info.context_max, "{plan}: {slot} exceeds the context");
        assert!(!gives_way || draft.is_empty(), "{plan}: {slot} has a draft and gives way");
        let at_the_end = known.end as usize == fake.tokens.len();
        assert_eq!(sample, at_the_end, "{plan}: {slot} draws exactly at its end");
        assert_eq!(block_tables.len(), self.cache.len(), "{plan}: one table a group");
        // The hashes of all tokens before each place from the end of what is known on.
        let mut ends = Vec::new();
        for (group, table) in block_tables.iter().enumerate() {
            let of_group = &self.info.cache_groups[group];
            let block_tokens = of_group.block_tokens;
            if of_group.is_state() {
                let [block] = table[..] else { panic!("{plan}: {slot} has one state") };
                let state = &mut self.cache[group][block.0 as usize][0];
                let begun = if positions.start == 0 { START } else { *state };
                let (before, own) = tokens.split_at(positions.start as usize);
                assert_eq!(begun, hash_of(before), "{plan}: {slot} goes on in another state");
                *state = own.iter().fold(begun, |hash, token| mix(hash, u64::from(*token)));
                continue;
            }
            let unseen = &table[..of_group.first_needed(whole) as usize];
            let are_gone = unseen.iter().all(|block| *block == BlockId::GONE);
            assert!(are_gone, "{plan}: {slot} holds blocks that it does not see");
            let seen = of_group.window().map_or(0, |w| (positions.start + 1).saturating_sub(w));
            let blocks = positions.end.div_ceil(block_tokens) as usize;
            assert_eq!(table.len(), blocks, "{plan}: {slot} has a table of the wrong length");
            let mut hash = START;
            ends.clear();
            for position in 0..positions.end {
                hash = mix(hash, u64::from(tokens[position as usize]));
                if position + 1 >= known.end {
                    ends.push(hash);
                }
                if position < seen {
                    continue;
                }
                let block = table[(position / block_tokens) as usize];
                assert_ne!(block, BlockId::GONE, "{plan}: {slot} sees {position}, which is gone");
                let offset = (position % block_tokens) as usize;
                let entry = &mut self.cache[group][block.0 as usize][offset];
                if position >= positions.start {
                    *entry = hash;
                }
                assert_eq!(*entry, hash, "{plan}: {slot} lost position {position} in {block}");
            }
        }
        if ends.is_empty() {
            ends.extend((known.end as usize..=tokens.len()).map(|len| hash_of(&tokens[..len])));
        }
        fake.computed = Some(known.end);
        if self.failing_token.is_some_and(|token| fake.prompt().contains(&token)) {
            fake.failed = true;
            outcome.failed.push((slot, Fault::internal("the failing token")));
            return;
        }
        let SlotAdmission { prompt_len, ref sampling, .. } = fake.admission;
        if sampling.prompt_logprobs.is_some() {
            let followed = positions.start + 1..(positions.end + 1).min(prompt_len);
            let logprobs: Vec<TokenLogprobs> =
                followed.map(|index| logprobs_of(fake.tokens[index as usize], index)).collect();
            if !logprobs.is_empty() {
                outcome.prompt_logprobs.push((slot, logprobs));
            }
        }
        if sample {
            for (index, end) in (known.end..=positions.end).enumerate() {
                let generated = end - prompt_len;
                let token = draw(ends[index], end, generated, sampling, self.info.vocab_size);
                let logprobs = sampling.logprobs.map(|_| logprobs_of(token, end));
                fake.tokens.push(token);
                fake.computed = Some(end);
                outcome.sampled.push(SampledToken { slot, token, logprobs });
                if draft.get(index) != Some(&token) {
                    break;
                }
            }
        }
    }
}

/// What the model generates for a request, and why it ends.
pub fn expected_output(
    prompt: &[TokenId],
    sampling: &SamplingParams,
    tokens_max: u32,
    vocab_size: u32,
) -> (Vec<TokenId>, FinishReason) {
    let mut hash = hash_of(prompt);
    let mut output = Vec::new();
    loop {
        let generated = output.len() as u32;
        let position = prompt.len() as u32 + generated;
        let token = draw(hash, position, generated, sampling, vocab_size);
        output.push(token);
        hash = mix(hash, u64::from(token));
        if sampling.stop_token_ids.contains(&token) {
            return (output, FinishReason::StopToken(token));
        }
        if output.len() as u32 == tokens_max {
            return (output, FinishReason::Length);
        }
    }
}

/// The log-probabilities that the model gives to a token at a position.
pub fn logprobs_of(token: TokenId, position: u32) -> TokenLogprobs {
    let logprob = -((mix(u64::from(token), u64::from(position)) % 1000) as f32) / 100.0;
    TokenLogprobs { token, logprob, top: vec![(token, logprob)] }
}

/// A request with this bit in its seed says the same few tokens over and over, and something else now and then.
pub const REPETITIVE: u64 = 1 << 40;

const START: u64 = 0x9e37_79b9_7f4a_7c15;

fn draw(
    hash: u64,
    position: u32,
    generated: u32,
    sampling: &SamplingParams,
    vocab_size: u32,
) -> TokenId {
    let seeded = if sampling.seed & REPETITIVE != 0 && !position.is_multiple_of(29) {
        mix(sampling.seed, u64::from(position % 5))
    } else {
        mix(mix(hash, sampling.seed), u64::from(position))
    };
    let banned = |token: &TokenId| {
        generated < sampling.tokens_min && sampling.stop_token_ids.contains(token)
    };
    let first = (seeded % u64::from(vocab_size)) as u32;
    let mut candidates = (0..vocab_size).map(|step| (first + step) % vocab_size);
    candidates.find(|token| !banned(token)).unwrap_or(first)
}

fn hash_of(tokens: &[TokenId]) -> u64 {
    tokens.iter().fold(START, |hash, token| mix(hash, u64::from(*token)))
}

fn mix(hash: u64, value: u64) -> u64 {
    let mut mixed = hash.rotate_left(5) ^ value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^= mixed >> 33;
    mixed = mixed.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 29)
}
