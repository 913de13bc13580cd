//! A counter-based generator: a number is a function of a key and a counter, with no state to keep or lose.

/// A number in `[0, 1)` for a key and a counter: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), applied
/// to the key and then to its sum with the counter.
pub(crate) fn uniform(key: u64, counter: u64) -> f64 {
    let bits = mix(mix(key).wrapping_add(counter.wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// The odd number nearest to 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(GOLDEN);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fill_the_unit_interval_evenly_along_keys_and_counters() {
        for by_key in [false, true] {
            let mut bins = [0_u32; 64];
            for index in 0..64_000 {
                let number = if by_key { uniform(index, 7) } else { uniform(7, index) };
                bins[(number * 64.0) as usize] += 1;
            }
            // 1,000 are expected in each bin; the standard deviation is about 31.
            assert!(bins.iter().all(|&count| (840..1160).contains(&count)), "{bins:?}");
        }
        assert_ne!(uniform(1, 2), uniform(2, 1));
    }
}
