//! `cargo xtask gpu`: everything that is checked and measured on a GPU, in one folder to carry to a machine that has
//! one but perhaps no toolchain.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    process::{cargo, output, run},
    workspace::Workspace,
};

/// What is run there.
const SCRIPT: &str = r#"#!/usr/bin/env bash
# Checks and measures Brigade on the first GPU of this machine. usage: run.sh [SmolLM2.gguf] [sanitize]
# Run it where these files are; reports go to $OUT, or to ./reports.
set -u
cd "$(dirname "$0")"
out=${OUT:-reports}; mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv,noheader | tee "$out/machine.txt"
echo "== kernels against their meaning"
./kernels --test-threads=1 >"$out/kernels.txt" 2>&1; grep -E "FAILED|panicked|test result" "$out/kernels.txt"
if [ "${2:-}" = sanitize ]; then
  echo "== the same under the memory checker"
  compute-sanitizer --error-exitcode 3 ./kernels --test-threads=1 --skip compile >"$out/sanitizer.txt" 2>&1
  grep -E "FAILED|test result|ERROR SUMMARY" "$out/sanitizer.txt"
fi
if [ -n "${1:-}" ]; then
  echo "== SmolLM2 against its reference"
  BRIGADE_TEST_GGUF=$1 ./golden gpu --test-threads=1 --nocapture >"$out/golden.txt" 2>&1
  grep -E "FAILED|panicked|off by|test result" "$out/golden.txt"
fi
echo "== an 8B shape with random weights"
./measure gen-model --shape llama-8b --quant bf16 --no-weights --output 8b.gguf
./measure gpu 8b.gguf --dummy --profile | tee "$out/bench.txt"
"#;

/// Builds the programs and puts them below `target/gpu`.
pub(crate) fn run_command() -> Result<()> {
    let workspace = Workspace::open()?;
    let folder = workspace.target.join("gpu");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let build = ["build", "--locked", "--release", "--package", "brigade", "--package", "measure"];
    run(cargo(&workspace.root).args(build))?;
    for program in ["brigade", "measure"] {
        copy(&workspace.target.join("release").join(program), &folder.join(program))?;
    }
    for (package, name) in [("cuda", "kernels"), ("golden", "golden")] {
        copy(&test_program(&workspace, package)?, &folder.join(name))?;
    }
    let script = folder.join("run.sh");
    fs::write(&script, SCRIPT).with_context(|| format!("writing {}", script.display()))?;
    println!("{}: carry it to the machine and run `bash run.sh`", folder.display());
    Ok(())
}

/// The integration tests of a package as a program.
fn test_program(workspace: &Workspace, package: &str) -> Result<std::path::PathBuf> {
    let mut command = cargo(&workspace.root);
    command.args(["test", "--locked", "--release", "--no-run", "--message-format", "json"]);
    let printed = output(command.args(["--package", package, "--test", "it"]))?;
    let messages =
        printed.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs =
        messages.filter_map(|message| Some(message["executable"].as_str()?.to_owned()));
    let program = programs.next().with_context(|| format!("cargo built no tests of {package}"))?;
    Ok(program.into())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    ensure!(from.is_file(), "{} is not there", from.display());
    fs::copy(from, to).with_context(|| format!("writing {}", to.display()))?;
    Ok(())
}
