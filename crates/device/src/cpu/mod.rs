//! The CPU as a device: one instruction-set choice and one thread pool, made once at start and passed to every kernel.

mod aligned;
mod disjoint;
mod isa;
mod memory;
mod pool;

pub use aligned::{AlignedBuffer, Plain};
pub use disjoint::DisjointSlice;
pub use isa::{Isa, ParseRungError, Rung};
pub use memory::available_memory_bytes;
pub use pool::{ThreadPool, partition};

/// What a kernel needs to run on a CPU.
pub struct Cpu {
    /// The instruction sets in use.
    pub isa: Isa,
    /// The threads in use.
    pub pool: ThreadPool,
}

impl Cpu {
    /// The widest instruction set up to `rung_max` and `threads` threads, the caller's included.
    pub fn new(rung_max: Rung, threads: usize) -> Self {
        Self { isa: Isa::detect().capped(rung_max), pool: ThreadPool::new(threads) }
    }

    /// Threads to use when nothing else is said: one for each processor that this process may run on.
    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}
