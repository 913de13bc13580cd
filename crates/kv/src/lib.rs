//! Who holds which block of the KV cache.
//!
//! Pure bookkeeping: the bytes belong to the executor. Each cache group has a pool of its own; a request has one block
//! table in each group. Blocks are counted by reference, so that tables may share one.
//!
//! What always holds: free and held blocks are all blocks; no block is free twice; the count of a block is the
//! number of tables that hold it; a table only grows at its end, until it is given back whole.
//! [`KvManager::invariants`] checks it.

mod manager;
mod pool;
mod table;

pub use manager::{Error, KvManager, Shortage};
pub use pool::BlockPool;
pub use table::{BlockTable, BlockTables};
