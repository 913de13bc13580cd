//! Who runs where.

use std::collections::BTreeMap;

use queue::Rank;
use serde::{Deserialize, Serialize};
use types::{RequestId, SlotId, planted, planted::Planted};

use crate::sequence::Running;

/// The executor's slots and the requests in them, found by slot, by id and in order of rank.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Slots {
    slots: Vec<Option<Running>>,
    free: Vec<SlotId>,
    by_rank: BTreeMap<Rank, SlotId>,
    by_id: BTreeMap<RequestId, SlotId>,
    /// Slots emptied since the last plan, of which the executor is still to be told.
    released: Vec<SlotId>,
}

impl Slots {
    pub(crate) fn new(slots_max: u32) -> Self {
        Self {
            slots: (0..slots_max).map(|_| None).collect(),
            free: (0..slots_max).rev().map(SlotId).collect(),
            by_rank: BTreeMap::new(),
            by_id: BTreeMap::new(),
            released: Vec::new(),
        }
    }

    /// Puts a request into a free slot, if there is one.
    pub(crate) fn insert(&mut self, running: Running) -> Option<SlotId> {
        let slot = self.free.pop()?;
        self.by_rank.insert(running.ticket.rank, slot);
        self.by_id.insert(running.ticket.id, slot);
        self.slots[slot.0 as usize] = Some(running);
        Some(slot)
    }

    /// Takes a request out; the next plan tells the executor.
    pub(crate) fn remove(&mut self, slot: SlotId) -> Option<Running> {
        let running = self.slots[slot.0 as usize].take()?;
        self.by_rank.remove(&running.ticket.rank);
        self.by_id.remove(&running.ticket.id);
        self.free.push(slot);
        if !planted::strikes(Planted::UntoldRelease) {
            self.released.push(slot);
        }
        Some(running)
    }

    pub(crate) fn get(&self, slot: SlotId) -> Option<&Running> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: SlotId) -> Option<&mut Running> {
        self.slots[slot.0 as usize].as_mut()
    }

    pub(crate) fn of(&self, id: RequestId) -> Option<SlotId> {
        self.by_id.get(&id).copied()
    }

    /// The slots in use, the lowest rank first.
    pub(crate) fn in_order(&self) -> Vec<SlotId> {
        self.by_rank.values().copied().collect()
    }

    /// The slot of the highest rank.
    pub(crate) fn last(&self) -> Option<SlotId> {
        self.by_rank.last_key_value().map(|(_, slot)| *slot)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotId, &Running)> + Clone {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            slot.as_ref().map(|running| (SlotId(index as u32), running))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.by_rank.len()
    }

    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    pub(crate) fn take_released(&mut self) -> Vec<SlotId> {
        std::mem::take(&mut self.released)
    }

    pub(crate) fn invariants(&self) {
        assert_eq!(self.free.len() + self.len(), self.slots.len(), "free and used are all slots");
        assert_eq!(self.by_id.len(), self.by_rank.len(), "ids and ranks differ");
        for slot in &self.free {
            assert!(self.get(*slot).is_none(), "{slot} is free and used");
        }
        for (rank, slot) in &self.by_rank {
            let running = self.get(*slot).expect("a ranked slot is used");
            assert_eq!(running.ticket.rank, *rank, "{slot} has another rank");
            assert_eq!(self.of(running.ticket.id), Some(*slot), "{slot} is not found by id");
        }
    }
}
