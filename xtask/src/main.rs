//! Chores of the workspace.
//!
//! `cargo xtask ci` is everything that has to pass before a change goes in, in the order in which it is cheapest to
//! find out; `cargo xtask ci --fast` is the part of it without a model; `cargo xtask tidy` holds the tree to its rules;
//! `cargo xtask planted` builds faults into the pure crates and sees that the soak finds them; `cargo xtask gpu` makes
//! what is run on a machine with a GPU; `cargo xtask bench` measures; `cargo xtask gen-model` makes models to measure.

mod ci;
mod gpu;
mod measure;
mod planted;
mod process;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask ci [--fast]   format, rules, lints, documentation, every test, real clients
       cargo xtask tidy          the rules of the tree alone
       cargo xtask planted       whether the soak finds each of the faults that can be built into the pure crates
       cargo xtask gpu           a folder of programs that check and measure on a GPU, to carry to one
       cargo xtask bench ...     kernels and models against what this machine could do; --help says more
       cargo xtask gen-model ... a model file with random weights; --help says more";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["ci"] => ci::run(ci::Scope::All),
        ["ci", "--fast"] => ci::run(ci::Scope::Fast),
        ["tidy"] => ended(Workspace::open().and_then(|workspace| tidy::check(&workspace))),
        ["planted"] => ended(Workspace::open().and_then(|workspace| planted::run(&workspace))),
        ["gpu"] => ended(gpu::run_command()),
        ["bench", ref words @ ..] => ended(measure::run(words)),
        ["gen-model", ..] => ended(measure::run(&arguments)),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
