//! Real clients against the real program: `dev/conformance`, in a Python environment of its own below `target/`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{
    Run,
    model::{program_file, without_settings},
    tally::{Tally, of_pytest},
};
use crate::{
    process::{self, watch},
    workspace::Workspace,
};

/// Packages that the tests need, with their versions.
const REQUIREMENTS: &str = "dev/conformance/requirements.txt";
const NO_PYTHON: &str = "the client tests need Python 3.9 or later with its venv module (python3-venv on Debian and Ubuntu)";

pub(super) fn run(run: &mut Run) -> Result<()> {
    let environment = environment(&run.workspace)?;
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

/// The Python environment, made anew where the requirements are not those it was made for.
fn environment(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("conformance-venv");
    let requirements = workspace.root.join(REQUIREMENTS);
    let wanted =
        fs::read_to_string(&requirements).with_context(|| format!("reading {REQUIREMENTS}"))?;
    let made_for = folder.join("made-for.txt");
    if fs::read_to_string(&made_for).is_ok_and(|text| text == wanted) {
        return Ok(folder);
    }
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", folder.display()));
        }
        _ => {}
    }
    process::run(Command::new("python3").args(["-m", "venv"]).arg(&folder)).context(NO_PYTHON)?;
    let mut install = Command::new(program_in(&folder, "python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
    process::run(install.arg(&requirements))
        .context("the packages of the client tests cannot be installed")?;
    // Last, so that an environment that was left half-made is made again.
    fs::write(&made_for, wanted).with_context(|| format!("writing {}", made_for.display()))?;
    Ok(folder)
}

fn program_in(environment: &Path, name: &str) -> PathBuf {
    environment.join(if cfg!(windows) { "Scripts" } else { "bin" }).join(name)
}
