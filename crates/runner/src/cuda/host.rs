//! The host's memory as a second tier of the KV cache: pinned, so that a kernel reads and writes it over the link.

use std::sync::Arc;

use cuda::{
    DeviceBuffer, Gpu, PinnedBuffer, Stream,
    kernels::{BlockCopies, CopyKernel},
};
use types::{BlockCopy, CopyDirection};

use super::memory::LayerCache;
use crate::Error;

/// Copies of a step whose places are staged together; more wait for each other.
const STAGED_MAX: usize = 4096;

/// What made room in the pool, and the way there.
pub(super) struct HostTier {
    /// The addresses of the pools, `[layers][2]`.
    pools: DeviceBuffer<u64>,
    /// `[slots][layers][2][strip]`.
    memory: PinnedBuffer<u8>,
    strip_bytes: usize,
}

/// A pinned place for pairs of a block and a slot.
pub(super) fn staged_pairs(gpu: &Arc<Gpu>) -> Result<PinnedBuffer<i32>, Error> {
    Ok(PinnedBuffer::zeroed(gpu, 2 * STAGED_MAX)?)
}

impl HostTier {
    /// Room for the contents of so many blocks of these caches; nothing if that is none.
    pub(super) fn new(
        stream: &Stream,
        caches: &[LayerCache],
        pool_blocks: usize,
        host_blocks: u32,
    ) -> Result<Option<Self>, Error> {
        let Some(first) = caches.first().filter(|_| host_blocks > 0) else { return Ok(None) };
        // Each has a block more, which is never copied.
        let strip_bytes = first.keys.bytes() / (pool_blocks + 1);
        let pools = caches.iter().flat_map(|cache| [&cache.keys, &cache.values]);
        let addresses: Vec<u64> = pools.map(|pool| pool.address().into()).collect();
        let gpu = stream.gpu();
        let pools = DeviceBuffer::new(gpu, addresses.len(), "the places of the KV cache")?;
        stream.upload_now(&addresses, &pools)?;
        let bytes = host_blocks as usize * addresses.len() * strip_bytes;
        Ok(Some(Self { pools, memory: PinnedBuffer::new(gpu, bytes)?, strip_bytes }))
    }

    /// Bytes of the host's memory.
    pub(super) fn bytes(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Puts a plan's copies into the stream, in order: those of one direction that stand side by side at once. `staged`
    /// must not be changed before they are done. Whatever comes next must not overlap with them.
    pub(super) fn copy(
        &self,
        stream: &Stream,
        kernel: &CopyKernel,
        staged: &mut PinnedBuffer<i32>,
        copies: &[BlockCopy],
    ) -> Result<(), Error> {
        for (part, copies) in copies.chunks(STAGED_MAX).enumerate() {
            if part > 0 {
                // What was staged is read before this.
                stream.synchronize()?;
            }
            for (pair, copy) in staged.chunks_exact_mut(2).zip(copies) {
                pair.copy_from_slice(&[copy.block.0 as i32, copy.slot.0 as i32]);
            }
            let mut first = 0;
            for run in copies.chunk_by(|one, other| one.direction == other.direction) {
                let copies = BlockCopies {
                    pools: &self.pools,
                    host: &self.memory,
                    strip_bytes: self.strip_bytes,
                    list: staged,
                    first,
                    count: run.len(),
                    to_host: run[0].direction == CopyDirection::ToHost,
                };
                kernel.copy(stream, &copies)?;
                first += run.len();
            }
        }
        Ok(())
    }
}
