//! How fast the GPU can read at best.

use std::sync::Arc;

use super::NextModule;
use crate::{Address, DeviceBuffer, Error, Gpu, Kernel, Shape, Stream, Unit};

arguments!(PeakArguments { values: Address, len: u64, target: Address });

/// The kernel.
#[derive(Debug)]
pub struct PeakKernel {
    kernel: Kernel<PeakArguments>,
    blocks: usize,
}

pub(super) fn unit() -> Unit {
    Unit { name: "peak", source: include_str!("peak.cu"), macros: Vec::new() }
}

const THREADS: u32 = 256;

impl PeakKernel {
    pub(super) fn new(gpu: &Arc<Gpu>, next: &mut NextModule<'_>) -> Result<Self, Error> {
        let blocks = gpu.properties().multiprocessors as usize * 8;
        Ok(Self { kernel: next()?.kernel("read_all", 0)?, blocks })
    }

    /// Reads nearly all of a buffer once; returns how many bytes.
    pub fn read(&self, stream: &Stream, values: &DeviceBuffer<u8>) -> Result<usize, Error> {
        let turn = 4 * THREADS as usize * self.blocks;
        let len = values.len() / 16 / turn * turn;
        let target = values.address();
        let arguments = PeakArguments { values: values.address(), len: len as u64, target };
        let shape = Shape { overlaps: false, ..Shape::row(self.blocks, THREADS) };
        // SAFETY: no more is read than the buffer has, and nothing is written.
        unsafe { self.kernel.launch(stream, shape, arguments)? };
        Ok(16 * len)
    }
}
