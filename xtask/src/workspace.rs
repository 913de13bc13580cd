//! The workspace as cargo describes it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{cargo, output};

/// The workspace: where it lies, and its packages.
pub(crate) struct Workspace {
    /// Its root folder.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// Its packages.
    pub(crate) packages: Vec<Package>,
}

/// A package of the workspace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its manifest, from the workspace's root.
    pub(crate) manifest: PathBuf,
    /// Whether the manifest describes it.
    pub(crate) is_described: bool,
    /// What it builds with: packages of the workspace and others.
    pub(crate) dependencies: Vec<Dependency>,
}

/// A dependency as declared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dependency {
    /// The package's name.
    pub(crate) name: String,
    /// Whether only tests, examples and benches see it.
    pub(crate) is_for_tests: bool,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn open() -> Result<Self> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in a folder")?;
        let mut command = cargo(root);
        command.args(["metadata", "--no-deps", "--format-version", "1"]);
        let text = output(&mut command)?;
        let metadata: Value = serde_json::from_str(&text).context("cargo metadata is JSON")?;
        Self::parse(root, &metadata).context("cargo metadata lacks a field")
    }

    /// Where models are kept.
    pub(crate) fn models(&self) -> PathBuf {
        self.target.join("models")
    }

    fn parse(root: &Path, metadata: &Value) -> Option<Self> {
        let packages = metadata["packages"].as_array()?.iter();
        Some(Self {
            root: root.to_owned(),
            target: metadata["target_directory"].as_str()?.into(),
            packages: packages
                .map(|package| Package::parse(root, package))
                .collect::<Option<_>>()?,
        })
    }
}

impl Package {
    fn parse(root: &Path, package: &Value) -> Option<Self> {
        let manifest = Path::new(package["manifest_path"].as_str()?);
        let dependencies = package["dependencies"].as_array()?.iter();
        Some(Self {
            name: package["name"].as_str()?.to_owned(),
            manifest: manifest.strip_prefix(root).ok()?.to_owned(),
            is_described: package["description"]
                .as_str()
                .is_some_and(|text| !text.trim().is_empty()),
            dependencies: dependencies.map(Dependency::parse).collect::<Option<_>>()?,
        })
    }
}

impl Dependency {
    fn parse(dependency: &Value) -> Option<Self> {
        Some(Self {
            name: dependency["name"].as_str()?.to_owned(),
            is_for_tests: dependency["kind"].as_str() == Some("dev"),
        })
    }
}
