//! Whether the soak of `dev/sim` finds each of the faults that can be built into the pure crates.

use std::process::Command;

use anyhow::Result;

use crate::{
    process::{cargo, run as run_command},
    workspace::Workspace,
};

/// The tests that plant them. The feature is in no other build.
pub(crate) fn command(workspace: &Workspace) -> Command {
    let mut command = cargo(&workspace.root);
    command.args(["test", "--locked", "--package", "sim", "--features", "planted", "planted::"]);
    command
}

/// Runs them.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    run_command(&mut command(workspace))
}
