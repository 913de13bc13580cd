//! Measuring: `dev/measure` in a release build.

use std::env;

use anyhow::{Context, Result};

use crate::{
    process::{self, cargo},
    workspace::Workspace,
};

/// Where the tool looks for models that are not files; the same folder that `ci` keeps them in.
const CACHE_VARIABLE: &str = "BRIGADE_CACHE";

/// Runs the tool with these words, in the folder where the user is.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let workspace = Workspace::open()?;
    let here = env::current_dir().context("the current folder")?;
    let mut command = cargo(&here);
    command.args(["run", "--release", "--package", "measure", "--manifest-path"]);
    command.arg(workspace.root.join("Cargo.toml")).arg("--").args(words);
    if env::var_os(CACHE_VARIABLE).is_none() {
        command.env(CACHE_VARIABLE, workspace.models());
    }
    process::run(&mut command)
}
