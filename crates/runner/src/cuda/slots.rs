//! Requests by slot, and which of the requests that a slot had in turn is meant.

use types::{SlotAdmission, SlotId, TokenId};

use crate::slot::Slot;

/// The slots of a runner.
pub(super) struct Slots {
    slots: Vec<Option<Held>>,
    next: u64,
}

struct Held {
    slot: Slot,
    admission: Admission,
    /// Whether the GPU's counts of its tokens are what they should be.
    is_counted: bool,
}

/// One admission of a request to a slot. A step under way may end after its slot has gone to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission(u64);

impl Slots {
    pub(super) fn new(slots_max: u32) -> Self {
        Self { slots: (0..slots_max).map(|_| None).collect(), next: 0 }
    }

    pub(super) fn admit(&mut self, admission: SlotAdmission) {
        let place = admission.slot.0 as usize;
        let (slot, admission) = (Slot::new(admission), Admission(self.next));
        self.slots[place] = Some(Held { slot, admission, is_counted: false });
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
