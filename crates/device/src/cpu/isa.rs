//! Which instruction sets this CPU has, asked once.

use std::{fmt, str::FromStr};

/// A rung of the ladder of instruction sets; higher rungs include the lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// Plain code, on any CPU: the meaning of every kernel.
    Scalar,
    /// AVX2, FMA and F16C: x86-64 since about 2013.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI: servers since about 2019, Zen 4 and later.
    Avx512,
}

impl Rung {
    /// All rungs, lowest first.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        })
    }
}

/// The text is not the name of a rung.
#[derive(Debug, thiserror::Error)]
#[error("unknown instruction set `{0}`: expected scalar, avx2 or avx512")]
pub struct ParseRungError(String);

impl FromStr for Rung {
    type Err = ParseRungError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|rung| rung.to_string() == text)
            .ok_or_else(|| ParseRungError(text.to_owned()))
    }
}

/// Proof that this CPU has a rung: a value can only come from [`Isa::detect`], so that holding one makes it sound to
/// call code compiled for its rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa {
    rung: Rung,
}

impl Isa {
    /// Asks the CPU.
    pub fn detect() -> Self {
        Self { rung: detect_rung() }
    }

    /// The same, but not above `rung_max`.
    #[must_use]
    pub fn capped(self, rung_max: Rung) -> Self {
        Self { rung: self.rung.min(rung_max) }
    }

    /// The rung to use.
    pub fn rung(self) -> Rung {
        self.rung
    }
}

#[cfg(target_arch = "x86_64")]
fn detect_rung() -> Rung {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni");
    match (avx512, avx2) {
        (true, _) => Rung::Avx512,
        (false, true) => Rung::Avx2,
        (false, false) => Rung::Scalar,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect_rung() -> Rung {
    Rung::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_caps_hold() {
        for rung in Rung::ALL {
            assert_eq!(rung.to_string().parse::<Rung>().unwrap(), rung);
            assert!(Isa::detect().capped(rung).rung() <= rung);
        }
        assert!("sse9".parse::<Rung>().unwrap_err().to_string().contains("sse9"));
    }
}
