//! The highest rates of arithmetic there are on this CPU, as yardsticks for the kernels: loops that touch registers
//! alone, with more independent sums than an instruction's latency needs. The caller takes the time.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::sync::atomic::{AtomicU64, Ordering};

use device::cpu::{Cpu, Rung};

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peak {
    /// Multiply-adds of 32-bit floats.
    F32,
    /// Products of pairs of bfloat16 values with sums in 32-bit floats.
    Bf16,
    /// Dot products of 8-bit integers with exact 32-bit sums.
    Int8,
    /// Dot products of 8-bit with 4-bit integers, with sums of 16 bits that are widened now and then. Only where this
    /// is faster than exact sums.
    Int8Narrow,
}

impl Peak {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Int8, Self::Int8Narrow];
}

/// Runs `rounds` rounds on every thread and returns the operations done, two for each multiply-add; none if the rung in
/// use has no such instructions of its own.
pub fn peak(cpu: &Cpu, peak: Peak, rounds: u64) -> Option<u64> {
    if !has(cpu.isa.rung(), peak) {
        return None;
    }
    let operations = AtomicU64::new(0);
    cpu.pool.run(&|_| {
        operations.fetch_add(run(cpu.isa.rung(), peak, rounds), Ordering::Relaxed);
    });
    Some(operations.into_inner())
}

fn has(rung: Rung, peak: Peak) -> bool {
    match (peak, rung) {
        (Peak::F32 | Peak::Int8, _) => true,
        (Peak::Bf16, rung) => rung.has_bf16_pairs(),
        #[cfg(target_arch = "x86_64")]
        (Peak::Int8Narrow, Rung::Avx2) => true,
        (Peak::Int8Narrow, _) => false,
    }
}

/// The operations that one thread did. `rung` must come from an `Isa` and have what is asked for.
fn run(rung: Rung, peak: Peak, rounds: u64) -> u64 {
    match (rung, peak) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the rung comes from an `Isa`, which proves that the CPU has its features.
        (Rung::Avx2, _) => unsafe {
            match peak {
                Peak::F32 | Peak::Bf16 => avx2::f32(rounds),
                Peak::Int8 => avx2::int8(rounds),
                Peak::Int8Narrow => avx2::int8_narrow(rounds),
            }
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Rung::AvxVnni, _) => unsafe {
            match peak {
                Peak::F32 | Peak::Bf16 => avx2::f32(rounds),
                Peak::Int8 | Peak::Int8Narrow => avx2::int8_vnni(rounds),
            }
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Rung::Avx512Bf16, Peak::Bf16) => unsafe { avx512::bf16(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Rung::Avx512 | Rung::Avx512Bf16, _) => unsafe {
            match peak {
                Peak::F32 | Peak::Bf16 => avx512::f32(rounds),
                Peak::Int8 | Peak::Int8Narrow => avx512::int8(rounds),
            }
        },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        (Rung::Neon, _) => unsafe {
            match peak {
                Peak::F32 | Peak::Bf16 => neon::f32(rounds),
                Peak::Int8 | Peak::Int8Narrow => neon::int8(rounds),
            }
        },
        (Rung::Scalar, _) => match peak {
            Peak::F32 | Peak::Bf16 => scalar::f32(rounds),
            Peak::Int8 | Peak::Int8Narrow => scalar::int8(rounds),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cpus;

    #[test]
    fn every_rung_counts_what_all_threads_do() {
        for cpu in cpus() {
            for kind in Peak::ALL {
                let few = peak(&cpu, kind, 1);
                let many = peak(&cpu, kind, 1000);
                assert_eq!(few.map(|few| few * 1000), many, "{kind:?} on {}", cpu.isa.rung());
                assert_eq!(few.is_some(), has(cpu.isa.rung(), kind));
                assert!(few.is_none_or(|few| few > 0 && few.is_multiple_of(4)));
            }
        }
    }
}
