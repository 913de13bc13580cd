//! Requests by slot, and which of the requests that a slot had in turn is meant.

use types::{SamplingParams, SlotAdmission, SlotId, TokenId};

use crate::slot::Slot;

/// The slots of a runner.
pub(super) struct Slots {
    slots: Vec<Option<Held>>,
    next: u64,
    vocab_size: usize,
}

struct Held {
    slot: Slot,
    admission: Admission,
    biases: Vec<(TokenId, f32)>,
    /// Whether the GPU's counts of its tokens are what they should be.
    is_counted: bool,
}

/// One admission of a request to a slot. A step under way may end after its slot has gone to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission(u64);

impl Slots {
    pub(super) fn new(slots_max: u32, vocab_size: usize) -> Self {
        Self { slots: (0..slots_max).map(|_| None).collect(), next: 0, vocab_size }
    }

    pub(super) fn admit(&mut self, admission: SlotAdmission) {
        let place = admission.slot.0 as usize;
        let (slot, admission) = (Slot::new(admission), Admission(self.next));
        let biases = merged_biases(&slot.sampling, self.vocab_size);
        self.slots[place] = Some(Held { slot, admission, biases, is_counted: false });
        self.next += 1;
    }

    pub(super) fn release(&mut self, slot: SlotId) {
        self.slots[slot.0 as usize] = None;
    }

    pub(super) fn get(&self, slot: SlotId) -> &Slot {
        &self.held(slot).slot
    }

    pub(super) fn admission(&self, slot: SlotId) -> Admission {
        self.held(slot).admission
    }

    /// A request's biases as the GPU takes them.
    pub(super) fn biases(&self, slot: SlotId) -> &[(TokenId, f32)] {
        &self.held(slot).biases
    }

    /// Appends a token that was drawn for a request, if it still has the slot.
    pub(super) fn push(&mut self, slot: SlotId, admission: Admission, token: TokenId) {
        if let Some(held) = &mut self.slots[slot.0 as usize]
            && held.admission == admission
        {
            held.slot.push(token);
        }
    }

    /// Whether the GPU has to count a request's tokens before it draws the next, because penalties depend on them. It
    /// counts those that it draws itself.
    pub(super) fn needs_count(&self, slot: SlotId) -> bool {
        let held = self.held(slot);
        held.slot.occurrences.is_some() && !held.is_counted
    }

    /// Says whether the GPU's counts of a request are what they should be.
    pub(super) fn set_counted(&mut self, slot: SlotId, is_counted: bool) {
        if let Some(held) = &mut self.slots[slot.0 as usize] {
            held.is_counted = is_counted;
        }
    }

    fn held(&self, slot: SlotId) -> &Held {
        self.slots[slot.0 as usize].as_ref().expect("the plan admitted this slot")
    }
}

/// Biases of known tokens, each named once: the GPU adds all at once.
pub(super) fn merged_biases(sampling: &SamplingParams, vocab_size: usize) -> Vec<(TokenId, f32)> {
    let mut biases = sampling.logit_bias.clone();
    biases.retain(|&(token, _)| (token as usize) < vocab_size);
    biases.sort_by_key(|&(token, _)| token);
    biases.dedup_by(|next, kept| {
        let is_same = next.0 == kept.0;
        kept.1 += if is_same { next.1 } else { 0.0 };
        is_same
    });
    biases
}
