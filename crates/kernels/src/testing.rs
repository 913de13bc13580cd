//! What the conformance cases of all families share.

use device::cpu::{Cpu, Isa, Rung};

/// A CPU for each rung this machine has, with two threads.
pub(crate) fn cpus() -> Vec<Cpu> {
    let detected = Isa::detect().rung();
    let rungs = Rung::ALL.iter().filter(|&&rung| rung <= detected);
    rungs.map(|&rung| Cpu::new(rung, 2)).collect()
}

/// Reproducible values between -1 and 1 (a multiply-xor generator, the same on every platform).
pub(crate) struct Values(u64);

impl Values {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    pub(crate) fn float(&mut self) -> f32 {
        self.bits() as f32 / u32::MAX as f32 * 2.0 - 1.0
    }

    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }
}

/// Fails unless `got` is `want` within `relative` of the largest value wanted.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], relative: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = want.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got - want).abs() <= relative * scale,
            "{what}: [{index}] is {got}, expected {want} (tolerance {})",
            relative * scale
        );
    }
}
