//! Requests by slot, and which of the requests that a slot had in turn is meant.

use types::{SlotAdmission, SlotId, TokenId};

use crate::slot::Slot;

/// The slots of a runner.
pub(super) struct Slots {
    slots: Vec<Option<(Slot, Admission)>>,
    next: u64,
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
        self.slots[place] = Some((Slot::new(admission), Admission(self.next)));
        self.next += 1;
    }

    pub(super) fn release(&mut self, slot: SlotId) {
        self.slots[slot.0 as usize] = None;
    }

    pub(super) fn get(&self, slot: SlotId) -> &Slot {
        &self.held(slot).0
    }

    pub(super) fn admission(&self, slot: SlotId) -> Admission {
        self.held(slot).1
    }

    /// Appends a token that was drawn for a request, if it still has the slot.
    pub(super) fn push(&mut self, slot: SlotId, admission: Admission, token: TokenId) {
        if let Some((held, current)) = &mut self.slots[slot.0 as usize]
            && *current == admission
        {
            held.push(token);
        }
    }

    fn held(&self, slot: SlotId) -> &(Slot, Admission) {
        self.slots[slot.0 as usize].as_ref().expect("the plan admitted this slot")
    }
}
