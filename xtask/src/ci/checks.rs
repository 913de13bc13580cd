//! Stages that look at the code without running it.

use anyhow::{Context, Result};

use super::Run;
use crate::{
    process::{self, cargo},
    tidy,
};

pub(super) fn format(run: &mut Run) -> Result<()> {
    let mut command = cargo(&run.workspace.root);
    process::run(command.args(["fmt", "--all", "--check"]))
        .context("`cargo fmt --all` puts it right")
}

pub(super) fn tidy(run: &mut Run) -> Result<()> {
    tidy::check(&run.workspace)
}

pub(super) fn lints(run: &mut Run) -> Result<()> {
    let mut command = cargo(&run.workspace.root);
    let arguments = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    process::run(command.args(arguments))
}

/// The documentation of private parts as well: it is for those who work on them.
pub(super) fn documentation(run: &mut Run) -> Result<()> {
    let mut command = cargo(&run.workspace.root);
    let arguments = ["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"];
    process::run(command.args(arguments).env("RUSTDOCFLAGS", "-D warnings"))
}
