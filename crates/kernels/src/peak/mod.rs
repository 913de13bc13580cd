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
    /// Dot products of 8-bit integers with exact 32-bit sums.
    Int8,
    /// Dot products of 8-bit with 4-bit integers, with sums of 16 bits that are widened now and then. Only where this
    /// is faster than exact sums.
    Int8Narrow,
}

impl Peak {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::F32, Self::Int8, Self::Int8Narrow];
}

/// Runs `rounds` rounds on every thread and returns the operations done, two for each multiply-add; none if the rung in
/// use has no such instructions of its own.
pub fn peak(cpu: &Cpu, peak: Peak, rounds: u64) -> Option<u64> {
    if peak == Peak::Int8Narrow && !has_narrow_sums(cpu.isa.rung()) {
        return None;
    }
    let operations = AtomicU64::new(0);
    cpu.pool.run(&|_| {
        operations.fetch_add(run(cpu.isa.rung(), peak, rounds), Ordering::Relaxed);
    });
    Some(operations.into_inner())
}

fn has_narrow_sums(rung: Rung) -> bool {
    match rung {
        #[cfg(target_arch = "x86_64")]
        Rung::Avx2 => true,
        _ => false,
    }
}

/// The operations that one thread did. `rung` must come from an `Isa`.
fn run(rung: Rung, peak: Peak, rounds: u64) -> u64 {
    match rung {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the rung comes from an `Isa`, which proves that the CPU has its features.
        Rung::Avx2 => unsafe {
            match peak {
                Peak::F32 => avx2::f32(rounds),
                Peak::Int8 => avx2::int8(rounds),
                Peak::Int8Narrow => avx2::int8_narrow(rounds),
            }
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Rung::Avx512 | Rung::Avx512Bf16 => unsafe {
            match peak {
                Peak::F32 => avx512::f32(rounds),
                Peak::Int8 | Peak::Int8Narrow => avx512::int8(rounds),
            }
        },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Rung::Neon => unsafe {
            match peak {
                Peak::F32 => neon::f32(rounds),
                Peak::Int8 | Peak::Int8Narrow => neon::int8(rounds),
            }
        },
        Rung::Scalar => match peak {
            Peak::F32 => scalar::f32(rounds),
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
                let has_none = kind == Peak::Int8Narrow && !has_narrow_sums(cpu.isa.rung());
                assert_eq!(few.is_none(), has_none);
                assert!(few.is_none_or(|few| few > 0 && few.is_multiple_of(4)));
            }
        }
    }
}
