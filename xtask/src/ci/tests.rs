//! Stages that run the workspace's tests.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{
    Run,
    model::without_settings,
    tally::{Tally, of_cargo_test},
};
use crate::process::{cargo, watch};

/// Names the model's file to the tests that need one; without it they say that they were skipped.
const MODEL_VARIABLE: &str = "BRIGADE_TEST_GGUF";

pub(super) fn with_model(run: &mut Run) -> Result<()> {
    let file = run.model.clone().context("no model was fetched")?;
    tests(run, Some(&file))
}

pub(super) fn without_model(run: &mut Run) -> Result<()> {
    tests(run, None)
}

fn tests(run: &mut Run, model: Option<&Path>) -> Result<()> {
    let mut command = cargo(&run.workspace.root);
    without_settings(&mut command);
    command.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    if let Some(model) = model {
        command.env(MODEL_VARIABLE, model);
    }
    let mut tally = Tally::default();
    let succeeded = watch(&mut command, |line| tally += of_cargo_test(line).unwrap_or_default())?;
    run.tally += tally;
    ensure!(succeeded, "`cargo test` failed");
    ensure!(tally.passed > 0, "`cargo test` ran no test");
    Ok(())
}
