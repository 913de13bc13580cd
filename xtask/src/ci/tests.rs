//! Stages that run the workspace's tests.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::{
    Run,
    model::without_settings,
    python::{environment, programs_of},
    tally::{Tally, of_cargo_test},
};
use crate::{
    planted,
    process::{cargo, watch},
    workspace::Workspace,
};

/// Names the model's file to the tests that need one; without it they say that they were skipped.
const MODEL_VARIABLE: &str = "BRIGADE_TEST_GGUF";
/// Says that the compiler of CUDA's sources must be found; without it, where there is none, they are not compiled.
const COMPILER_VARIABLE: &str = "BRIGADE_NVRTC_REQUIRED";
/// The packages of that compiler, with their versions.
const COMPILER_REQUIREMENTS: &str = "crates/cuda/tests/requirements.txt";

pub(super) fn with_model(run: &mut Run) -> Result<()> {
    let file = run.model.clone().context("no model was fetched")?;
    tests(run, Some(&file))
}

pub(super) fn without_model(run: &mut Run) -> Result<()> {
    tests(run, None)
}

/// Faults built into the pure crates are found.
pub(super) fn planted(run: &mut Run) -> Result<()> {
    counted(run, &mut planted::command(&run.workspace))
}

fn tests(run: &mut Run, model: Option<&Path>) -> Result<()> {
    let mut command = cargo(&run.workspace.root);
    without_settings(&mut command);
    command.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    if let Some(model) = model {
        command.env(MODEL_VARIABLE, model);
        add_compiler(&run.workspace, &mut command)?;
    }
    counted(run, &mut command)
}

/// Runs tests and counts them.
fn counted(run: &mut Run, command: &mut Command) -> Result<()> {
    let mut tally = Tally::default();
    let succeeded = watch(command, |line| tally += of_cargo_test(line).unwrap_or_default())?;
    run.tally += tally;
    ensure!(succeeded, "`cargo test` failed");
    ensure!(tally.passed > 0, "`cargo test` ran no test");
    Ok(())
}

/// Lets the tests find the compiler of CUDA's sources, which needs no GPU. Its packages are made for Linux.
fn add_compiler(workspace: &Workspace, command: &mut Command) -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let environment = environment(workspace, "cuda-venv", COMPILER_REQUIREMENTS)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(programs_of(&environment)).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders)?).env(COMPILER_VARIABLE, "1");
    Ok(())
}
