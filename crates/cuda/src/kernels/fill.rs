//! Random weights.

use std::sync::Arc;

use half::bf16;

use super::NextModule;
use crate::{Address, DeviceBuffer, Error, Gpu, Kernel, Shape, Stream, Unit};

arguments!(FillArguments { values: Address, len: u64, seed: u64, amplitude: f32 });

/// The kernel.
#[derive(Debug)]
pub struct FillKernel {
    kernel: Kernel<FillArguments>,
    blocks: usize,
}

pub(super) fn unit() -> Unit {
    Unit { name: "fill", source: include_str!("fill.cu"), macros: Vec::new() }
}

impl FillKernel {
    pub(super) fn new(gpu: &Arc<Gpu>, next: &mut NextModule<'_>) -> Result<Self, Error> {
        let blocks = gpu.properties().multiprocessors as usize * 8;
        Ok(Self { kernel: next()?.kernel("fill", 0)?, blocks })
    }

    /// Fills with values from -`amplitude` to `amplitude`, each a function of the seed and its index.
    pub fn fill(
        &self,
        stream: &Stream,
        values: &DeviceBuffer<bf16>,
        seed: u64,
        amplitude: f32,
    ) -> Result<(), Error> {
        let len = values.len() as u64;
        let arguments = FillArguments { values: values.address(), len, seed, amplitude };
        let shape = Shape { overlaps: false, ..Shape::row(self.blocks, 256) };
        // SAFETY: the length is the buffer's own.
        unsafe { self.kernel.launch(stream, shape, arguments) }
    }
}
