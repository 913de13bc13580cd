//! Which instruction sets this CPU has, asked once.

use std::{fmt, str::FromStr};

/// A rung of the ladder of instruction sets; higher rungs include the lower ones, but for AVX-VNNI, which some CPUs
/// with AVX-512 lack: asked for there, AVX2 is used. Each architecture has its own ladder, and only its rungs exist in
/// a program built for it, so that no rung can be compared with one of another ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// Plain code, on any CPU: the meaning of every kernel.
    Scalar,
    /// AVX2, FMA and F16C: x86-64 since about 2013.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same with AVX-VNNI, dot products of 8-bit integers: clients since Alder Lake and Zen 5.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI: servers since about 2019, Zen 4 and later.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same with products of bfloat16 values: Cooper Lake, servers since Sapphire Rapids, Zen 4 and later.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// NEON with the dot product of 8-bit integers: AArch64 since about 2018 (Cortex-A76, Neoverse N1, Apple M1).
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Rung {
    /// All rungs of this architecture, lowest first.
    pub const ALL: &[Self] = &[
        Self::Scalar,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::AvxVnni,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
    ];

    /// The highest rung of this architecture, which this CPU may lack.
    pub const HIGHEST: Self = Self::ALL[Self::ALL.len() - 1];

    /// Whether it multiplies pairs of bfloat16 values.
    pub fn has_bf16_pairs(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => true,
            _ => false,
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
        })
    }
}

/// The rungs above scalar of all architectures, by name, each with the architecture that has it.
const NAMES: [(&str, &str); 5] = [
    ("avx2", "x86-64"),
    ("avxvnni", "x86-64"),
    ("avx512", "x86-64"),
    ("avx512bf16", "x86-64"),
    ("neon", "AArch64"),
];

/// The text is not the name of a rung of this architecture.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRungError {
    /// There is none of that name.
    #[error("unknown instruction set `{0}`: expected {names}", names = names_here())]
    Unknown(String),
    /// Another architecture has it.
    #[error(
        "instruction set `{name}` is one of {architecture}, which this program is not built for: expected {names}",
        names = names_here()
    )]
    Elsewhere {
        /// The rung.
        name: &'static str,
        /// Who has it.
        architecture: &'static str,
    },
}

fn names_here() -> String {
    let names: Vec<String> = Rung::ALL.iter().map(Rung::to_string).collect();
    names.join(" or ")
}

impl FromStr for Rung {
    type Err = ParseRungError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rung) = Self::ALL.iter().find(|rung| rung.to_string() == text) {
            return Ok(*rung);
        }
        Err(match NAMES.into_iter().find(|(name, _)| *name == text) {
            Some((name, architecture)) => ParseRungError::Elsewhere { name, architecture },
            None => ParseRungError::Unknown(text.to_owned()),
        })
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
        let rung = self.rung.min(rung_max);
        #[cfg(target_arch = "x86_64")]
        let rung = if rung == Rung::AvxVnni && !has_avx_vnni() { Rung::Avx2 } else { rung };
        Self { rung }
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
    let avx512bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    match (avx512bf16, avx512, avx2) {
        (true, ..) => Rung::Avx512Bf16,
        (_, true, _) => Rung::Avx512,
        (_, _, true) if has_avx_vnni() => Rung::AvxVnni,
        (_, _, true) => Rung::Avx2,
        _ => Rung::Scalar,
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx_vnni() -> bool {
    is_x86_feature_detected!("avxvnni")
}

#[cfg(target_arch = "aarch64")]
fn detect_rung() -> Rung {
    use std::arch::is_aarch64_feature_detected;
    let neon = is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod");
    if neon { Rung::Neon } else { Rung::Scalar }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect_rung() -> Rung {
    Rung::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_caps_hold() {
        for &rung in Rung::ALL {
            assert_eq!(rung.to_string().parse(), Ok(rung));
            assert!(Isa::detect().capped(rung).rung() <= rung);
            assert!(rung <= Rung::HIGHEST);
        }
        assert_eq!("sse9".parse::<Rung>(), Err(ParseRungError::Unknown("sse9".to_owned())));
    }

    #[test]
    fn the_names_of_all_architectures_are_known() {
        for (name, architecture) in NAMES {
            match name.parse::<Rung>() {
                Ok(rung) => assert_ne!(rung, Rung::Scalar),
                Err(error) => {
                    assert_eq!(error, ParseRungError::Elsewhere { name, architecture });
                    let text = error.to_string();
                    assert!([name, architecture, "scalar"].iter().all(|part| text.contains(part)));
                }
            }
        }
        for rung in &Rung::ALL[1..] {
            let name = rung.to_string();
            assert!(NAMES.iter().any(|(known, _)| *known == name), "{name} is listed");
        }
    }
}
