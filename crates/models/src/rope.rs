//! Frequencies of the rotary embedding, and the ways in which they are changed for long contexts.

use std::f64::consts::TAU;

use crate::RopeSpec;

/// How frequencies are changed for contexts longer than the model was first trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by a factor (position interpolation, Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Low ones divided by a factor, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above the original context over this are divided.
        low_frequency_factor: f64,
        /// Wavelengths below the original context over this are kept.
        high_frequency_factor: f64,
        /// Positions of the first training.
        original_context: f64,
    },
    /// As before with the ramp over dimensions, and scores made sharper (YaRN, Peng et al. 2023).
    Yarn {
        /// The factor.
        factor: f64,
        /// Positions of the first training.
        original_context: f64,
        /// Turns within the original context above which a frequency is kept.
        beta_fast: f64,
        /// Turns within the original context below which a frequency is divided.
        beta_slow: f64,
        /// Factor on cosines and sines; the paper's formula if absent.
        magnitude: Option<f64>,
    },
    /// Each divided by a factor of its own, as GGUF files carry them.
    Factors(Vec<f32>),
}

/// Frequencies as the kernel takes them.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeFrequencies {
    /// Radians per position, for each pair.
    pub frequencies: Vec<f64>,
    /// Factor on cosines and sines.
    pub magnitude: f32,
}

impl RopeFrequencies {
    /// The frequencies of a spec.
    pub fn new(spec: &RopeSpec) -> Self {
        let dims = spec.dims as f64;
        let base: Vec<f64> =
            (0..spec.dims / 2).map(|pair| spec.theta.powf(-2.0 * pair as f64 / dims)).collect();
        let mut magnitude = 1.0;
        let frequencies = match &spec.scaling {
            RopeScaling::None => base,
            RopeScaling::Linear { factor } => base.iter().map(|value| value / factor).collect(),
            RopeScaling::Factors(factors) => {
                base.iter().zip(factors).map(|(value, factor)| value / f64::from(*factor)).collect()
            }
            RopeScaling::Llama3 {
                factor,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_context,
            } => base
                .iter()
                .map(|value| {
                    let turns = original_context * value / TAU;
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - keep) * value / factor + keep * value
                })
                .collect(),
            RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                magnitude: given,
            } => {
                magnitude = given.unwrap_or(0.1 * factor.ln() + 1.0);
                let dimension = |turns: f64| {
                    dims * (original_context / (turns * TAU)).ln() / (2.0 * spec.theta.ln())
                };
                let first = dimension(*beta_fast).floor().max(0.0);
                let last = dimension(*beta_slow).ceil().min(dims - 1.0);
                let width = (last - first).max(0.001);
                base.iter()
                    .enumerate()
                    .map(|(pair, value)| {
                        let divide = ((pair as f64 - first) / width).clamp(0.0, 1.0);
                        divide * value / factor + (1.0 - divide) * value
                    })
                    .collect()
            }
        };
        Self { frequencies, magnitude: magnitude as f32 }
    }
}

#[cfg(test)]
mod tests {
    use kernels::rope::RopePairs;

    use super::*;

    fn frequencies(scaling: RopeScaling) -> Vec<f64> {
        let spec = RopeSpec { theta: 10_000.0, dims: 64, pairs: RopePairs::Halves, scaling };
        RopeFrequencies::new(&spec).frequencies
    }

    #[test]
    fn scalings_keep_high_frequencies_and_divide_low_ones() {
        let plain = frequencies(RopeScaling::None);
        assert_eq!(plain[0], 1.0);
        assert!((plain[16] - 0.01).abs() < 1e-12);
        let llama3 = frequencies(RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192.0,
        });
        let yarn = frequencies(RopeScaling::Yarn {
            factor: 8.0,
            original_context: 8192.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            magnitude: None,
        });
        for scaled in [&llama3, &yarn] {
            assert_eq!(scaled[0], plain[0]);
            assert!((scaled[31] - plain[31] / 8.0).abs() < 1e-15);
            assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]));
        }
        // The wavelength of pair 22 lies between 8192 / 4 and 8192: by hand, turns = 8192 × 10^-2.75 / 2π = 2.3185.
        let keep = (8192.0 * 10_f64.powf(-2.75) / TAU - 1.0) / 3.0;
        let want = plain[22] * ((1.0 - keep) / 8.0 + keep);
        assert!((llama3[22] - want).abs() < 1e-15);
        let linear = frequencies(RopeScaling::Linear { factor: 4.0 });
        assert_eq!(linear[5], plain[5] / 4.0);
        let factors = frequencies(RopeScaling::Factors(vec![2.0; 32]));
        assert_eq!(factors[9], plain[9] / 2.0);
    }
}
