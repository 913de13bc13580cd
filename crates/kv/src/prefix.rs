//! Which blocks hold which tokens, so that a request that begins like an earlier one finds its work done.
//!
//! Blocks are found by the hash of all tokens up to their end, and taken only if the tokens are the same: each block
//! remembers its own tokens and the block before it, which was compared in the same way. So a collision of hashes costs
//! a hit and never serves another text's block.
//!
//! Whoever holds a block holds the one before it as well, and lets go of the later one first. So of the blocks that
//! nobody holds, the one that was let go of longest ago has none behind it, and can be dropped.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use types::{BlockId, TokenId};

/// The beginning of every chain of hashes.
const CHAIN_START: u64 = 0x243f_6a88_85a3_08d3;

/// Hashes of a sequence's whole blocks, each over all tokens up to the end of its block and the salt: what the sequence
/// is found by. It grows with the sequence. From [`KvManager::key`](crate::KvManager::key).
#[derive(Clone, Debug, Default)]
pub struct PrefixKey {
    pub(crate) salt: Arc<str>,
    salt_hash: u64,
    /// One list a group; none where nothing is to be found.
    pub(crate) groups: Vec<Vec<u64>>,
}

impl PrefixKey {
    pub(crate) fn new(salt: Arc<str>, groups: usize) -> Self {
        let byte = |hash, byte| mix(hash, u64::from(byte) + (1 << 32));
        let salt_hash = salt.bytes().fold(0, byte);
        Self { salt, salt_hash, groups: vec![Vec::new(); groups] }
    }

    pub(crate) fn extend(&mut self, group: usize, block_tokens: u32, tokens: &[TokenId]) {
        let hashes = &mut self.groups[group];
        let known = hashes.len() * block_tokens as usize;
        let mut content = hashes.last().map_or(CHAIN_START, |hash| hash ^ self.salt_hash);
        for block in tokens[known.min(tokens.len())..].chunks_exact(block_tokens as usize) {
            content = block.iter().fold(content, |hash, token| mix(hash, u64::from(*token)));
            hashes.push(content ^ self.salt_hash);
        }
    }

    /// The hash of a block's tokens and those before them alone, whatever the salt.
    pub(crate) fn content(&self, hash: u64) -> u64 {
        hash ^ self.salt_hash
    }
}

fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

/// The blocks of one group that can be found.
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    block_tokens: usize,
    by_hash: BTreeMap<u64, BlockId>,
    /// By block.
    entries: Vec<Option<Entry>>,
    /// By block, the tokens in it; unused where there is no entry.
    tokens: Vec<TokenId>,
    /// The blocks that nobody holds, by the time they were let go of.
    idle: BTreeMap<u64, BlockId>,
    time: u64,
    /// By what is in them whatever the salt, how many blocks there are. To explain misses.
    contents: BTreeMap<u64, u32>,
    evicted: Evicted,
}

/// Hashes of the blocks evicted last, as many as there are blocks. To explain misses.
#[derive(Debug, Default)]
struct Evicted {
    hashes: BTreeSet<u64>,
    in_order: VecDeque<u64>,
}

impl Evicted {
    fn add(&mut self, hash: u64, hashes_max: usize) {
        if self.hashes.insert(hash) {
            self.in_order.push_back(hash);
        }
        if self.in_order.len() > hashes_max
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
    }
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    content: u64,
    before: Before,
    /// Blocks behind this one that can be found.
    children: u32,
    /// When it was let go of, if nobody holds it.
    idle_since: Option<u64>,
}

/// What stands before a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing: it is the first of sequences with this salt.
    Salt(Arc<str>),
    /// Another block.
    Block(BlockId),
}

impl PrefixIndex {
    pub(crate) fn new(blocks: u32, block_tokens: u32) -> Self {
        Self {
            block_tokens: block_tokens as usize,
            by_hash: BTreeMap::new(),
            entries: (0..blocks).map(|_| None).collect(),
            tokens: vec![0; blocks as usize * block_tokens as usize],
            idle: BTreeMap::new(),
            time: 0,
            contents: BTreeMap::new(),
            evicted: Evicted::default(),
        }
    }

    /// Whether a block with this content can be found, whatever its salt.
    pub(crate) fn has_content(&self, content: u64) -> bool {
        self.contents.contains_key(&content)
    }

    /// Whether a block with this hash was evicted not long ago.
    pub(crate) fn was_evicted(&self, hash: u64) -> bool {
        self.evicted.hashes.contains(&hash)
    }

    /// The block with this hash, whatever is in it.
    pub(crate) fn find(&self, hash: u64) -> Option<BlockId> {
        self.by_hash.get(&hash).copied()
    }

    /// Whether a block that can be found holds these tokens after that beginning.
    pub(crate) fn holds(&self, block: BlockId, before: &Before, tokens: &[TokenId]) -> bool {
        let entry = self.entries[block.0 as usize].as_ref();
        entry.is_some_and(|entry| entry.before == *before) && *self.tokens_of(block) == *tokens
    }

    /// Lets a block be found. Not if there is one with this hash already, which holds the same unless hashes collide.
    pub(crate) fn insert(
        &mut self,
        (hash, content): (u64, u64),
        block: BlockId,
        before: Before,
        tokens: &[TokenId],
    ) -> bool {
        if self.by_hash.contains_key(&hash) {
            return false;
        }
        if let Before::Block(parent) = before {
            self.entry_mut(parent).children += 1;
        }
        self.by_hash.insert(hash, block);
        let place = self.place(block);
        self.tokens[place].copy_from_slice(tokens);
        *self.contents.entry(content).or_insert(0) += 1;
        let entry = Entry { hash, content, before, children: 0, idle_since: None };
        assert!(self.entries[block.0 as usize].replace(entry).is_none(), "{block} is known");
        true
    }

    pub(crate) fn knows(&self, block: BlockId) -> bool {
        self.entries[block.0 as usize].is_some()
    }

    /// Whether a known block has others behind it.
    pub(crate) fn has_children(&self, block: BlockId) -> bool {
        self.entries[block.0 as usize].as_ref().is_some_and(|entry| entry.children > 0)
    }

    /// The last holder of a known block let go of it.
    pub(crate) fn rest(&mut self, block: BlockId) {
        self.time += 1;
        let time = self.time;
        self.entry_mut(block).idle_since = Some(time);
        self.idle.insert(time, block);
    }

    /// Somebody holds a known block again.
    pub(crate) fn wake(&mut self, block: BlockId) {
        let since = self.entry_mut(block).idle_since.take().expect("a block that is woken rests");
        self.idle.remove(&since);
    }

    /// Known blocks that nobody holds.
    pub(crate) fn idle(&self) -> u32 {
        self.idle.len() as u32
    }

    /// Forgets the block that was let go of longest ago, and gives it away.
    pub(crate) fn evict(&mut self) -> Option<BlockId> {
        let (_, block) = self.idle.pop_first()?;
        let entry = self.entry_mut(block);
        entry.idle_since = None;
        let hash = entry.hash;
        self.evicted.add(hash, self.entries.len());
        self.remove(block);
        Some(block)
    }

    /// Forgets a known block that is held and has none behind it.
    pub(crate) fn remove(&mut self, block: BlockId) {
        let entry =
            self.entries[block.0 as usize].take().expect("a block that is forgotten is known");
        assert_eq!((entry.children, entry.idle_since), (0, None), "{block} is forgotten too early");
        self.by_hash.remove(&entry.hash);
        let same = self.contents.get_mut(&entry.content).expect("each known block is counted");
        *same -= 1;
        if *same == 0 {
            self.contents.remove(&entry.content);
        }
        if let Before::Block(parent) = entry.before {
            self.entry_mut(parent).children -= 1;
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.by_hash.clear();
        self.contents.clear();
        self.evicted = Evicted::default();
        self.entries.iter_mut().for_each(|entry| *entry = None);
        self.idle.clear();
    }

    fn entry_mut(&mut self, block: BlockId) -> &mut Entry {
        self.entries[block.0 as usize].as_mut().expect("the block is known")
    }

    fn place(&self, block: BlockId) -> std::ops::Range<usize> {
        let start = block.0 as usize * self.block_tokens;
        start..start + self.block_tokens
    }

    fn tokens_of(&self, block: BlockId) -> &[TokenId] {
        &self.tokens[self.place(block)]
    }

    /// Checks the index against the holders counted.
    ///
    /// # Panics
    /// When something does not hold.
    pub(crate) fn invariants(&self, holders: &[u32]) {
        let known = self.entries.iter().flatten().count();
        assert_eq!(known, self.by_hash.len(), "known blocks and hashes differ");
        let counted: u32 = self.contents.values().sum();
        assert_eq!(known, counted as usize, "known blocks and contents differ");
        assert!(self.evicted.in_order.len() <= self.entries.len(), "too much is remembered");
        let mut children = vec![0; self.entries.len()];
        for (index, entry) in self.entries.iter().enumerate() {
            let (Some(entry), block) = (entry, BlockId(index as u32)) else { continue };
            assert_eq!(self.find(entry.hash), Some(block), "{block} is not found by its hash");
            assert_eq!(
                entry.idle_since.is_some(),
                holders[index] == 0,
                "{block} rests and is held"
            );
            if let Some(since) = entry.idle_since {
                assert_eq!(self.idle.get(&since), Some(&block), "{block} does not rest");
            }
            if let Before::Block(parent) = entry.before {
                let before = self.entries[parent.0 as usize].as_ref().expect("a prefix is whole");
                children[parent.0 as usize] += 1;
                assert!(holders[parent.0 as usize] >= holders[index], "{block} without {parent}");
                let order = before.idle_since.is_none_or(|parent| entry.idle_since < Some(parent));
                assert!(order, "{parent} would go before {block}");
            }
        }
        for (entry, children) in self.entries.iter().zip(children) {
            assert!(entry.as_ref().is_none_or(|entry| entry.children == children), "children");
        }
        let resting = self.entries.iter().flatten().filter(|entry| entry.idle_since.is_some());
        assert_eq!(resting.count(), self.idle.len(), "a block rests twice");
    }
}

#[cfg(test)]
mod tests;
