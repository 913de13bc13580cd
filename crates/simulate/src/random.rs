//! Random numbers from a seed.

/// The SplitMix64 generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that this seed leads to.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.any() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        low + (self.any() % u64::from(high - low + 1)) as u32
    }

    /// The same, but as likely from 10 to 100 as from 100 to 1000.
    pub fn spread(&mut self, low: u32, high: u32) -> u32 {
        let (low, high) = (f64::from(low).ln(), f64::from(high).ln());
        (low + self.unit() * (high - low)).exp().round() as u32
    }

    /// A log-normal number of this median and spread (the standard deviation of its logarithm), within bounds.
    pub fn log_normal(&mut self, median: f64, spread: f64, low: u32, high: u32) -> u32 {
        // The sum of twelve is near enough to a normal number.
        let normal = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        let value = (median * (spread * normal).exp()).round();
        value.clamp(f64::from(low), f64::from(high)) as u32
    }

    /// Seconds to the next of events that come `rate_s` times a second.
    pub fn gap_s(&mut self, rate_s: f64) -> f64 {
        -(1.0 - self.unit()).ln() / rate_s
    }

    /// True once in so many times.
    pub fn chance(&mut self, one_in: u64) -> bool {
        self.any().is_multiple_of(one_in)
    }
}
