//! The blocks of one cache group.

use serde::{Deserialize, Serialize};
use types::{BlockId, CacheGroup, planted, planted::Planted};

use crate::{
    BlockTable,
    prefix::{NodeId, PrefixIndex},
};

/// The blocks of one cache group: empty ones in a list, held ones with the number of their holders, those that nobody
/// holds but that can still be found by the tokens in them, and fresh ones. What made room may still be found in the
/// host's memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct BlockPool {
    group: CacheGroup,
    holders: Vec<u32>,
    /// A stack, so that the block given out next is the one whose memory was touched last.
    pub(crate) empty: Vec<BlockId>,
    /// The first so many blocks were given out before; the others are fresh, and may have no memory yet.
    touched: u32,
    /// As many blocks come into use before a cached one is dropped.
    kept: u32,
    pub(crate) index: PrefixIndex,
}

impl BlockPool {
    /// A pool with all blocks free.
    pub fn new(group: &CacheGroup) -> Self {
        Self {
            group: group.clone(),
            holders: vec![0; group.blocks as usize],
            empty: Vec::new(),
            touched: 0,
            kept: group.blocks_kept.min(group.blocks),
            index: PrefixIndex::new(group),
        }
    }

    /// Takes a free block, held once: an empty one, a fresh one while there are few in use, the one that has been of no
    /// use longest, or a fresh one after all.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = match self.empty.pop() {
            Some(block) => block,
            None if self.touched < self.kept => self.take_fresh()?,
            None => self.index.evict().or_else(|| self.take_fresh())?,
        };
        self.holders[block.0 as usize] = 1;
        Some(block)
    }

    /// How many contents move to the host's memory when so many blocks are taken.
    pub(crate) fn moves_for(&self, blocks: u32) -> u32 {
        let without = self.empty.len() as u32 + self.kept.saturating_sub(self.touched);
        match self.index.host.slots() {
            0 => 0,
            _ => blocks.saturating_sub(without).min(self.index.idle()),
        }
    }

    /// Empties so many blocks of what has been of no use longest, or all there are.
    pub(crate) fn make_room(&mut self, blocks: u32) {
        let evicted = (0..blocks).map_while(|_| self.index.evict());
        self.empty.extend(evicted);
    }

    fn take_fresh(&mut self) -> Option<BlockId> {
        (self.touched < self.total()).then(|| {
            self.touched += 1;
            BlockId(self.touched - 1)
        })
    }

    /// One more holder of a block that is held, or that is known by its tokens.
    ///
    /// # Panics
    /// When it is neither.
    pub fn share(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.0 as usize];
        if *holders == 0 {
            assert!(self.index.knows(block), "{block} is shared but free");
            self.index.wake(block);
        } else if planted::strikes(Planted::UncountedHolder) {
            return;
        }
        *holders += 1;
    }

    /// One holder less; the last one frees the block.
    ///
    /// # Panics
    /// When nobody holds the block.
    pub fn release(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.0 as usize];
        assert!(*holders > 0, "{block} is released but free");
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        if self.index.knows(block) {
            self.index.rest(block);
        } else if !planted::strikes(Planted::LeakedBlock) {
            let twice = planted::strikes(Planted::BlockFreedTwice);
            self.empty.extend(twice.then_some(block));
            self.empty.push(block);
        }
    }

    /// Has the content of a node where a table has its first block that nothing was computed in: the content is brought
    /// there from the host's memory, or the block that has it takes that one's place.
    pub(crate) fn bring_back(&mut self, table: &mut BlockTable, node: NodeId) {
        let place = &mut table.blocks[table.known as usize];
        match self.index.block_of(node) {
            Some(block) => {
                let own = std::mem::replace(place, block);
                self.share(block);
                self.release(own);
            }
            None => self.index.bring_back(node, *place),
        }
        table.known += 1;
        table.found += 1;
    }

    /// Makes room for one more node, by dropping what has been of no use longest. Says whether there is any.
    pub(crate) fn has_node_room(&mut self) -> bool {
        while self.index.room() == 0 {
            let Some(block) = self.index.evict() else { return false };
            self.empty.push(block);
        }
        true
    }

    /// Forgets what nobody holds of nodes of one sequence, in order, that may be wrong: from the last one on until one
    /// that somebody holds, or has built on.
    pub(crate) fn forget_idle(&mut self, nodes: &[NodeId]) {
        for node in nodes.iter().rev() {
            let Some(block) = self.index.take_idle(*node) else { break };
            self.empty.extend(block);
        }
    }

    /// Makes all blocks fresh, of which none is held.
    pub(crate) fn forget_all(&mut self) {
        if planted::strikes(Planted::StaleCache) {
            return;
        }
        self.index.clear();
        self.empty.clear();
        self.touched = 0;
    }

    /// How many hold a block.
    pub(crate) fn holders(&self, block: BlockId) -> u32 {
        self.holders[block.0 as usize]
    }

    /// What the group is.
    pub fn group(&self) -> &CacheGroup {
        &self.group
    }

    /// Blocks that hold `positions` positions.
    pub fn blocks_for(&self, positions: u32) -> u32 {
        self.group.blocks_for(positions)
    }

    /// Positions a block holds.
    pub fn block_tokens(&self) -> u32 {
        self.group.block_tokens
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> u32 {
        self.empty.len() as u32 + self.index.idle() + self.total() - self.touched
    }

    /// Blocks that were given out at least once since all were fresh.
    pub fn touched(&self) -> u32 {
        self.touched
    }

    /// Blocks that nobody holds and that can be found by the tokens in them.
    pub fn cached(&self) -> u32 {
        self.index.idle()
    }

    /// Contents in the host's memory, and for how many there is room.
    pub fn host_blocks(&self) -> (u32, u32) {
        (self.index.host.used(), self.index.host.slots())
    }

    /// All blocks.
    pub fn total(&self) -> u32 {
        self.holders.len() as u32
    }

    /// Checks the pool against the references that exist to its blocks. For tests and simulation.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn invariants(&self, references: impl IntoIterator<Item = BlockId>) {
        let mut expected = vec![0; self.holders.len()];
        for block in references {
            expected[block.0 as usize] += 1;
        }
        assert_eq!(self.holders, expected, "holders counted and references that exist");
        let mut is_empty = vec![false; self.holders.len()];
        for block in &self.empty {
            assert!(!is_empty[block.0 as usize], "{block} is free twice");
            assert_eq!(self.holders[block.0 as usize], 0, "{block} is free and held");
            assert!(!self.index.knows(*block), "{block} is empty and known");
            is_empty[block.0 as usize] = true;
        }
        let fresh = self.touched as usize..;
        assert!(is_empty[fresh.clone()].iter().all(|is_empty| !is_empty), "a fresh block is empty");
        assert!(self.holders[fresh].iter().all(|holders| *holders == 0), "a fresh block is held");
        let held = self.holders.iter().filter(|holders| **holders > 0).count();
        assert_eq!(self.free() as usize + held, self.holders.len(), "free and held are all blocks");
        self.index.invariants(&self.holders);
    }
}
