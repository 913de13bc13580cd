//! Ids. Every id that could be swapped for another by mistake is a type of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A token of a model's vocabulary. A plain integer, because tokens come and go as slices of integers everywhere.
pub type TokenId = u32;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// One request, unique for the life of an engine.
    RequestId(u64), "r");
id!(
    /// The place a running request has in the executor, from admission to release; reused afterwards.
    SlotId(u32), "s");
id!(
    /// One block of KV cache within one cache group.
    BlockId(u32), "b");
impl BlockId {
    /// Stands in a table for a block that was given back, as it fell out of the window. No block has this id.
    pub const GONE: Self = Self(u32::MAX);
}

id!(
    /// One place for a block's content in the host's memory, within one cache group.
    HostSlot(u32), "h");
id!(
    /// One step of the engine, counted from zero.
    StepId(u64), "step ");
