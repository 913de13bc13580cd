//! The pools of all cache groups together.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use types::{
    BlockCopy, BlockId, CacheContent, CacheGroup, StateCopy, TokenId, planted, planted::Planted,
};

use crate::{
    BlockPool, BlockTable, BlockTables, PrefixKey,
    prefix::{Before, NodeId},
};

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
    /// A cache group sees nothing.
    #[error("cache group {group} has a window of 0 positions: a position sees itself at least")]
    EmptyWindow {
        /// Which group.
        group: usize,
    },
    /// Only a group that keeps everything has a tier in the host's memory, and a hit is in one place in all groups.
    #[error(
        "cache group {group} has {host_blocks} blocks in the host's memory: 0 where any group has a window or a state"
    )]
    HostBesideGaps {
        /// Which group.
        group: usize,
        /// Its blocks in the host's memory.
        host_blocks: u32,
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

/// What the cache has of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// The first positions of the sequence, whole blocks in every group, wherever they are.
    pub positions: u32,
    /// For each group, how many of the blocks wanted of them somebody holds: the others are among the free ones, or
    /// their contents are in the host's memory. Wanted are those that the next position sees; of a state none, as a
    /// request goes on in a copy of it.
    pub held: Vec<u32>,
}

/// What a sequence found when it was to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The first positions, whose blocks it has now.
    pub positions: u32,
    /// Positions after those that are in the host's memory, some of them or all: to be brought back or computed again.
    pub on_host: u32,
}

/// Why no more of a sequence was found in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Miss {
    /// Nothing is to be found at all.
    Off,
    /// The request wants its positions computed.
    Unwanted,
    /// All whole blocks were found; the rest is less than one.
    BelowBlock,
    /// It was there and had to make room for others, not long ago.
    Evicted,
    /// It is in the host's memory, and computed again sooner than copied from there.
    HostSlower,
    /// More is known, but there is no recurrent state to go on with: none was left there, or it made room.
    NoCheckpoint,
    /// The same tokens are there with another salt. Whoever may not know of other salts must not be told.
    OtherSalt,
    /// Nobody has computed these tokens, or too long ago.
    Unknown,
}

/// The KV cache of one executor.
#[derive(Debug, Serialize, Deserialize)]
pub struct KvManager {
    pub(crate) pools: Vec<BlockPool>,
    /// A hit is a multiple of this many positions, so that it ends with a block in every group.
    pub(crate) hit_tokens: u32,
    finds_prefixes: bool,
    /// Checkpoints of states are at least this far apart. Nothing where there are no states, or nothing is to be found.
    pub(crate) checkpoint_tokens: Option<u32>,
    /// What the plan under construction is to copy.
    pub(crate) state_copies: Vec<StateCopy>,
}

impl KvManager {
    /// A cache of these groups, all free. A model without a cache has none. Without `finds_prefixes`, every request
    /// computes all of its positions.
    pub fn new(groups: &[CacheGroup], finds_prefixes: bool) -> Result<Self, Error> {
        let has_gaps = groups.iter().any(|group| !group.keeps_everything());
        for (group, limits) in groups.iter().enumerate() {
            let &CacheGroup { blocks, block_tokens, host_blocks, content, .. } = limits;
            if blocks == 0 || block_tokens == 0 {
                return Err(Error::EmptyGroup { group, blocks, block_tokens });
            }
            if content == CacheContent::Window(0) {
                return Err(Error::EmptyWindow { group });
            }
            if has_gaps && host_blocks > 0 {
                return Err(Error::HostBesideGaps { group, host_blocks });
            }
        }
        let hit_tokens = groups
            .iter()
            .fold(1, |tokens, group| least_common_multiple(tokens, u64::from(group.block_tokens)));
        let apart = |group: &CacheGroup| match group.content {
            CacheContent::State(apart) => Some(apart),
            CacheContent::Everything | CacheContent::Window(_) => None,
        };
        let checkpoint_tokens = groups.iter().filter_map(apart).max();
        Ok(Self {
            pools: groups.iter().map(BlockPool::new).collect(),
            hit_tokens: hit_tokens.try_into().unwrap_or(u32::MAX),
            finds_prefixes,
            checkpoint_tokens: checkpoint_tokens.filter(|_| finds_prefixes),
            state_copies: Vec::new(),
        })
    }

    /// What a sequence of these tokens is found by.
    pub fn key(&self, salt: Arc<str>, tokens: &[TokenId]) -> PrefixKey {
        let groups = if self.finds_prefixes { self.pools.len() } else { 0 };
        let salt = if planted::strikes(Planted::IgnoredSalt) { "".into() } else { salt };
        let mut key = PrefixKey::new(salt, groups);
        self.extend(&mut key, tokens);
        key
    }

    fn extend(&self, key: &mut PrefixKey, tokens: &[TokenId]) {
        for group in 0..key.groups.len() {
            key.extend(group, self.pools[group].block_tokens(), tokens);
        }
    }

    /// What the cache seems to have of the first `positions_max` positions of a sequence, by their hashes alone: what
    /// [`take`](Self::take) gets, unless hashes collide.
    pub fn find(&self, key: &PrefixKey, positions_max: u32) -> Hit {
        let groups = || self.pools.iter().zip(&key.groups);
        let known = |(pool, hashes): (&BlockPool, &Vec<u64>)| {
            // The block before a known one is known.
            let blocks = hashes.partition_point(|hash| pool.index.find(*hash).is_some());
            blocks as u32 * pool.block_tokens()
        };
        let is_there = |group: usize, block: usize| {
            let index = &self.pools[group].index;
            index.find(key.groups[group][block]).is_some_and(|node| !index.is_nowhere(node))
        };
        let positions = self.hit_within(groups().map(known), positions_max, is_there);
        let held = |(pool, hashes): (&BlockPool, &Vec<u64>)| {
            let hit = &hashes[wanted(pool, positions)];
            let is_held = |hash: &u64| {
                let block = pool.index.find(*hash).and_then(|node| pool.index.block_of(node));
                block.is_some_and(|block| pool.holders(block) > 0)
            };
            match pool.group().content {
                CacheContent::Everything => hit.partition_point(is_held) as u32,
                CacheContent::Window(_) => hit.iter().filter(|hash| is_held(hash)).count() as u32,
                CacheContent::State(_) => 0,
            }
        };
        Hit { positions, held: groups().map(held).collect() }
    }

    /// Why a sequence found no more than `positions` of its first `positions_max` positions; nothing if these are all.
    pub fn miss(&self, key: &PrefixKey, positions: u32, positions_max: u32) -> Option<Miss> {
        if positions >= positions_max || self.pools.is_empty() {
            return None;
        }
        if !self.finds_prefixes {
            return Some(Miss::Off);
        }
        let next = positions.saturating_add(self.hit_tokens);
        if next > positions_max {
            return Some(Miss::BelowBlock);
        }
        let missing = |(pool, hashes): (&BlockPool, &Vec<u64>)| {
            let block = |position: u32| (position / pool.block_tokens()) as usize;
            let wanted = &hashes[block(positions)..block(next)];
            wanted.iter().copied().find(|hash| pool.index.find(*hash).is_none())
        };
        let (states, others): (Vec<_>, Vec<_>) =
            self.pools.iter().zip(&key.groups).partition(|(pool, _)| pool.group().is_state());
        let mut groups = others.iter().chain(&states);
        Some(match groups.find_map(|group| missing(*group).map(|hash| (group.0, hash))) {
            Some((pool, hash)) if pool.index.was_evicted(hash) => Miss::Evicted,
            Some((pool, hash)) if pool.index.has_content(key.content(hash)) => Miss::OtherSalt,
            Some((pool, _)) if pool.group().is_state() && !others.is_empty() => Miss::NoCheckpoint,
            None if !states.is_empty() => Miss::NoCheckpoint,
            // What was there is known for the sake of what comes after it, and is nowhere any more.
            None if self.has_windows() => Miss::Evicted,
            _ => Miss::Unknown,
        })
    }

    /// How many of its first `positions_max` positions a sequence will find when all steps under way of `one` are
    /// committed, which has `tables`, as far as hashes tell; where states are no matter, when all of `one` is computed.
    pub fn to_come(
        &self,
        (tables, one): (&BlockTables, &PrefixKey),
        other: &PrefixKey,
        positions_max: u32,
    ) -> u32 {
        let lists = self.pools.iter().zip(one.groups.iter().zip(&other.groups));
        let common = lists.map(|(pool, (one, other))| {
            let pairs: u32 = one.len().min(other.len()) as u32;
            // Where a hash is the same, all before it are.
            let blocks =
                partition_point(pairs, |block| one[block as usize] == other[block as usize]);
            blocks * pool.block_tokens()
        });
        let common = self.hit(common, positions_max);
        let states = tables.groups.iter().zip(&self.pools).filter(|(_, p)| p.group().is_state());
        let left_behind = |table: &BlockTable| {
            let mut positions = table.checkpoints.under_way.iter().map(|(position, _)| *position);
            positions.rfind(|position| *position <= common).unwrap_or(0)
        };
        states.map(|(table, _)| left_behind(table)).min().unwrap_or(common)
    }

    fn hit(&self, positions: impl Iterator<Item = u32>, positions_max: u32) -> u32 {
        let whole = positions.min().unwrap_or(0).min(positions_max);
        whole - whole % self.hit_tokens
    }

    /// The same where of a group that does not keep everything only those blocks must be there that the next position
    /// needs: `is_there` says it of a group's block.
    fn hit_within(
        &self,
        known: impl Iterator<Item = u32>,
        positions_max: u32,
        is_there: impl Fn(usize, usize) -> bool,
    ) -> u32 {
        let mut positions = self.hit(known, positions_max);
        let of_kind = |is_kind: fn(&CacheGroup) -> bool| {
            self.pools.iter().enumerate().filter(move |(_, pool)| is_kind(pool.group()))
        };
        loop {
            // One block of a state is sooner seen than all of a window.
            let states = of_kind(CacheGroup::is_state);
            let mut partial = states.chain(of_kind(|group| group.window().is_some()));
            let missing = partial.find_map(|(group, pool)| {
                let block = wanted(pool, positions).rev().find(|block| !is_there(group, *block))?;
                Some(block as u32 * pool.block_tokens())
            });
            // Every hit from there on up to this one wants that block as well.
            let Some(end) = missing else { return positions };
            positions = end - end % self.hit_tokens;
        }
    }

    /// Puts the blocks that hold the first positions of a sequence, at most `positions_max`, into `tables`, which are
    /// empty. How many positions those are, and how many more could be brought back from the host's memory.
    pub fn take(
        &mut self,
        tables: &mut BlockTables,
        key: &PrefixKey,
        tokens: &[TokenId],
        positions_max: u32,
    ) -> Found {
        let chains: Vec<Vec<NodeId>> = self
            .pools
            .iter()
            .zip(&key.groups)
            .map(|(pool, hashes)| chain(pool, hashes, &key.salt, tokens))
            .collect();
        let groups = || chains.iter().zip(&self.pools);
        let known = groups().map(|(chain, pool)| chain.len() as u32 * pool.block_tokens());
        let all = self.hit_within(known, positions_max, |group, block| {
            !self.pools[group].index.is_nowhere(chains[group][block])
        });
        // Nothing is in the host's memory where not everything is kept.
        let full = groups().filter(|(_, pool)| pool.group().keeps_everything());
        let in_pool = full.map(|(chain, pool)| {
            let blocks = chain.partition_point(|node| pool.index.block_of(*node).is_some());
            blocks as u32 * pool.block_tokens()
        });
        let positions = self.hit(in_pool.chain([all]), all);
        for ((pool, table), chain) in self.pools.iter_mut().zip(&mut tables.groups).zip(&chains) {
            assert!(table.blocks.is_empty(), "a hit is at the beginning");
            let [taken, all] = [positions, all].map(|end| (end / pool.block_tokens()) as usize);
            let wanted = wanted(pool, positions);
            let block_of = |node: &NodeId| pool.index.block_of(*node).expect("it is in the pool");
            if pool.group().is_state() {
                table.checkpoints.begin = chain[wanted].last().map(block_of);
            } else {
                table.gone = wanted.start as u32;
                table.blocks.resize(wanted.start, BlockId::GONE);
                table.blocks.extend(chain[wanted].iter().map(block_of));
            }
            table.held().for_each(|block| pool.share(block));
            table.known = taken as u32;
            table.found = table.known;
            pool.index.touch(&chain[taken..all]);
        }
        tables.checkpoint = positions;
        Found { positions, on_host: all - positions }
    }

    /// Has what [`take`](Self::take) left in the host's memory brought back, into blocks that `tables` have: as far as
    /// it is still there up to `end`, and copies fewer than `blocks_max` blocks besides those that must come together.
    /// How many more positions the tables hold now.
    ///
    /// # Panics
    /// When something was computed in these blocks, or `tables` lack some.
    pub fn bring_back(
        &mut self,
        tables: &mut BlockTables,
        key: &PrefixKey,
        tokens: &[TokenId],
        end: u32,
        blocks_max: u32,
    ) -> u32 {
        let Some((pool, table)) = self.pools.first().zip(tables.groups.first()) else { return 0 };
        let begin = table.found * pool.block_tokens();
        let (mut position, copied_max) = (begin, self.copies().saturating_add(blocks_max));
        while position + self.hit_tokens <= end && self.copies() < copied_max {
            let next = position + self.hit_tokens;
            let groups = self.pools.iter().zip(&tables.groups).zip(&key.groups);
            let nodes = groups.map(|((pool, table), hashes)| {
                let blocks = position / pool.block_tokens()..next / pool.block_tokens();
                assert_eq!((table.known, table.found), (blocks.start, blocks.start), "computed");
                let before = blocks.start.checked_sub(1).map(|last| table.blocks[last as usize]);
                let before = pool.index.after(before, &key.salt);
                let blocks = blocks.start as usize..blocks.end as usize;
                let nodes = links(pool, &hashes[..blocks.end], blocks.start, before, tokens);
                (nodes.len() == blocks.len()).then_some(nodes)
            });
            let Some(nodes) = nodes.collect::<Option<Vec<_>>>() else { break };
            let groups = self.pools.iter_mut().zip(&mut tables.groups).zip(nodes);
            for ((pool, table), nodes) in groups {
                nodes.into_iter().for_each(|node| pool.bring_back(table, node));
            }
            position = next;
        }
        position - begin
    }

    /// Copies between the pools and the host's memory that were decided on since they were last taken.
    pub fn copies(&self) -> u32 {
        self.pools.iter().map(|pool| pool.index.host.copies()).sum()
    }

    /// What the plan that is made now has to copy.
    pub fn take_copies(&mut self) -> Vec<BlockCopy> {
        let of_group = |(group, pool): (usize, &mut BlockPool)| {
            let copies = pool.index.take_copies().into_iter();
            copies.map(move |copy| BlockCopy { group: group as u32, ..copy })
        };
        self.pools.iter_mut().enumerate().flat_map(of_group).collect()
    }

    /// How many blocks hold so many positions, over all groups.
    pub fn blocks_of(&self, positions: u32) -> u32 {
        self.pools.iter().map(|pool| pool.blocks_for(positions)).sum()
    }

    /// Lets the whole blocks of the first `computed` positions of a sequence be found; `key` grows with its tokens.
    /// Where others hold the same already, theirs take the place of its own.
    pub fn remember(
        &mut self,
        tables: &mut BlockTables,
        key: &mut PrefixKey,
        tokens: &[TokenId],
        computed: u32,
    ) {
        self.extend(key, tokens);
        for ((pool, table), hashes) in
            self.pools.iter_mut().zip(&mut tables.groups).zip(&key.groups)
        {
            if pool.group().is_state() {
                pool.remember_states(table, key, hashes, tokens, computed);
                continue;
            }
            let whole = ((computed / pool.block_tokens()) as usize).min(hashes.len());
            while !table.closed && (table.known as usize) < whole {
                let index = table.known as usize;
                let before = index.checked_sub(1).map(|last| table.blocks[last]);
                let before = pool.index.after(before, &key.salt);
                let tokens = tokens_of(tokens, index, pool.block_tokens());
                let hash = (hashes[index], key.content(hashes[index]));
                if let Some(same) = pool.index.same(hash.0, &before, tokens) {
                    let own = std::mem::replace(&mut table.blocks[index], same);
                    pool.share(same);
                    pool.release(own);
                } else if !pool.has_node_room()
                    || !pool.index.insert(hash, table.blocks[index], before, tokens)
                {
                    table.closed = true;
                    break;
                }
                table.known += 1;
            }
        }
    }

    /// Gives back all blocks of `tables` and forgets what was computed there, as it may be wrong: except where others
    /// have built on it. `key` and `tokens` are those of the sequence.
    pub fn release_spoilt(&mut self, tables: BlockTables, key: &PrefixKey, tokens: &[TokenId]) {
        let mut spoilt = Vec::new();
        for (group, (pool, table)) in self.pools.iter_mut().zip(&tables.groups).enumerate() {
            if !pool.group().keeps_everything() {
                // Some of them it does not hold any more.
                let known = key.groups.get(group).map_or(&[][..], |k| &k[..table.known as usize]);
                let mut nodes = chain(pool, known, &key.salt, tokens);
                nodes.drain(..nodes.len().min(table.found as usize));
                spoilt.push((group, nodes));
                continue;
            }
            for block in table.blocks[table.found as usize..table.known as usize].iter().rev() {
                if pool.holders(*block) > 1 {
                    break;
                }
                // It may stand behind this one since before this one was computed again.
                pool.index.forget_behind(*block);
                if pool.index.has_children(*block) {
                    break;
                }
                pool.index.remove(*block);
            }
        }
        self.release(tables);
        for (group, nodes) in spoilt {
            self.pools[group].forget_idle(&nodes);
        }
    }

    /// Forgets what is in the blocks: the executor lost it.
    ///
    /// # Panics
    /// When a request still holds blocks.
    pub fn forget_all(&mut self) {
        assert_eq!(self.blocks_used(), 0, "nobody holds a block of an executor that is lost");
        self.pools.iter_mut().for_each(BlockPool::forget_all);
    }

    /// Tables that hold nothing yet.
    pub fn tables(&self) -> BlockTables {
        let groups = self.pools.iter().map(|_| BlockTable::default()).collect();
        BlockTables { groups, checkpoint: 0 }
    }

    /// Makes `tables` hold at least `positions` positions, or changes nothing.
    pub fn grow(&mut self, tables: &mut BlockTables, positions: u32) -> Result<(), Shortage> {
        self.grow_to(tables, |_| positions)
    }

    /// Makes `tables` hold all `len` positions of a request that starts, or changes nothing. Where there is a window,
    /// they hold `positions` of them: the others come as those before are given back.
    pub fn grow_to_start(
        &mut self,
        tables: &mut BlockTables,
        positions: u32,
        len: u32,
    ) -> Result<(), Shortage> {
        self.grow_to(tables, |group| if group.keeps_everything() { len } else { positions })
    }

    /// Whether [`grow_to_start`](Self::grow_to_start) moves no more than `moves_max` contents to the host's memory. If
    /// not, so many are moved now, which leaves it fewer another time.
    pub fn make_room(&mut self, tables: &BlockTables, len: u32, moves_max: u32) -> bool {
        let mut moves_left = moves_max;
        let all_moves = self.pools.iter().zip(&tables.groups).map(|(pool, table)| {
            pool.moves_for(pool.blocks_for(len).saturating_sub(table.blocks.len() as u32))
        });
        let all_moves: Vec<u32> = all_moves.collect();
        if all_moves.iter().sum::<u32>() <= moves_max {
            return true;
        }
        for (pool, moves) in self.pools.iter_mut().zip(all_moves) {
            pool.make_room(moves.min(moves_left));
            moves_left = moves_left.saturating_sub(moves);
        }
        false
    }

    fn grow_to(
        &mut self,
        tables: &mut BlockTables,
        positions: impl Fn(&CacheGroup) -> u32,
    ) -> Result<(), Shortage> {
        let blocks = |pool: &BlockPool| pool.blocks_for(positions(pool.group()));
        for (group, (pool, table)) in self.pools.iter().zip(&tables.groups).enumerate() {
            let wanted = blocks(pool).saturating_sub(table.blocks.len() as u32);
            let free = pool.free() + u32::from(pool.can_take_over(table));
            if wanted > free {
                return Err(Shortage { group, wanted, free });
            }
        }
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            while (table.blocks.len() as u32) < blocks(pool) {
                let block = pool.allocate_for(table).expect("the free blocks were counted above");
                table.blocks.push(block);
            }
        }
        Ok(())
    }

    /// Whether some blocks are given back while their request goes on.
    pub fn has_windows(&self) -> bool {
        self.pools.iter().any(|pool| pool.group().window().is_some())
    }

    /// As many positions as `tables` can be made to hold if `spared` blocks of each group stay free; no less than they
    /// hold now.
    pub fn reach(&self, tables: &BlockTables, spared: u32) -> u32 {
        let groups = self.pools.iter().zip(&tables.groups);
        let reach = groups.filter(|(pool, _)| !pool.group().is_state()).map(|(pool, table)| {
            let blocks = table.blocks.len() as u32 + pool.free().saturating_sub(spared);
            blocks.saturating_mul(pool.block_tokens())
        });
        reach.min().unwrap_or(u32::MAX)
    }

    /// Gives back the blocks of `tables` that fell out of the window: all positions before `position` are computed, and
    /// no step under way begins before it.
    pub fn give_back(&mut self, tables: &mut BlockTables, position: u32) {
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            if pool.group().window().is_none() {
                continue;
            }
            let early = u32::from(planted::strikes(Planted::EarlyRelease));
            let end = (pool.group().first_needed(position) + early).min(table.blocks.len() as u32);
            for index in (table.gone..end).rev() {
                let block = std::mem::replace(&mut table.blocks[index as usize], BlockId::GONE);
                pool.release(block);
            }
            table.gone = table.gone.max(end);
        }
    }

    /// Gives back the blocks of `tables` beyond those that hold `positions` positions: nothing was kept there.
    ///
    /// # Panics
    /// When others can find one of them, or where there are states: they cannot be taken back.
    pub fn shrink(&mut self, tables: &mut BlockTables, positions: u32) {
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            assert!(!pool.group().is_state(), "a state has seen all positions");
            let kept = pool.blocks_for(positions) as usize;
            assert!(table.known as usize <= kept, "a block that others can find is given back");
            for block in table.blocks.drain(kept.min(table.blocks.len())..).rev() {
                pool.release(block);
            }
        }
    }

    /// Gives back all blocks of `tables`.
    pub fn release(&mut self, tables: BlockTables) {
        for (pool, table) in self.pools.iter_mut().zip(tables.groups) {
            // Backwards, so that a request that comes next gets the blocks in their order, and so that of those that
            // can be found the last is the first to be dropped.
            for block in table.held().rev() {
                pool.release(block);
            }
        }
    }

    /// The pool of each group.
    pub fn pools(&self) -> &[BlockPool] {
        &self.pools
    }

    /// Blocks that nobody holds and that can be found by the tokens in them, over all groups.
    pub fn blocks_cached(&self) -> u64 {
        self.pools.iter().map(|pool| u64::from(pool.cached())).sum()
    }

    /// Contents in the host's memory, and for how many there is room, over all groups.
    pub fn host_blocks(&self) -> (u64, u64) {
        self.pools.iter().map(BlockPool::host_blocks).fold((0, 0), |(used, total), group| {
            (used + u64::from(group.0), total + u64::from(group.1))
        })
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
            for table in tables.clone().map(|tables| &tables.groups[group]) {
                let is_gone = |block: &&BlockId| **block == BlockId::GONE;
                let gone = table.blocks.iter().take_while(is_gone).count();
                assert_eq!(gone, table.gone as usize, "blocks given back are counted");
                assert!(!table.held().any(|block| is_gone(&&block)), "a table has a hole");
                table.invariants(pool);
            }
            pool.invariants(tables.clone().flat_map(|tables| tables.groups[group].held()));
        }
    }
}

/// Those of the first blocks of a sequence that it needs to go on at a position, at the end of a block.
fn wanted(pool: &BlockPool, position: u32) -> std::ops::Range<usize> {
    let end = position / pool.block_tokens();
    pool.group().first_needed(position) as usize..end as usize
}

/// What a sequence finds of itself from its beginning, as long as it holds the same tokens.
pub(crate) fn chain(
    pool: &BlockPool,
    hashes: &[u64],
    salt: &Arc<str>,
    tokens: &[TokenId],
) -> Vec<NodeId> {
    links(pool, hashes, 0, Before::Salt(salt.clone()), tokens)
}

/// The same from its block `first` on, which comes after `before`.
fn links(
    pool: &BlockPool,
    hashes: &[u64],
    first: usize,
    mut before: Before,
    tokens: &[TokenId],
) -> Vec<NodeId> {
    let mut chain = Vec::new();
    for (index, hash) in hashes.iter().enumerate().skip(first) {
        let Some(node) = pool.index.find(*hash) else { break };
        if !pool.index.holds(node, &before, tokens_of(tokens, index, pool.block_tokens())) {
            break;
        }
        chain.push(node);
        before = Before::Node(node);
    }
    chain
}

/// The tokens of a sequence's block.
pub(crate) fn tokens_of(tokens: &[TokenId], index: usize, block_tokens: u32) -> &[TokenId] {
    let start = index * block_tokens as usize;
    &tokens[start..start + block_tokens as usize]
}

/// The first number below `end` of which `holds` is not true, where it is true of all before.
fn partition_point(end: u32, holds: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn least_common_multiple(one: u64, other: u64) -> u64 {
    let (mut a, mut b) = (one, other);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    (one / a).saturating_mul(other)
}

#[cfg(test)]
mod tests;
