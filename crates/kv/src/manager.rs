//! The pools of all cache groups together.

use types::{BlockId, CacheGroup};

use crate::{BlockPool, BlockTable, BlockTables};

/// Why a KV cache cannot be managed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A cache group has no room at all.
    #[error(
        "cache group {group} has {blocks} blocks of {block_tokens} positions: neither may be 0"
    )]
    EmptyGroup {
        /// Which group.
        group: usize,
        /// Its blocks.
        blocks: u32,
        /// Positions of each.
        block_tokens: u32,
    },
}

/// A cache group has too few free blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Which group.
    pub group: usize,
    /// Blocks wanted.
    pub wanted: u32,
    /// Blocks free.
    pub free: u32,
}

/// The KV cache of one executor.
#[derive(Debug)]
pub struct KvManager {
    pools: Vec<BlockPool>,
}

impl KvManager {
    /// A cache of these groups, all free. A model without a cache has none.
    pub fn new(groups: &[CacheGroup]) -> Result<Self, Error> {
        for (group, &CacheGroup { blocks, block_tokens }) in groups.iter().enumerate() {
            if blocks == 0 || block_tokens == 0 {
                return Err(Error::EmptyGroup { group, blocks, block_tokens });
            }
        }
        Ok(Self { pools: groups.iter().map(BlockPool::new).collect() })
    }

    /// Tables that hold nothing yet.
    pub fn tables(&self) -> BlockTables {
        BlockTables { groups: self.pools.iter().map(|_| BlockTable::default()).collect() }
    }

    /// Makes `tables` hold at least `positions` positions, or changes nothing.
    pub fn grow(&mut self, tables: &mut BlockTables, positions: u32) -> Result<(), Shortage> {
        for (group, (pool, table)) in self.pools.iter().zip(&tables.groups).enumerate() {
            let wanted = pool.blocks_for(positions).saturating_sub(table.blocks.len() as u32);
            if wanted > pool.free() {
                return Err(Shortage { group, wanted, free: pool.free() });
            }
        }
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            while (table.blocks.len() as u32) < pool.blocks_for(positions) {
                table.blocks.push(pool.allocate().expect("the free blocks were counted above"));
            }
        }
        Ok(())
    }

    /// Gives back all blocks of `tables`.
    pub fn release(&mut self, tables: BlockTables) {
        for (pool, table) in self.pools.iter_mut().zip(tables.groups) {
            // Backwards, so that a request that comes next gets the blocks in their order.
            for block in table.blocks.into_iter().rev() {
                pool.release(block);
            }
        }
    }

    /// For each group, the blocks of `tables` that hold `0..positions`.
    pub fn covering(&self, tables: &BlockTables, positions: u32) -> Vec<Vec<BlockId>> {
        let covering = |(pool, table): (&BlockPool, &BlockTable)| {
            table.blocks[..pool.blocks_for(positions) as usize].to_vec()
        };
        self.pools.iter().zip(&tables.groups).map(covering).collect()
    }

    /// The pool of each group.
    pub fn pools(&self) -> &[BlockPool] {
        &self.pools
    }

    /// Blocks held, over all groups.
    pub fn blocks_used(&self) -> u64 {
        self.pools.iter().map(|pool| u64::from(pool.total() - pool.free())).sum()
    }

    /// All blocks, over all groups.
    pub fn blocks_total(&self) -> u64 {
        self.pools.iter().map(|pool| u64::from(pool.total())).sum()
    }

    /// Checks the pools against all tables that exist. For tests and simulation.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn invariants<'a>(&self, tables: impl Iterator<Item = &'a BlockTables> + Clone) {
        for (group, pool) in self.pools.iter().enumerate() {
            pool.invariants(tables.clone().flat_map(|tables| tables.groups[group].blocks.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
