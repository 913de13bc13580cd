//! Stages that make the program and fetch the model that tests run with.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::Run;
use crate::{
    process::{self, cargo},
    workspace::Workspace,
};

/// The default model, so that what everybody runs first is what is tested.
const MODEL: &str = "smollm2";

pub(super) fn build(run: &mut Run) -> Result<()> {
    // With the features that `cargo run` would have.
    let mut command = cargo(&run.workspace.root);
    process::run(command.args(["build", "--locked", "--release", "--bin", "brigade"]))
}

pub(super) fn pull(run: &mut Run) -> Result<()> {
    let printed = process::output(program(&run.workspace).args(["pull", MODEL]))?;
    let file = printed.lines().next_back().context("`brigade pull` printed nothing")?;
    ensure!(Path::new(file).is_file(), "`brigade pull` printed `{file}`, which is not a file");
    println!("{file}");
    run.model = Some(file.into());
    Ok(())
}

/// The release build.
pub(super) fn program_file(workspace: &Workspace) -> PathBuf {
    workspace.target.join("release").join(format!("brigade{}", std::env::consts::EXE_SUFFIX))
}

/// The release build, run as the README says, with models kept below `target/` and none of the settings that may be in
/// the environment.
fn program(workspace: &Workspace) -> Command {
    let mut command = cargo(&workspace.root);
    without_settings(&mut command);
    command.env("BRIGADE_CACHE", workspace.models());
    command.args(["run", "--quiet", "--locked", "--release", "--"]);
    command
}

/// Removes Brigade's settings from the environment of a command.
pub(super) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BRIGADE_") {
            command.env_remove(name);
        }
    }
}
