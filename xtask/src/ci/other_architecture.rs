//! Stages that look at the code as AArch64 compiles it, and run its kernels there in emulation, so that code for one
//! architecture does not go stale while all work is done on another. They never fail for what a machine lacks: that is
//! said, and skipped.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use super::{
    Run,
    model::without_settings,
    tally::{Tally, of_cargo_test},
};
use crate::{
    process::{self, cargo, watch},
    workspace::Package,
};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Compiles C and links for the target. On Debian and Ubuntu it comes with the package `gcc-aarch64-linux-gnu`, and the
/// C library with `libc6-dev-arm64-cross`.
const C_COMPILER: &str = "aarch64-linux-gnu-gcc";
const C_LIBRARY: &str = "/usr/aarch64-linux-gnu";
/// Runs programs for the target; of the package `qemu-user`.
const EMULATOR: &str = "qemu-aarch64";
/// The only package with dependencies in C (of its TLS library).
const WITH_C: &str = "weights";
/// Packages whose code differs between architectures, and `quant`, whose tests multiply with every format.
const TESTED: [&str; 3] = ["device", "kernels", "quant"];

pub(super) fn lints(run: &mut Run) -> Result<()> {
    if let Err(lack) = ready(&run.workspace.root) {
        println!("skipped: {lack}");
        return Ok(());
    }
    let mut command = cargo(&run.workspace.root);
    command.args(["clippy", "--locked", "--workspace", "--all-targets", "--target", TARGET]);
    if let Err(lack) = ready_for_c() {
        let left_out = built_on(WITH_C, &run.workspace.packages);
        println!("{lack}: leaving out {}", left_out.join(", "));
        command.args(left_out.iter().flat_map(|name| ["--exclude", name]));
    }
    process::run(command.args(["--", "-D", "warnings"]))
}

pub(super) fn tests(run: &mut Run) -> Result<()> {
    if let Err(lack) = ready_to_run(&run.workspace.root) {
        println!("skipped: {lack}");
        return Ok(());
    }
    let mut command = cargo(&run.workspace.root);
    without_settings(&mut command);
    command
        .args(["test", "--locked", "--no-fail-fast", "--target", TARGET])
        .args(TESTED.iter().flat_map(|name| ["--package", name]))
        .env(of_target("LINKER"), C_COMPILER)
        .env(of_target("RUNNER"), format!("{EMULATOR} -L {C_LIBRARY}"));
    let mut tally = Tally::default();
    let succeeded = watch(&mut command, |line| tally += of_cargo_test(line).unwrap_or_default())?;
    run.tally += tally;
    ensure!(succeeded, "`cargo test` failed for {TARGET}");
    ensure!(tally.passed > 0, "`cargo test` ran no test for {TARGET}");
    Ok(())
}

/// The variable that sets something for the target alone.
fn of_target(what: &str) -> String {
    format!("CARGO_TARGET_{}_{what}", TARGET.replace('-', "_").to_uppercase())
}

/// Whether code can be compiled for the target; the error says what is lacking.
fn ready(root: &Path) -> Result<(), String> {
    if cfg!(target_arch = "aarch64") {
        return Err("this machine has that architecture itself".to_owned());
    }
    if has_target(root) {
        return Ok(());
    }
    let mut command = Command::new("rustup");
    process::run(command.args(["target", "add", TARGET]).current_dir(root))
        .map_err(|error| format!("the standard library for {TARGET} is not there: {error:#}"))
}

/// Whether the standard library for the target is installed, with rustup or without.
fn has_target(root: &Path) -> bool {
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir", "--target", TARGET]).current_dir(root);
    process::output(&mut command).is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

/// As [`ready`], of C.
fn ready_for_c() -> Result<(), String> {
    find(C_COMPILER).ok_or_else(|| format!("there is no {C_COMPILER}"))?;
    let header = Path::new(C_LIBRARY).join("include/stdio.h");
    header.is_file().then_some(()).ok_or_else(|| format!("there is no {}", header.display()))
}

/// As [`ready`], of programs that are to be linked and run.
fn ready_to_run(root: &Path) -> Result<(), String> {
    ready(root)?;
    ready_for_c()?;
    find(EMULATOR).map(drop).ok_or_else(|| format!("there is no {EMULATOR}"))
}

/// A program's file.
fn find(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A package and all that build on it, directly or not.
fn built_on<'a>(name: &'a str, packages: &'a [Package]) -> Vec<&'a str> {
    let mut found = vec![name];
    let mut next = 0;
    while let Some(&name) = found.get(next) {
        for package in packages {
            let builds_on_it = package.dependencies.iter().any(|other| other.name == name);
            if builds_on_it && !found.contains(&package.name.as_str()) {
                found.push(&package.name);
            }
        }
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn what_builds_on_a_package_is_found_through_others() {
        let workspace = Workspace::open().unwrap();
        let found = built_on(WITH_C, &workspace.packages);
        assert!(["weights", "models", "runner", "brigade"].iter().all(|name| found.contains(name)));
        assert!(TESTED.iter().all(|name| !found.contains(name)), "{found:?}");
    }

    #[test]
    fn the_packages_tested_exist() {
        let workspace = Workspace::open().unwrap();
        for name in TESTED {
            assert!(workspace.packages.iter().any(|package| package.name == name), "{name}");
        }
    }

    #[test]
    fn programs_are_found_where_the_system_looks() {
        assert!(find("rustc").is_some_and(|file| file.is_absolute()));
        assert_eq!(find("no-program-has-this-name"), None);
        assert_eq!(of_target("LINKER"), "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER");
    }
}
