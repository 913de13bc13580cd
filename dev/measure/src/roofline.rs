//! What this machine can do at best: how fast it reads memory, and how fast it multiplies and adds.

use std::{hint::black_box, time::Duration};

use device::cpu::{AlignedBuffer, Cpu, partition};
use kernels::peak::{Peak, peak};
use serde_json::{Value, json};

use crate::{
    machine::{affordable_bytes, cpu_name, last_level_cache_bytes},
    report::{giga, percent},
    timing::time,
};

/// Numbers read at a time for the bandwidth: some milliseconds at most, as kernels take, so that a moment without
/// disturbance is enough for both.
const READ_SLICE: usize = 4 << 20;
/// Slices to go round, at least.
const READ_SLICES_MIN: usize = 16;
/// How much larger all slices are than the last-level cache, at least.
const READ_CACHES: usize = 8;
const READ_BUDGET: Duration = Duration::from_secs(2);
const PEAK_BUDGET: Duration = Duration::from_secs(1);
/// Rounds of a peak's loop: a millisecond or some.
const PEAK_ROUNDS: u64 = 1 << 18;

/// The best rates measured, by all threads together, in units a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roofline {
    /// Bytes read from memory.
    pub(crate) read_bytes_s: f64,
    /// Operations on 32-bit floats, two for each multiply-add.
    pub(crate) f32_s: f64,
    /// Operations on bfloat16 values in pairs, where the rung has them.
    pub(crate) bf16_s: Option<f64>,
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
            bf16_s: rate(Peak::Bf16),
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
        if let Some(rate) = self.bf16_s {
            println!("  bfloat16 pairs           {:>8} GOP/s", giga(rate));
        }
        for (name, rate) in self.int8_peaks() {
            println!("  int8 dot, {name:<15}{:>8} GOP/s", giga(rate));
        }
        println!();
    }

    /// Measures once more and says by how much the machine has changed since: where others share it, percentages above
    /// are as good as this.
    pub(crate) fn print_drift(&self, cpu: &Cpu) {
        let now = Self::measure(cpu);
        println!(
            "\nat the end the machine reads at {} of the above, multiplies floats at {} and integers at {}",
            percent(now.read_bytes_s, self.read_bytes_s),
            percent(now.f32_s, self.f32_s),
            percent(now.int8_s, self.int8_s)
        );
    }

    /// All figures.
    pub(crate) fn json(&self, cpu: &Cpu) -> Value {
        json!({
            "cpu": cpu_name(),
            "rung": cpu.isa.rung().to_string(),
            "threads": cpu.pool.threads(),
            "read_bytes_s": self.read_bytes_s,
            "f32_operations_s": self.f32_s,
            "bf16_operations_s": self.bf16_s,
            "int8_operations_s": self.int8_s,
            "int8_narrow_operations_s": self.int8_narrow_s,
        })
    }
}

/// Reads far more than caches hold, slice after slice, each thread its part of a slice.
fn read_bytes_s(cpu: &Cpu) -> f64 {
    let slice_bytes = size_of::<u32>() * READ_SLICE;
    let cold_bytes = affordable_bytes(READ_CACHES * last_level_cache_bytes());
    let slices = READ_SLICES_MIN.max(cold_bytes / slice_bytes);
    let mut buffer = AlignedBuffer::<u32>::zeroed(slices * READ_SLICE);
    // Memory that was never written is one page of zeros, read from the cache over and over.
    let mut parts: Vec<&mut [u32]> = buffer.chunks_mut(READ_SLICE).collect();
    cpu.pool.for_each(&mut parts, |index, part| part.fill(index as u32));
    let mut slices = buffer.chunks_exact(READ_SLICE).cycle();
    let timing = time(READ_BUDGET, || {
        let slice = slices.next().unwrap_or_default();
        cpu.pool.run(&|worker| {
            black_box(sum(&slice[partition(READ_SLICE, cpu.pool.threads(), worker)]));
        });
    });
    slice_bytes as f64 / timing.best_s
}

/// A sum that costs less than the reading: many partial sums, which the compiler makes vectors of.
fn sum(values: &[u32]) -> u32 {
    const SUMS: usize = 32;
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
