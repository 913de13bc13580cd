//! The host's memory as a second tier: what made room in the pool, and can still be found.
//!
//! A content is in one place at a time, so the two tiers hold different ones. What has lain in the host's memory
//! longest goes when it is full. It got there from the pool in the order in which it was let go of, the last of a
//! sequence before its beginning, and so it goes in that order.
//!
//! Who moves what where is decided here at once, and done when the plan under construction is carried out: whatever a
//! later decision relies on has happened by then, since plans and the copies in them are carried out in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::{BlockCopy, BlockId, CopyDirection, HostSlot, planted, planted::Planted};

use crate::prefix::NodeId;

/// The places for blocks' contents in the host's memory, of one cache group.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HostTier {
    slots: u32,
    free: Vec<HostSlot>,
    /// The first so many slots were given out before.
    touched: u32,
    /// What is there, by the time when it came or was last looked for.
    resting: BTreeMap<u64, NodeId>,
    /// What the plan under construction is to copy. Of no group yet.
    copies: Vec<BlockCopy>,
    /// What came after this time is not copied yet.
    copied_until: u64,
}

impl HostTier {
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            slots,
            free: Vec::new(),
            touched: 0,
            resting: BTreeMap::new(),
            copies: Vec::new(),
            copied_until: 0,
        }
    }

    /// A slot that nothing is in.
    pub(crate) fn take_slot(&mut self) -> Option<HostSlot> {
        self.free.pop().or_else(|| {
            (self.touched < self.slots).then(|| {
                self.touched += 1;
                HostSlot(self.touched - 1)
            })
        })
    }

    /// Gives back a slot.
    pub(crate) fn give_back(&mut self, slot: HostSlot) {
        self.free.push(slot);
    }

    /// What has been here longest, which is taken out.
    pub(crate) fn pop_oldest(&mut self) -> Option<(u64, NodeId)> {
        self.resting.pop_first()
    }

    pub(crate) fn rest(&mut self, node: NodeId, time: u64) {
        self.resting.insert(time, node);
    }

    pub(crate) fn wake(&mut self, since: u64) {
        self.resting.remove(&since);
    }

    /// What is here, the oldest first: what is behind something else stands before it.
    pub(crate) fn resting(&self) -> impl DoubleEndedIterator<Item = NodeId> + '_ {
        self.resting.values().copied()
    }

    pub(crate) fn is_at(&self, node: NodeId, since: u64) -> bool {
        self.resting.get(&since) == Some(&node)
    }

    pub(crate) fn copy_out(&mut self, block: BlockId, slot: HostSlot) {
        if !planted::strikes(Planted::ForgottenCopy) {
            let direction = CopyDirection::ToHost;
            self.copies.push(BlockCopy { group: 0, direction, block, slot });
        }
    }

    pub(crate) fn copy_back(&mut self, slot: HostSlot, block: BlockId) {
        let is_wrong = planted::strikes(Planted::WrongHostSlot);
        let slot = if is_wrong { HostSlot((slot.0 + 1) % self.slots) } else { slot };
        self.copies.push(BlockCopy { group: 0, direction: CopyDirection::ToDevice, block, slot });
    }

    /// What came to a slot at a time is dropped: if it is still to be copied, it need not be.
    pub(crate) fn cancel(&mut self, slot: HostSlot, since: u64) {
        if since <= self.copied_until {
            return;
        }
        let last = self.copies.iter().rposition(|copy| copy.slot == slot);
        if let Some(last) = last.filter(|at| self.copies[*at].direction == CopyDirection::ToHost) {
            self.copies.remove(last);
        }
    }

    /// Copies decided on since they were last taken.
    pub(crate) fn copies(&self) -> u32 {
        self.copies.len() as u32
    }

    /// What is to be copied, for a plan that is made at this time.
    pub(crate) fn take_copies(&mut self, time: u64) -> Vec<BlockCopy> {
        self.copied_until = time;
        std::mem::take(&mut self.copies)
    }

    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    pub(crate) fn used(&self) -> u32 {
        self.resting.len() as u32
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.free.clear();
        self.touched = 0;
        self.resting.clear();
        self.copies.clear();
    }

    /// Checks the tier against the slots that something is in.
    ///
    /// # Panics
    /// When something does not hold.
    pub(crate) fn invariants(&self, used: impl Iterator<Item = HostSlot>) {
        let mut is_taken = vec![false; self.touched as usize];
        for slot in used.chain(self.free.iter().copied()) {
            let place = &mut is_taken[slot.0 as usize];
            assert!(!std::mem::replace(place, true), "{slot} is used twice, or used and free");
        }
        assert!(is_taken.iter().all(|is_taken| *is_taken), "a slot is lost");
        assert!(self.touched <= self.slots, "a slot does not exist");
    }
}
