//! What the GPU can do at best: reading memory, and multiplying matrices.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use cuda::{
    Compiler, DeviceBuffer, Event, Gpu, Multiplier, Operands, OutputType, Product, Stream,
    kernels::{KernelOptions, Kernels},
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
}

impl Ceilings {
    /// Takes a few seconds and 6 GB for a moment.
    pub(crate) fn measure(gpu: &Arc<Gpu>) -> Result<Self> {
        let stream = Stream::new(gpu)?;
        let compiler = Compiler::new(&gpu.architecture(), None)?;
        let kernels = Kernels::load(gpu, &compiler, &KernelOptions::new(gpu, (64, 1), Vec::new()))?;
        let read_bytes_s = read(&stream, &kernels)?;
        let (burst_s, matrix_s) = multiply(&stream, &kernels)?;
        Ok(Self { read_bytes_s, matrix_s, burst_s })
    }

    pub(crate) fn print(&self) {
        println!(
            "reads {:.0} GB/s; multiplies bf16 at {:.0} TFLOP/s at first, {:.0} after 3 s",
            self.read_bytes_s / 1e9,
            self.burst_s / 1e12,
            self.matrix_s / 1e12
        );
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
