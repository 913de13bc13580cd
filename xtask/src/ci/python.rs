//! Python environments below `target/`, each made for a list of packages.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{process, workspace::Workspace};

const NO_PYTHON: &str =
    "this needs Python 3.9 or later with its venv module (python3-venv on Debian and Ubuntu)";

/// The environment of this name with the packages that a file of the tree lists, made anew where it was made for
/// others.
pub(super) fn environment(
    workspace: &Workspace,
    name: &str,
    requirements: &str,
) -> Result<PathBuf> {
    let folder = workspace.target.join(name);
    let list = workspace.root.join(requirements);
    let wanted = fs::read_to_string(&list).with_context(|| format!("reading {requirements}"))?;
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
    process::run(install.arg(&list))
        .with_context(|| format!("the packages of {requirements} cannot be installed"))?;
    // Last, so that an environment that was left half-made is made again.
    fs::write(&made_for, wanted).with_context(|| format!("writing {}", made_for.display()))?;
    Ok(folder)
}

/// A program of an environment.
pub(super) fn program_in(environment: &Path, name: &str) -> PathBuf {
    programs_of(environment).join(name)
}

/// The folder of an environment's programs.
pub(super) fn programs_of(environment: &Path) -> PathBuf {
    environment.join(if cfg!(windows) { "Scripts" } else { "bin" })
}
