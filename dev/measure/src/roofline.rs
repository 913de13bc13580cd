//! What this machine can do at best: how fast it reads memory, and how fast it multiplies and adds.

use std::{hint::black_box, time::Duration};

use device::cpu::{AlignedBuffer, Cpu, partition};
use kernels::peak::{Peak, peak};
use serde_json::{Value, json};

use crate::{
    machine::{affordable_bytes, cpu_name, last_level_cache_bytes},
    report::giga,
    timing::time,
};

/// Bytes read for the bandwidth, at least.
const READ_BYTES_MIN: usize = 256 << 20;
/// How many times the last-level cache is read for the bandwidth, at least.
const READ_CACHES: usize = 4;
const READ_BUDGET: Duration = Duration::from_secs(2);
const PEAK_BUDGET: Duration = Duration::from_millis(300);
/// Rounds of a peak's loop: a millisecond or some.
const PEAK_ROUNDS: u64 = 1 << 18;

/// The best rates measured, by all threads together, in units a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roofline {
    /// Bytes read from memory.
    pub(crate) read_bytes_s: f64,
    /// Operations on 32-bit floats, two for each multiply-add.
    pub(crate) f32_s: f64,
    /// Operations on 8-bit integers with exact sums.
    pub(crate) int8_s: f64,
    /// The same with sums of 16 bits, as 4-bit weights allow, where that is faster.
    pub(crate) int8_narrow_s: Option<f64>,
}

impl Roofline {
    /// Measures with the rung and the threads of `cpu`.
    pub(crate) fn measure(cpu: &Cpu) -> Self {
        let rate = |kind| rate(cpu, kind);
        Self {
            read_bytes_s: read_bytes_s(cpu),
            f32_s: rate(Peak::F32).expect("every rung multiplies floats"),
            int8_s: rate(Peak::Int8).expect("every rung multiplies integers"),
            int8_narrow_s: rate(Peak::Int8Narrow),
        }
    }

    /// The fastest that 4-bit weights allow.
    pub(crate) fn int8_of_4_bits_s(&self) -> f64 {
        self.int8_narrow_s.unwrap_or(self.int8_s)
    }

    /// Peaks of 8-bit integers with their names, exact sums first.
    pub(crate) fn int8_peaks(&self) -> Vec<(&'static str, f64)> {
        let narrow = self.int8_narrow_s.map(|rate| ("16-bit sums", rate));
        [("32-bit sums", self.int8_s)].into_iter().chain(narrow).collect()
    }

    /// Prints what was measured.
    pub(crate) fn print(&self, cpu: &Cpu) {
        println!("{}, {} on {} threads", cpu_name(), cpu.isa.rung(), cpu.pool.threads());
        println!("  reads memory at          {:>8} GB/s", giga(self.read_bytes_s));
        println!("  float32 multiply-adds    {:>8} GOP/s", giga(self.f32_s));
        for (name, rate) in self.int8_peaks() {
            println!("  int8 dot, {name:<15}{:>8} GOP/s", giga(rate));
        }
        println!();
    }

    /// All figures.
    pub(crate) fn json(&self, cpu: &Cpu) -> Value {
        json!({
            "cpu": cpu_name(),
            "rung": cpu.isa.rung().to_string(),
            "threads": cpu.pool.threads(),
            "read_bytes_s": self.read_bytes_s,
            "f32_operations_s": self.f32_s,
            "int8_operations_s": self.int8_s,
            "int8_narrow_operations_s": self.int8_narrow_s,
        })
    }
}

/// Reads far more than caches hold, each thread its own part.
fn read_bytes_s(cpu: &Cpu) -> f64 {
    let bytes = affordable_bytes(READ_BYTES_MIN.max(READ_CACHES * last_level_cache_bytes()));
    let threads = cpu.pool.threads();
    let mut buffer = AlignedBuffer::<u32>::zeroed(bytes / size_of::<u32>());
    // Memory that was never written is one page of zeros, read from the cache over and over.
    let mut parts: Vec<&mut [u32]> = buffer.chunks_mut(1 << 20).collect();
    cpu.pool.for_each(&mut parts, |index, part| part.fill(index as u32));
    let timing = time(READ_BUDGET, || {
        cpu.pool.run(&|worker| {
            black_box(sum(&buffer[partition(buffer.len(), threads, worker)]));
        });
    });
    size_of_val(&*buffer) as f64 / timing.best_s
}

/// A sum that costs less than the reading: many partial sums, which the compiler makes vectors of.
fn sum(values: &[u32]) -> u32 {
    const SUMS: usize = 64;
    let mut sums = [0_u32; SUMS];
    let (chunks, _) = values.as_chunks::<SUMS>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*value);
        }
    }
    sums.iter().fold(0, |total, sum| total.wrapping_add(*sum))
}

fn rate(cpu: &Cpu, kind: Peak) -> Option<f64> {
    let operations = peak(cpu, kind, PEAK_ROUNDS)?;
    let timing = time(PEAK_BUDGET, || {
        peak(cpu, kind, PEAK_ROUNDS);
    });
    Some(operations as f64 / timing.best_s)
}
