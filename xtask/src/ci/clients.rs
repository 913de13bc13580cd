//! Real clients against the real program: `dev/conformance`, in a Python environment of its own below `target/`.

use std::process::Command;

use anyhow::{Result, ensure};

use super::{
    Run,
    model::{program_file, without_settings},
    python::{environment, program_in},
    tally::{Tally, of_pytest},
};
use crate::process::watch;

/// Packages that the tests need, with their versions.
const REQUIREMENTS: &str = "dev/conformance/requirements.txt";

pub(super) fn run(run: &mut Run) -> Result<()> {
    let environment = environment(&run.workspace, "conformance-venv", REQUIREMENTS)?;
    let mut command = Command::new(program_in(&environment, "python"));
    without_settings(&mut command);
    command
        .args(["-m", "pytest", "-p", "no:cacheprovider", "--durations=5", "dev/conformance"])
        .arg("--binary")
        .arg(program_file(&run.workspace))
        .env("BRIGADE_CACHE", run.workspace.models())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(&run.workspace.root);
    let mut tally = Tally::default();
    // The last summary counts; earlier lines may look like one.
    let succeeded = watch(&mut command, |line| tally = of_pytest(line).unwrap_or(tally))?;
    run.tally += tally;
    ensure!(succeeded, "the client tests failed");
    ensure!(tally.passed > 0, "pytest ran no test");
    Ok(())
}
