//! Blocks of keys and values to the host's memory and back.

use super::NextModule;
use crate::{Address, DeviceBuffer, Error, Kernel, PinnedBuffer, Shape, Stream, Unit};

/// Copies between the pools of all layers and the host's memory. Those of one call are done at once.
#[derive(Debug)]
pub struct BlockCopies<'a> {
    /// The addresses of the pools of keys and of values, layer by layer: `[layers][2]`.
    pub pools: &'a DeviceBuffer<u64>,
    /// `[slots][layers][2]` strips.
    pub host: &'a PinnedBuffer<u8>,
    /// Bytes of a strip, which is one block's keys or values in one layer: a multiple of 16.
    pub strip_bytes: usize,
    /// Pairs of a block and a slot.
    pub list: &'a PinnedBuffer<i32>,
    /// Of these pairs, the first that is done,
    pub first: usize,
    /// and how many are.
    pub count: usize,
    /// From blocks to slots, or the other way.
    pub to_host: bool,
}

arguments!(CopyArguments {
    pools: Address,
    host: Address,
    copies: Address,
    strip: i32,
    to_host: i32,
});

/// The kernel.
#[derive(Debug)]
pub struct CopyKernel {
    kernel: Kernel<CopyArguments>,
}

pub(super) fn unit() -> Unit {
    Unit { name: "copy", source: include_str!("copy.cu"), macros: Vec::new() }
}

impl CopyKernel {
    pub(super) fn new(next: &mut NextModule<'_>) -> Result<Self, Error> {
        Ok(Self { kernel: next()?.kernel("copy_blocks", 0)? })
    }

    /// Copies. The pairs must not be changed before it is done, and name blocks and slots that exist.
    ///
    /// # Panics
    /// When there are not that many pairs, or strips are not whole.
    pub fn copy(&self, stream: &Stream, copies: &BlockCopies<'_>) -> Result<(), Error> {
        let &BlockCopies { pools, host, strip_bytes, list, first, count, to_host } = copies;
        assert!(strip_bytes > 0 && strip_bytes.is_multiple_of(16), "{strip_bytes} bytes a strip");
        assert!(2 * (first + count) <= list.len(), "there are that many pairs");
        assert!(host.len().is_multiple_of(pools.len() * strip_bytes), "slots are whole");
        let arguments = CopyArguments {
            pools: pools.address(),
            host: host.address(0),
            copies: list.address(2 * first),
            strip: (strip_bytes / 16) as i32,
            to_host: to_host.into(),
        };
        let grid = (count as u32, pools.len() as u32, 1);
        // What comes next may read blocks before it waits for the kernel before it.
        let shape = Shape { grid, threads: 256, shared_bytes: 0, overlaps: false };
        // SAFETY: the sizes were checked; that blocks and slots exist is the caller's promise.
        unsafe { self.kernel.launch(stream, shape, arguments) }
    }
}
