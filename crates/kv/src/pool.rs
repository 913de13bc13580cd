//! The blocks of one cache group.

use types::{BlockId, CacheGroup};

/// The blocks of one cache group: free ones in a list, held ones with the number of their holders.
#[derive(Debug)]
pub struct BlockPool {
    block_tokens: u32,
    holders: Vec<u32>,
    /// A stack, so that the block given out next is the one whose memory was touched last.
    free: Vec<BlockId>,
}

impl BlockPool {
    /// A pool with all blocks free.
    pub fn new(group: &CacheGroup) -> Self {
        Self {
            block_tokens: group.block_tokens,
            holders: vec![0; group.blocks as usize],
            free: (0..group.blocks).rev().map(BlockId).collect(),
        }
    }

    /// Takes a free block, held once.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = self.free.pop()?;
        self.holders[block.0 as usize] = 1;
        Some(block)
    }

    /// One more holder of a held block.
    ///
    /// # Panics
    /// When nobody holds the block.
    pub fn share(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.0 as usize];
        assert!(*holders > 0, "{block} is shared but free");
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
        if *holders == 0 {
            self.free.push(block);
        }
    }

    /// Blocks that hold `positions` positions.
    pub fn blocks_for(&self, positions: u32) -> u32 {
        positions.div_ceil(self.block_tokens)
    }

    /// Positions a block holds.
    pub fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> u32 {
        self.free.len() as u32
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
        let mut is_free = vec![false; self.holders.len()];
        for block in &self.free {
            assert!(!is_free[block.0 as usize], "{block} is free twice");
            assert_eq!(self.holders[block.0 as usize], 0, "{block} is free and held");
            is_free[block.0 as usize] = true;
        }
        let held = self.holders.iter().filter(|holders| **holders > 0).count();
        assert_eq!(self.free.len() + held, self.holders.len(), "free and held are all blocks");
    }
}
