//! Who holds which block of the KV cache.
//!
//! Pure bookkeeping: the bytes belong to the executor. Each cache group has a pool of its own; a request has one block
//! table in each group. Blocks are counted by reference, so that tables may share one.
//!
//! Blocks that were computed whole can be found by their tokens (see `prefix.rs`): a request that begins like an
//! earlier one takes its blocks, held or not. Where blocks run out, those go that nobody holds, the longest unused
//! first; what is in them may go to the host's memory and come back from there (see `host.rs`).
//!
//! Where a group has a window, a request gives its blocks back as they fall out of it, and holds no more than the
//! window and what steps under way add, however long it gets.
//!
//! Where a group is a recurrent state, a request has one block, and leaves checkpoints behind that others begin with
//! (see `state.rs`).
//!
//! What always holds: free and held blocks are all blocks; no block is free twice; the count of a block is the
//! number of tables that hold it; a table changes at its end alone, until it is given back whole, but for blocks that
//! nothing was computed in, those in place of which others that hold the same are taken, those that fell out of a
//! window, and states; what is before something that can be found is known too, and where everything is kept can be
//! found, and in the pool if that is.
//! [`KvManager::invariants`] checks it.

mod host;
mod manager;
mod pool;
mod prefix;
mod state;
mod table;

pub use manager::{Error, Found, Hit, KvManager, Miss, Shortage};
pub use pool::BlockPool;
pub use prefix::PrefixKey;
pub use table::{BlockTable, BlockTables};

#[cfg(test)]
mod tests;
