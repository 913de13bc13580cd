//! Everything that has to pass, stage after stage, cheap ones first. The first failure ends the run.

mod checks;
mod clients;
mod model;
mod other_architecture;
mod python;
mod tally;
mod tests;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use tally::Tally;

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything.
    All,
    /// What needs no model, no release build and no network.
    Fast,
}

/// What stages share.
struct Run {
    workspace: Workspace,
    tally: Tally,
    /// The model's file, once it is fetched.
    model: Option<PathBuf>,
}

/// A stage: its name and what it does.
type Stage = (&'static str, fn(&mut Run) -> Result<()>);

const CHECKS: &[Stage] = &[
    ("format", checks::format),
    ("rules of the tree", checks::tidy),
    ("lints", checks::lints),
    ("documentation", checks::documentation),
    ("lints for AArch64", other_architecture::lints),
];
const FAST: &[Stage] = &[
    ("tests without a model", tests::without_model),
    ("planted faults", tests::planted),
    ("kernels on AArch64", other_architecture::tests),
];
const WHOLE: &[Stage] = &[
    ("release build", model::build),
    ("model", model::pull),
    ("tests", tests::with_model),
    ("planted faults", tests::planted),
    ("kernels on AArch64", other_architecture::tests),
    ("clients", clients::run),
];

/// Runs all stages of a scope. The last line on standard output says how many tests passed and failed; a stage that
/// fails without a test that does counts as one.
pub(crate) fn run(scope: Scope) -> ExitCode {
    let mut tally = Tally::default();
    let result = run_stages(scope, &mut tally);
    if let Err(error) = &result {
        eprintln!("\nerror: {error:#}");
        tally.failed = tally.failed.max(1);
    }
    println!("{tally}");
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_stages(scope: Scope, tally: &mut Tally) -> Result<()> {
    let mut run = Run { workspace: Workspace::open()?, tally: Tally::default(), model: None };
    let begin = Instant::now();
    let stages = CHECKS.iter().chain(if scope == Scope::Fast { FAST } else { WHOLE });
    for (name, stage) in stages {
        println!("\n== {name}");
        let begin = Instant::now();
        let result = stage(&mut run);
        *tally = run.tally;
        result.with_context(|| format!("stage `{name}`"))?;
        println!("== {name}: {:.1} s", begin.elapsed().as_secs_f64());
    }
    println!("\n== all stages: {:.0} s\n", begin.elapsed().as_secs_f64());
    Ok(())
}
