//! What the GPU can do at best: reading memory, multiplying matrices, and copying blocks of a KV cache to the host.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use cuda::{
    Compiler, DeviceBuffer, Event, Gpu, Multiplier, Operands, OutputType, PinnedBuffer, Product,
    Stream,
    kernels::{BlockCopies, KernelOptions, Kernels},
};
use half::bf16;

/// Rates measured on this GPU.
pub(crate) struct Ceilings {
    /// Bytes read a second.
    pub(crate) read_bytes_s: f64,
    /// bfloat16 operations a second, two for each multiply-add, after seconds of it.
    pub(crate) matrix_s: f64,
    /// The same of the first products.
    burst_s: f64,
    /// Bytes of blocks copied to the host's memory a second, and back from there.
    copied_bytes_s: [f64; 2],
}

impl Ceilings {
    /// Takes a few seconds and 6 GB for a moment.
    pub(crate) fn measure(gpu: &Arc<Gpu>) -> Result<Self> {
        let stream = Stream::new(gpu)?;
        let compiler = Compiler::new(&gpu.architecture(), None)?;
        let kernels = Kernels::load(gpu, &compiler, &KernelOptions::new(gpu, (64, 1), Vec::new()))?;
        let read_bytes_s = read(&stream, &kernels)?;
        let (burst_s, matrix_s) = multiply(&stream, &kernels)?;
        let copied_bytes_s = [copy(&stream, &kernels, true)?, copy(&stream, &kernels, false)?];
        Ok(Self { read_bytes_s, matrix_s, burst_s, copied_bytes_s })
    }

    pub(crate) fn print(&self) {
        println!(
            "reads {:.0} GB/s; multiplies bf16 at {:.0} TFLOP/s at first, {:.0} after 3 s",
            self.read_bytes_s / 1e9,
            self.burst_s / 1e12,
            self.matrix_s / 1e12
        );
        let [to_host, back] = self.copied_bytes_s.map(|bytes_s| bytes_s / 1e9);
        println!("copies blocks to the host at {to_host:.1} GB/s and back at {back:.1} GB/s");
    }
}

fn read(stream: &Stream, kernels: &Kernels) -> Result<f64> {
    let buffer = DeviceBuffer::<u8>::zeroed(stream, 4 << 30, "reading")?;
    let mut best = 0.0_f64;
    for _ in 0..10 {
        let mut bytes = 0;
        let elapsed = timed(stream, || {
            bytes = kernels.peak.read(stream, &buffer)?;
            Ok(())
        })?;
        best = best.max(bytes as f64 / elapsed.as_secs_f64());
    }
    Ok(best)
}

/// Copies a GiB of blocks of the shape that a model of 8 billion parameters has.
fn copy(stream: &Stream, kernels: &Kernels, to_host: bool) -> Result<f64> {
    const BLOCKS: usize = 512;
    const POOLS: usize = 64;
    const STRIP_BYTES: usize = 32 << 10;
    const BYTES: usize = BLOCKS * POOLS * STRIP_BYTES;
    let buffer = DeviceBuffer::<u8>::zeroed(stream, BYTES, "copying")?;
    let pool = |pool: usize| buffer.slice(pool * BYTES / POOLS..(pool + 1) * BYTES / POOLS);
    let addresses: Vec<u64> = (0..POOLS).map(|index| pool(index).address().into()).collect();
    let pools = DeviceBuffer::new(stream.gpu(), POOLS, "copying")?;
    stream.upload_now(&addresses, &pools)?;
    let host = PinnedBuffer::zeroed(stream.gpu(), BYTES)?;
    let mut list = PinnedBuffer::zeroed(stream.gpu(), 2 * BLOCKS)?;
    for (pair, block) in list.chunks_exact_mut(2).zip(0..) {
        pair.copy_from_slice(&[block, (block * 7) % BLOCKS as i32]);
    }
    let copies = BlockCopies {
        pools: &pools,
        host: &host,
        strip_bytes: STRIP_BYTES,
        list: &list,
        first: 0,
        count: BLOCKS,
        to_host,
    };
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let elapsed = timed(stream, || Ok(kernels.copy.copy(stream, &copies)?))?;
        best = best.max(BYTES as f64 / elapsed.as_secs_f64());
    }
    Ok(best)
}

fn multiply(stream: &Stream, kernels: &Kernels) -> Result<(f64, f64)> {
    const SIZE: usize = 8192;
    let matrix = || DeviceBuffer::<bf16>::new(stream.gpu(), SIZE * SIZE, "multiplying");
    let (weights, input, output) = (matrix()?, matrix()?, matrix()?);
    kernels.fill.fill(stream, &weights, 1, 1.0)?;
    kernels.fill.fill(stream, &input, 2, 1.0)?;
    let product = Product {
        rows: SIZE,
        outputs: SIZE,
        inputs: SIZE,
        output_stride: SIZE,
        output_type: OutputType::Bf16,
        accumulate: false,
    };
    let output = output.cast();
    let operands = Operands { weights: &weights, input: &input, output: &output };
    let mut multiplier = Multiplier::new(stream.gpu())?;
    multiplier.tune(stream, product, std::slice::from_ref(&operands))?;
    let mut run = |times: usize| -> Result<f64> {
        let elapsed = timed(stream, || {
            for _ in 0..times {
                multiplier.multiply(stream, product, &operands)?;
            }
            Ok(())
        })?;
        Ok(times as f64 * 2.0 * (SIZE as f64).powi(3) / elapsed.as_secs_f64())
    };
    let burst = run(30)?;
    run(2000)?;
    Ok((burst, run(300)?))
}

/// The time that work takes on the GPU.
fn timed(stream: &Stream, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let (begin, end) = (Event::timed(stream.gpu())?, Event::timed(stream.gpu())?);
    begin.record(stream)?;
    work()?;
    end.record(stream)?;
    end.wait()?;
    Ok(Duration::from_secs_f64(f64::from(end.milliseconds_since(&begin)?) / 1e3))
}
