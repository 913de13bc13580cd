//! Random weights in every format, the same for the same key everywhere.

use half::{bf16, f16};
use types::DataType;

/// Random numbers: SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A stream that belongs to a seed and a name.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a.
        let key = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |key, byte| {
            (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(key ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A value between -1 and 1.
    pub(crate) fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Values between -1 and 1.
    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }
}

/// Fills `target` with weights of this standard deviation around 0.
///
/// # Panics
/// If `target` is no whole number of blocks.
pub(crate) fn fill(random: &mut Random, data_type: DataType, deviation: f32, target: &mut [u8]) {
    let block_bytes = data_type.block_bytes();
    assert!(target.len().is_multiple_of(block_bytes), "weights of {data_type} are whole blocks");
    if !data_type.is_quantized() {
        // Of values between -1 and 1, the deviation is 1 / √3.
        let factor = deviation * 3.0_f32.sqrt();
        for element in target.chunks_exact_mut(block_bytes) {
            let value = random.float() * factor;
            match data_type {
                DataType::F16 => element.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                DataType::BF16 => element.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                _ => element.copy_from_slice(&value.to_le_bytes()),
            }
        }
        return;
    }
    // Any bytes are quanta; only the scales are chosen.
    for bytes in target.chunks_mut(8) {
        let bits = random.bits().to_le_bytes();
        bytes.copy_from_slice(&bits[..bytes.len()]);
    }
    let scales = scales(data_type);
    for block in target.chunks_exact_mut(block_bytes) {
        for &(place, factor) in scales {
            let scale = f16::from_f32(factor * deviation);
            block[place..place + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
}

/// The half-precision scales of a block: where they lie, and what they are for a standard deviation of 1 around 0 when
/// all other bytes are uniformly random.
fn scales(data_type: DataType) -> &'static [(usize, f32)] {
    /// Of n values in a row, one apart, the deviation is `√((n² - 1) / 12)`: of 16, 32 and 256.
    const OF: [f32; 3] = [4.61, 9.23, 73.9];
    match data_type {
        DataType::Q4_0 => &[(0, 1.0 / OF[0])],
        DataType::Q4_1 => &[(0, 1.0 / OF[0]), (2, -7.5 / OF[0])],
        DataType::Q5_0 => &[(0, 1.0 / OF[1])],
        DataType::Q5_1 => &[(0, 1.0 / OF[1]), (2, -15.5 / OF[1])],
        DataType::Q8_0 => &[(0, 1.0 / OF[2])],
        // Sub-scales and sub-minimums are 0 to 63, so that minimums count 7.5 and 15.5 times as much as scales if the
        // mean is to be 0; the deviations of `sub-scale × quantum - 7.5 × sub-minimum` and so on follow.
        DataType::Q4_K => &[(0, 1.0 / 258.0), (2, 7.5 / 258.0)],
        DataType::Q5_K => &[(0, 1.0 / 527.0), (2, 15.5 / 527.0)],
        // Sub-scales are -128 to 127, quanta -32 to 31.
        DataType::Q6_K => &[(208, 1.0 / 1366.0)],
        DataType::F32 | DataType::F16 | DataType::BF16 => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_every_format_have_the_deviation_asked_for() {
        for data_type in DataType::ALL {
            let elements = 1 << 16;
            let mut bytes = vec![0; data_type.bytes_for(elements).expect("whole blocks")];
            fill(&mut Random::new(1, "weights"), data_type, 0.03, &mut bytes);
            let mut weights = vec![0.0; elements];
            quant::dequantise(data_type, &bytes, &mut weights);
            let mean = weights.iter().sum::<f32>() / elements as f32;
            let square = weights.iter().map(|weight| weight * weight).sum::<f32>();
            let deviation = (square / elements as f32 - mean * mean).sqrt();
            assert!((0.028..0.032).contains(&deviation), "{data_type}: deviation {deviation}");
            assert!(mean.abs() < 0.004, "{data_type}: mean {mean}");
        }
    }

    #[test]
    fn streams_belong_to_their_seed_and_name() {
        let first = |seed, name| Random::new(seed, name).bits();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
    }
}
