//! Which blocks hold which tokens, so that a request that begins like an earlier one finds its work done.
//!
//! Blocks are found by the hash of all tokens up to their end, and taken only if the tokens are the same: each block
//! remembers its own tokens and the block before it, which was compared in the same way. So a collision of hashes costs
//! a hit and never serves another text's block.
//!
//! Whoever holds a block holds the one before it as well, and lets go of the later one first. So of the blocks that
//! nobody holds, the one that was let go of longest ago has none behind it in the pool, and can make room: its content
//! moves to the host's memory (`host.rs`) where there is such a tier, and is forgotten where not. What can be found is
//! a node, wherever its content is. What is in the pool never stands behind something that is not.
//!
//! Where a group has a window, blocks are let go of from the beginning on, while what stands behind them is in use.
//! There a node whose content had to go stays as long as any stands behind it: its tokens are compared, but its content
//! is nowhere. A hit needs the contents of those blocks alone that the next position sees. The content of a recurrent
//! state's node is the state after its tokens: that of most is nowhere from the beginning, and a hit needs the last
//! alone.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use types::{BlockCopy, BlockId, CacheContent, CacheGroup, HostSlot, TokenId};

use crate::host::HostTier;

/// As many nodes may be known for each block, where not everything is kept: most of them of sequences much longer than
/// the window, or than checkpoints are apart.
const NODES_PER_BLOCK: usize = 64;

/// The beginning of every chain of hashes.
const CHAIN_START: u64 = 0x243f_6a88_85a3_08d3;

/// Hashes of a sequence's whole blocks, each over all tokens up to the end of its block and the salt: what the sequence
/// is found by. It grows with the sequence. From [`KvManager::key`](crate::KvManager::key).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

/// A block's worth of tokens behind others that can be found. It stays the same when the content moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeId(u32);

/// What of one group can be found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PrefixIndex {
    block_tokens: usize,
    /// What stands behind a content may be known when it is not.
    has_gaps: bool,
    nodes_max: usize,
    by_hash: BTreeMap<u64, NodeId>,
    /// By block, what is in it.
    by_block: Vec<Option<NodeId>>,
    nodes: Vec<Option<Node>>,
    unused: Vec<NodeId>,
    /// By node, its tokens; of no meaning where there is none.
    tokens: Vec<TokenId>,
    /// What is in blocks that nobody holds, by the time they were let go of.
    idle: BTreeMap<u64, NodeId>,
    time: u64,
    pub(crate) host: HostTier,
    /// By what is in them whatever the salt, how many nodes there are. To explain misses.
    contents: BTreeMap<u64, u32>,
    evicted: Evicted,
}

/// Hashes of what was forgotten last, as many as can be remembered. To explain misses.
#[derive(Debug, Default, Serialize, Deserialize)]
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

#[derive(Debug, Serialize, Deserialize)]
struct Node {
    hash: u64,
    content: u64,
    before: Before,
    /// Nodes behind this one.
    children: u32,
    place: Place,
    /// When its block was let go of, or since when it is in the host's memory; nothing while somebody holds its block.
    since: Option<u64>,
}

impl Node {
    fn parent(&self) -> Option<NodeId> {
        match self.before {
            Before::Node(parent) => Some(parent),
            Before::Salt(_) => None,
        }
    }
}

/// Where a content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    Device(BlockId),
    Host(HostSlot),
    /// Only its tokens are known, as something stands behind it.
    Nowhere,
}

/// What stands before a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Before {
    /// Nothing: it is the first of sequences with this salt.
    Salt(Arc<str>),
    /// Another node.
    Node(NodeId),
}

impl PrefixIndex {
    pub(crate) fn new(group: &CacheGroup) -> Self {
        let &CacheGroup { blocks, block_tokens, host_blocks, content, .. } = group;
        let nodes_per_block = match content {
            CacheContent::Everything => 1,
            CacheContent::Window(_) => NODES_PER_BLOCK,
            CacheContent::State(apart) => {
                NODES_PER_BLOCK.max(apart.div_ceil(block_tokens) as usize)
            }
        };
        Self {
            block_tokens: block_tokens as usize,
            has_gaps: !group.keeps_everything(),
            nodes_max: (blocks as usize).saturating_mul(nodes_per_block) + host_blocks as usize,
            by_hash: BTreeMap::new(),
            by_block: vec![None; blocks as usize],
            nodes: Vec::new(),
            unused: Vec::new(),
            tokens: Vec::new(),
            idle: BTreeMap::new(),
            time: 0,
            host: HostTier::new(host_blocks),
            contents: BTreeMap::new(),
            evicted: Evicted::default(),
        }
    }

    /// Whether a node with this content can be found, whatever its salt.
    pub(crate) fn has_content(&self, content: u64) -> bool {
        self.contents.contains_key(&content)
    }

    /// Whether what had this hash was forgotten not long ago.
    pub(crate) fn was_evicted(&self, hash: u64) -> bool {
        self.evicted.hashes.contains(&hash)
    }

    /// The node with this hash, whatever is in it.
    pub(crate) fn find(&self, hash: u64) -> Option<NodeId> {
        self.by_hash.get(&hash).copied()
    }

    /// How many more nodes can be known.
    pub(crate) fn room(&self) -> usize {
        self.nodes_max - (self.nodes.len() - self.unused.len())
    }

    /// Whether a node's content had to go.
    pub(crate) fn is_nowhere(&self, node: NodeId) -> bool {
        self.node(node).place == Place::Nowhere
    }

    /// The block that has a node's content, if it is in the pool.
    pub(crate) fn block_of(&self, node: NodeId) -> Option<BlockId> {
        match self.node(node).place {
            Place::Device(block) => Some(block),
            Place::Host(_) | Place::Nowhere => None,
        }
    }

    /// Whether a node has these tokens after that beginning.
    pub(crate) fn holds(&self, node: NodeId, before: &Before, tokens: &[TokenId]) -> bool {
        self.node(node).before == *before && self.tokens[self.tokens_at(node)] == *tokens
    }

    /// What stands before what comes after a block of a sequence, or at its beginning.
    pub(crate) fn after(&self, block: Option<BlockId>, salt: &Arc<str>) -> Before {
        match block {
            Some(block) => Before::Node(self.node_in(block)),
            None => Before::Salt(salt.clone()),
        }
    }

    /// The block of the pool that has these tokens after that beginning, if one has.
    pub(crate) fn same(&self, hash: u64, before: &Before, tokens: &[TokenId]) -> Option<BlockId> {
        let node = self.find(hash).filter(|node| self.holds(*node, before, tokens))?;
        self.block_of(node)
    }

    /// Lets the content of a block that is held be found. Not if a block has the same already, or if hashes collide.
    /// What was in the host's memory is not needed there any more, and what was nowhere is here again.
    pub(crate) fn insert(
        &mut self,
        (hash, content): (u64, u64),
        block: BlockId,
        before: Before,
        tokens: &[TokenId],
    ) -> bool {
        if let Some(node) = self.find(hash) {
            let is_elsewhere = self.block_of(node).is_none() && self.holds(node, &before, tokens);
            if is_elsewhere {
                self.move_to(node, block);
            }
            return is_elsewhere;
        }
        let node = self.add((hash, content), Place::Device(block), before, tokens);
        self.put(node, block);
        true
    }

    /// Lets the content of a block that is held be found behind the node `before`, and nodes between the two that are
    /// nowhere: these are the hashes and tokens of all of them, in order. Not if a block has the same already.
    ///
    /// # Panics
    /// When there is no room for the nodes, or only some of them are new.
    pub(crate) fn insert_far<'t>(
        &mut self,
        block: BlockId,
        mut before: Before,
        nodes: impl Iterator<Item = ((u64, u64), &'t [TokenId])>,
    ) -> bool {
        let mut nodes = nodes.peekable();
        while let Some((hash, tokens)) = nodes.next() {
            if nodes.peek().is_none() {
                return self.insert(hash, block, before, tokens);
            }
            before = Before::Node(self.add(hash, Place::Nowhere, before, tokens));
        }
        false
    }

    fn add(
        &mut self,
        (hash, content): (u64, u64),
        place: Place,
        before: Before,
        tokens: &[TokenId],
    ) -> NodeId {
        if let Before::Node(parent) = before {
            self.node_mut(parent).children += 1;
        }
        let node = self.unused.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.tokens.resize(self.nodes.len() * self.block_tokens, 0);
            NodeId(self.nodes.len() as u32 - 1)
        });
        self.by_hash.insert(hash, node);
        let own_tokens = self.tokens_at(node);
        self.tokens[own_tokens].copy_from_slice(tokens);
        *self.contents.entry(content).or_insert(0) += 1;
        let new = Node { hash, content, before, children: 0, place, since: None };
        self.nodes[node.0 as usize] = Some(new);
        node
    }

    fn put(&mut self, node: NodeId, block: BlockId) {
        let before = self.by_block[block.0 as usize].replace(node);
        assert!(before.is_none(), "{block} is known");
    }

    pub(crate) fn knows(&self, block: BlockId) -> bool {
        self.by_block[block.0 as usize].is_some()
    }

    /// Whether a known block has others behind it.
    pub(crate) fn has_children(&self, block: BlockId) -> bool {
        self.by_block[block.0 as usize].is_some_and(|node| self.node(node).children > 0)
    }

    /// The last holder of a known block let go of it.
    pub(crate) fn rest(&mut self, block: BlockId) {
        let (node, time) = (self.node_in(block), self.next_time());
        self.node_mut(node).since = Some(time);
        self.idle.insert(time, node);
    }

    /// Somebody holds a known block again.
    pub(crate) fn wake(&mut self, block: BlockId) {
        let node = self.node_in(block);
        let since = self.node_mut(node).since.take().expect("a block that is woken rests");
        self.idle.remove(&since);
    }

    /// Known blocks that nobody holds.
    pub(crate) fn idle(&self) -> u32 {
        self.idle.len() as u32
    }

    /// Gives away the block that was let go of longest ago. What was in it moves to the host's memory, where what has
    /// been there longest makes room for it, or is forgotten; but what stands behind it must stay known.
    pub(crate) fn evict(&mut self) -> Option<BlockId> {
        let (_, node) = self.idle.pop_first()?;
        let block = self.block_of(node).expect("what is idle is in a block");
        match self.host.take_slot().or_else(|| self.drop_oldest()) {
            Some(slot) => {
                self.by_block[block.0 as usize] = None;
                let time = self.next_time();
                let moved = self.node_mut(node);
                (moved.place, moved.since) = (Place::Host(slot), Some(time));
                self.host.rest(node, time);
                self.host.copy_out(block, slot);
            }
            None => {
                self.note_evicted(node);
                let evicted = self.node_mut(node);
                evicted.since = None;
                if evicted.children > 0 {
                    evicted.place = Place::Nowhere;
                    self.by_block[block.0 as usize] = None;
                } else {
                    self.remove(block);
                }
            }
        }
        Some(block)
    }

    /// Forgets what has been in the host's memory longest.
    fn drop_oldest(&mut self) -> Option<HostSlot> {
        let (since, node) = self.host.pop_oldest()?;
        self.note_evicted(node);
        let Place::Host(slot) = self.forget(node).place else {
            panic!("what rests in the host's memory is there");
        };
        self.host.cancel(slot, since);
        Some(slot)
    }

    fn note_evicted(&mut self, node: NodeId) {
        let hashes_max = self.forgotten_max();
        self.evicted.add(self.node(node).hash, hashes_max);
    }

    /// As many hashes of what was forgotten are remembered as contents can be.
    fn forgotten_max(&self) -> usize {
        self.by_block.len() + self.host.slots() as usize
    }

    /// Nodes of one sequence, in order, are about to be of use: those in the host's memory stay longest.
    pub(crate) fn touch(&mut self, nodes: &[NodeId]) {
        for &node in nodes.iter().rev() {
            let Place::Host(_) = self.node(node).place else { continue };
            let time = self.next_time();
            let since = self.node_mut(node).since.replace(time);
            self.host.wake(since.expect("what is in the host's memory rests"));
            self.host.rest(node, time);
        }
    }

    /// Brings what is in the host's memory back, into a block that is held.
    pub(crate) fn bring_back(&mut self, node: NodeId, block: BlockId) {
        let slot = self.move_to(node, block).expect("it is in the host's memory");
        self.host.copy_back(slot, block);
    }

    /// A content that is not in the pool is found in a block that is held from now on. Where it was in the host's
    /// memory.
    fn move_to(&mut self, node: NodeId, block: BlockId) -> Option<HostSlot> {
        self.put(node, block);
        let moved = self.node_mut(node);
        let since = moved.since.take();
        match std::mem::replace(&mut moved.place, Place::Device(block)) {
            Place::Host(slot) => {
                self.host.wake(since.expect("what is in the host's memory rests"));
                self.host.give_back(slot);
                Some(slot)
            }
            Place::Nowhere => None,
            Place::Device(other) => panic!("it is in {other} already"),
        }
    }

    /// Forgets a known block that is held and has none behind it.
    pub(crate) fn remove(&mut self, block: BlockId) {
        let node = self.by_block[block.0 as usize].take();
        let node = node.expect("a block that is forgotten is known");
        assert_eq!(self.node(node).since, None, "{block} is forgotten too early");
        self.forget(node);
    }

    /// Forgets a node that nobody holds and that has none behind it; its block, if it has one. Nothing if it is not so.
    pub(crate) fn take_idle(&mut self, node: NodeId) -> Option<Option<BlockId>> {
        // It may have gone with what was behind it.
        let Some(known) = &self.nodes[node.0 as usize] else { return Some(None) };
        let since = known.since.filter(|_| known.children == 0)?;
        let block = self.block_of(node)?;
        self.idle.remove(&since);
        self.by_block[block.0 as usize] = None;
        self.forget(node);
        Some(Some(block))
    }

    /// Forgets what is in the host's memory behind a known block.
    pub(crate) fn forget_behind(&mut self, block: BlockId) {
        if !self.has_children(block) {
            return;
        }
        let mut behind = vec![self.node_in(block)];
        // From beginnings to ends.
        for node in self.host.resting().rev() {
            if matches!(self.node(node).before, Before::Node(before) if behind.contains(&before)) {
                behind.push(node);
            }
        }
        for node in behind.into_iter().skip(1).rev() {
            let forgotten = self.forget(node);
            let since = forgotten.since.expect("what is in the host's memory rests");
            self.host.wake(since);
            if let Place::Host(slot) = forgotten.place {
                self.host.cancel(slot, since);
                self.host.give_back(slot);
            }
        }
    }

    /// Forgets a node, and those before it that were known for its sake alone.
    fn forget(&mut self, node: NodeId) -> Node {
        let forgotten = self.forget_alone(node);
        let mut before = forgotten.parent();
        while let Some(parent) = before {
            let node = self.node_mut(parent);
            node.children -= 1;
            let is_needless = node.children == 0 && node.place == Place::Nowhere;
            before = is_needless.then(|| self.forget_alone(parent)).and_then(|node| node.parent());
        }
        forgotten
    }

    fn forget_alone(&mut self, node: NodeId) -> Node {
        let forgotten = self.nodes[node.0 as usize].take().expect("a node is forgotten once");
        assert_eq!(forgotten.children, 0, "a prefix is whole");
        self.unused.push(node);
        self.by_hash.remove(&forgotten.hash);
        let same = self.contents.get_mut(&forgotten.content).expect("each node is counted");
        *same -= 1;
        if *same == 0 {
            self.contents.remove(&forgotten.content);
        }
        forgotten
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.by_hash.clear();
        self.by_block.fill(None);
        self.nodes.clear();
        self.unused.clear();
        self.tokens.clear();
        self.idle.clear();
        self.host.clear();
        self.contents.clear();
        self.evicted = Evicted::default();
    }

    /// Copies decided on, for a plan that is made now.
    pub(crate) fn take_copies(&mut self) -> Vec<BlockCopy> {
        self.host.take_copies(self.time)
    }

    fn next_time(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    fn node_in(&self, block: BlockId) -> NodeId {
        self.by_block[block.0 as usize].expect("the block is known")
    }

    fn node(&self, node: NodeId) -> &Node {
        self.nodes[node.0 as usize].as_ref().expect("the node exists")
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        self.nodes[node.0 as usize].as_mut().expect("the node exists")
    }

    fn tokens_at(&self, node: NodeId) -> std::ops::Range<usize> {
        let start = node.0 as usize * self.block_tokens;
        start..start + self.block_tokens
    }

    /// Checks the index against the holders counted.
    ///
    /// # Panics
    /// When something does not hold.
    pub(crate) fn invariants(&self, holders: &[u32]) {
        let nodes = || {
            let nodes = self.nodes.iter().enumerate();
            nodes.filter_map(|(at, node)| node.as_ref().map(|node| (NodeId(at as u32), node)))
        };
        let known = nodes().count();
        assert_eq!(known, self.by_hash.len(), "nodes and hashes differ");
        assert_eq!(known + self.unused.len(), self.nodes.len(), "nodes are lost");
        let counted: u32 = self.contents.values().sum();
        assert_eq!(known, counted as usize, "nodes and contents differ");
        assert!(self.evicted.in_order.len() <= self.forgotten_max(), "too much is remembered");
        let in_blocks = self.by_block.iter().flatten().count();
        let nowhere = nodes().filter(|(_, node)| node.place == Place::Nowhere).count();
        assert_eq!(known, in_blocks + self.host.used() as usize + nowhere, "a content is lost");
        assert!(nowhere == 0 || self.has_gaps, "a content is nowhere without need");
        assert!(known <= self.nodes_max, "too many nodes");
        let mut children = vec![0; self.nodes.len()];
        let mut slots = Vec::new();
        for (id, node) in nodes() {
            assert_eq!(self.find(node.hash), Some(id), "{id:?} is not found by its hash");
            let holders_of = |node: &Node| match node.place {
                Place::Device(block) => Some(holders[block.0 as usize]),
                Place::Host(_) | Place::Nowhere => None,
            };
            let held = holders_of(node);
            let rests = held.unwrap_or(0) == 0 && node.place != Place::Nowhere;
            assert_eq!(node.since.is_some(), rests, "{id:?} rests and is held");
            match node.place {
                Place::Device(block) => {
                    assert_eq!(self.by_block[block.0 as usize], Some(id), "{block} has another");
                    let rests = node.since.is_none_or(|since| self.idle.get(&since) == Some(&id));
                    assert!(rests, "{block} does not rest");
                }
                Place::Host(slot) => {
                    let rests = node.since.is_some_and(|since| self.host.is_at(id, since));
                    assert!(rests, "{slot} does not rest");
                    slots.push(slot);
                }
                Place::Nowhere => assert!(node.children > 0, "{id:?} is known for nothing"),
            }
            if let Some(parent) = node.parent() {
                let before = self.nodes[parent.0 as usize].as_ref().expect("a prefix is whole");
                children[parent.0 as usize] += 1;
                if self.has_gaps {
                    continue;
                }
                // Nobody holds what is in the host's memory, and nothing in the pool stands behind it.
                assert!(holders_of(before) >= held, "{id:?} without {parent:?}");
                if holders_of(before).is_some() == held.is_some() {
                    let order = before
                        .since
                        .is_none_or(|parent| node.since.is_some_and(|own| own < parent));
                    assert!(order, "{parent:?} would go before {id:?}");
                }
            }
        }
        for (id, node) in nodes() {
            assert_eq!(node.children, children[id.0 as usize], "children of {id:?}");
        }
        let in_blocks = nodes().filter(|(_, node)| matches!(node.place, Place::Device(_)));
        let resting = in_blocks.filter(|(_, node)| node.since.is_some()).count();
        assert_eq!(resting, self.idle.len(), "a block rests twice");
        self.host.invariants(slots.into_iter());
    }
}

#[cfg(test)]
mod tests;
