//! Which blocks hold the positions of one request.

use types::BlockId;

/// The blocks of one request in one cache group, in order of position.
///
/// It can neither be copied nor emptied outside of this crate, so that a block has exactly the holders that its pool
/// counts.
#[derive(Debug, Default)]
pub struct BlockTable {
    pub(crate) blocks: Vec<BlockId>,
    /// The first so many were given back.
    pub(crate) gone: u32,
    /// The first blocks that others can find, by their tokens.
    pub(crate) known: u32,
    /// Of those, the first that were found there and not computed here.
    pub(crate) found: u32,
    /// Another request's block holds the same as the one after the known ones. That one is found and this one is not,
    /// nor what is behind it.
    pub(crate) closed: bool,
}

impl BlockTable {
    /// The blocks; [`BlockId::GONE`] stands for those that were given back, all of them before the others.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// The blocks that are held.
    pub(crate) fn held(&self) -> &[BlockId] {
        &self.blocks[self.gone as usize..]
    }
}

/// The block tables of one request, one per cache group. To be given back with
/// [`KvManager::release`](crate::KvManager::release).
#[derive(Debug, Default)]
#[must_use = "blocks are lost unless the tables are released"]
pub struct BlockTables {
    pub(crate) groups: Vec<BlockTable>,
}

impl BlockTables {
    /// Whether what is computed here can be found by others.
    pub fn is_open(&self) -> bool {
        self.groups.iter().all(|table| !table.closed)
    }

    /// The table of each group.
    pub fn groups(&self) -> &[BlockTable] {
        &self.groups
    }
}
