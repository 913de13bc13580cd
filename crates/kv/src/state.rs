//! Recurrent states: one block a request, and checkpoints of it that others can begin with.
//!
//! Positions change a state in place, so it cannot be shared while its request goes on. Where a request passes a
//! position at which a checkpoint is due, the state stays behind in its block, and the request goes on in a copy. That
//! block can be found like any other once the step is committed, by all tokens before its position; whoever finds it
//! begins with a copy as well. A plan says which states are copied, before its items.
//!
//! Checkpoints are taken at multiples of what a hit is a multiple of, all groups at the same positions, at least as far
//! apart as the groups say, and only where a block is left for a request that waits. They make room like other blocks
//! that nobody holds, the longest unused first.

use std::{collections::VecDeque, ops::Range};

use serde::{Deserialize, Serialize};
use types::{BlockId, StateCopy, TokenId, planted, planted::Planted};

use crate::{
    BlockPool, BlockTable, BlockTables, KvManager, PrefixKey,
    manager::{chain, tokens_of},
    prefix::Before,
};

/// What a request holds of a group of states besides its own block.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Checkpoints {
    /// The state that its next positions begin with, where that is to be copied to its own block first.
    pub(crate) begin: Option<BlockId>,
    /// States that steps under way leave behind, with their positions.
    pub(crate) under_way: VecDeque<(u32, BlockId)>,
}

impl Checkpoints {
    /// The blocks that are held.
    pub(crate) fn held(&self) -> impl DoubleEndedIterator<Item = BlockId> + '_ {
        self.begin.into_iter().chain(self.under_way.iter().map(|(_, block)| *block))
    }
}

impl KvManager {
    /// For each group, the blocks of `tables` for the next positions of a request, which are handed to a step: they
    /// hold `0..positions.end`, or stand for those that were given back. Of a state it is the one block that has it,
    /// after the copies of states in the plan; with the last position a checkpoint may be taken.
    pub fn hand_out(
        &mut self,
        tables: &mut BlockTables,
        positions: Range<u32>,
    ) -> Vec<Vec<BlockId>> {
        self.begin_states(tables);
        let covering = |(pool, table): (&BlockPool, &BlockTable)| {
            table.blocks[..pool.blocks_for(positions.end) as usize].to_vec()
        };
        let handed = self.pools.iter().zip(&tables.groups).map(covering).collect();
        if self.checkpoint_within(tables, positions.clone()) == Some(positions.end) {
            self.keep_states(tables, positions.end);
        }
        handed
    }

    /// Whether any group holds states.
    pub fn has_states(&self) -> bool {
        self.pools.iter().any(|pool| pool.group().is_state())
    }

    /// Where the next positions of a request should end, so that a checkpoint is taken there.
    pub fn checkpoint_within(&self, tables: &BlockTables, positions: Range<u32>) -> Option<u32> {
        let due = tables.checkpoint.saturating_add(self.checkpoint_tokens?.max(1));
        let end = positions.end - positions.end % self.hit_tokens;
        let mut states = self.pools.iter().filter(|pool| pool.group().is_state());
        let is_due = end > positions.start && end >= due;
        (is_due && states.all(|pool| pool.free() > 1)).then_some(end)
    }

    /// From here on the next positions change the request's own blocks.
    fn begin_states(&mut self, tables: &mut BlockTables) {
        let groups = self.pools.iter_mut().zip(&mut tables.groups).enumerate();
        for (group, (pool, table)) in groups {
            let Some(from) = table.checkpoints.begin.take() else { continue };
            if !planted::strikes(Planted::UncopiedState) {
                let copy = StateCopy { group: group as u32, from, to: table.blocks[0] };
                self.state_copies.push(copy);
            }
            // Plans take effect in order, so it may be used for something else from now on.
            pool.release(from);
        }
    }

    /// The states after a step's positions stay where they are, and the request goes on elsewhere.
    fn keep_states(&mut self, tables: &mut BlockTables, position: u32) {
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            if !pool.group().is_state() {
                continue;
            }
            let next = pool.allocate().expect("the free blocks were counted");
            let kept = std::mem::replace(&mut table.blocks[0], next);
            pool.share(kept);
            table.checkpoints.begin = Some(kept);
            table.checkpoints.under_way.push_back((position, kept));
        }
        tables.checkpoint = position;
    }

    /// Copies of states that the plan made now begins with.
    pub fn take_state_copies(&mut self) -> Vec<StateCopy> {
        std::mem::take(&mut self.state_copies)
    }

    /// Copies of states decided on since they were last taken.
    pub fn state_copies(&self) -> usize {
        self.state_copies.len()
    }
}

impl BlockTable {
    /// Checks what it holds of a state besides its own block. For tests and simulation.
    ///
    /// # Panics
    /// When something does not hold.
    pub(crate) fn invariants(&self, pool: &BlockPool) {
        let Checkpoints { begin, under_way } = &self.checkpoints;
        let is_state = pool.group().is_state();
        assert!(is_state || begin.is_none() && under_way.is_empty(), "a checkpoint of no state");
        assert!(!is_state || self.blocks.len() <= 1 && self.gone == 0, "a request has one state");
        let own = self.blocks.first().filter(|_| is_state);
        let written = own.is_some_and(|own| pool.holders(*own) > 1 || pool.index.knows(*own));
        assert!(!written, "a state that others can find is changed");
        let positions = under_way.iter().map(|(position, _)| position);
        assert!(positions.is_sorted(), "checkpoints are taken in order");
    }
}

impl BlockPool {
    /// Whether a request that is to begin with a checkpoint can have its block for its own: nobody else holds it, and
    /// no other is free.
    pub(crate) fn can_take_over(&self, table: &BlockTable) -> bool {
        let begin = table.checkpoints.begin;
        self.free() == 0 && begin.is_some_and(|begin| self.holders(begin) == 1)
    }

    /// Takes a block for a table: a free one, or that of the checkpoint it begins with, which is one no longer.
    pub(crate) fn allocate_for(&mut self, table: &mut BlockTable) -> Option<BlockId> {
        if self.can_take_over(table)
            && let Some(begin) = table.checkpoints.begin.take()
        {
            // As the only one that is free, it is the one that comes.
            self.release(begin);
        }
        self.allocate()
    }

    /// Lets states be found that steps left behind up to a position, `computed`.
    pub(crate) fn remember_states(
        &mut self,
        table: &mut BlockTable,
        key: &PrefixKey,
        hashes: &[u64],
        tokens: &[TokenId],
        computed: u32,
    ) {
        while let Some((position, block)) = table.checkpoints.under_way.front().copied()
            && position <= computed
        {
            table.checkpoints.under_way.pop_front();
            let nodes = position / self.block_tokens();
            if self.remember_state(block, key, &hashes[..nodes as usize], tokens) {
                table.known = nodes;
            }
            self.release(block);
        }
    }

    /// Lets the state after the tokens that these hashes are of be found in a block that is held. Not if it can be
    /// found already, or if hashes collide.
    fn remember_state(
        &mut self,
        block: BlockId,
        key: &PrefixKey,
        hashes: &[u64],
        tokens: &[TokenId],
    ) -> bool {
        // What has to make room for new nodes may be among those before them.
        let mut known = loop {
            let known = chain(self, hashes, &key.salt, tokens);
            let new = &hashes[known.len()..];
            if new.iter().any(|hash| self.index.find(*hash).is_some()) {
                return false;
            }
            if new.len() <= self.index.room() {
                break known;
            }
            let Some(evicted) = self.index.evict() else { return false };
            self.empty.push(evicted);
        };
        // The last one may be known for the sake of others.
        known.truncate(hashes.len() - 1);
        let before =
            known.last().map_or_else(|| Before::Salt(key.salt.clone()), |node| Before::Node(*node));
        let block_tokens = self.block_tokens();
        let new = hashes.iter().enumerate().skip(known.len()).map(|(index, hash)| {
            ((*hash, key.content(*hash)), tokens_of(tokens, index, block_tokens))
        });
        self.index.insert_far(block, before, new)
    }
}

#[cfg(test)]
mod tests;
