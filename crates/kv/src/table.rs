//! Which blocks hold the positions of one request.

use serde::{Deserialize, Serialize};
use types::BlockId;

use crate::state::Checkpoints;

/// The blocks of one request in one cache group, in order of position; of a state, the one that the next positions
/// change.
///
/// It can neither be copied nor emptied outside of this crate, so that a block has exactly the holders that its pool
/// counts; but both can be serialized together.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct BlockTable {
    pub(crate) blocks: Vec<BlockId>,
    /// The first so many were given back.
    pub(crate) gone: u32,
    /// The first blocks that others can find, by their tokens; of a state, those before its last checkpoint.
    pub(crate) known: u32,
    /// Of those, the first that were found there and not computed here.
    pub(crate) found: u32,
    /// Hashes collide in the block after the known ones, or there was no room for it: it is not found, nor what is
    /// behind it.
    pub(crate) closed: bool,
    /// Where the group is a state.
    pub(crate) checkpoints: Checkpoints,
}

impl BlockTable {
    /// The blocks; [`BlockId::GONE`] stands for those that were given back, all of them before the others.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// The blocks that are held, once for each time.
    pub(crate) fn held(&self) -> impl DoubleEndedIterator<Item = BlockId> + '_ {
        self.checkpoints.held().chain(self.blocks[self.gone as usize..].iter().copied())
    }
}

/// The block tables of one request, one per cache group. To be given back with
/// [`KvManager::release`](crate::KvManager::release).
#[derive(Debug, Default, Serialize, Deserialize)]
#[must_use = "blocks are lost unless the tables are released"]
pub struct BlockTables {
    pub(crate) groups: Vec<BlockTable>,
    /// Where the last checkpoint of its states is, found or taken; 0 before there is one.
    pub(crate) checkpoint: u32,
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
