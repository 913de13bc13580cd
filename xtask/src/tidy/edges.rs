//! Who may depend on whom.

use crate::workspace::{Dependency, Package};

/// A crate and the crates of the workspace it may see. The program and the tools under `dev/` see every crate.
const ALLOWED: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("telemetry", &[]),
    ("device", &[]),
    // The serving side.
    ("queue", &["types"]),
    ("kv", &["types"]),
    ("scheduler", &["queue", "kv", "types"]),
    ("journal", &["scheduler", "types"]),
    ("simulate", &["scheduler", "types"]),
    ("engine", &["journal", "scheduler", "telemetry", "types"]),
    ("tokenizer", &["types"]),
    ("chat", &["types"]),
    ("front", &["engine", "chat", "tokenizer", "telemetry", "types"]),
    // The computing side. It meets the serving side in `types::Executor` alone.
    ("kernels", &["device"]),
    ("cuda", &["kernels"]),
    ("quant", &["kernels", "device", "types"]),
    ("weights", &["types"]),
    ("models", &["quant", "weights", "kernels", "device", "types"]),
    ("runner", &["models", "weights", "quant", "kernels", "device", "cuda", "types"]),
];

/// Crates without clocks, threads, randomness, input and output, and all they may use from elsewhere.
const PURE: &[&str] = &["types", "queue", "kv", "scheduler"];
const ALLOWED_IN_PURE: &[&str] = &["serde", "thiserror"];

/// Dependencies that a crate exists to hold, so that they can be exchanged in one place.
const HELD_BY: &[(&str, &[&str])] = &[
    ("axum", &["front"]),
    ("hyper", &["front"]),
    ("tokio", &["engine", "front", "brigade"]),
    ("tokenizers", &["tokenizer"]),
    ("minijinja", &["chat"]),
    ("prometheus-client", &["telemetry"]),
    ("safetensors", &["weights"]),
    ("memmap2", &["device", "weights"]),
    ("hf-hub", &["weights"]),
    ("cudarc", &["cuda"]),
    ("libloading", &["cuda"]),
    // Wire messages and settings, and the state of the pure crates, which a journal may begin with.
    ("serde", &["front", "brigade", "types", "queue", "kv", "scheduler"]),
    ("postcard", &["journal"]),
];

/// The program, which joins everybody and which nobody sees.
const PROGRAM: &str = "brigade";

/// The edges that are not allowed.
pub(super) fn problems(packages: &[Package]) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        if !is_free(package) && allowed_for(name).is_none() {
            problems.push(format!("{name}: the table in {} does not know this crate", file!()));
            continue;
        }
        for dependency in &package.dependencies {
            let problem = match packages.iter().find(|other| other.name == dependency.name) {
                Some(target) => edge_problem(package, target),
                None => foreign_problem(package, dependency),
            };
            if let Some(problem) = problem {
                problems.push(format!("{name} -> {}: {problem}", dependency.name));
            }
        }
    }
    problems
}

/// What is wrong with an edge within the workspace. Edges of tests count as well: a test that needs more than its crate
/// may see belongs into `dev/`.
fn edge_problem(package: &Package, target: &Package) -> Option<&'static str> {
    if target.name == PROGRAM {
        return Some("nobody sees the program");
    }
    if is_development(target) {
        return (!is_development(package)).then_some("only development tools see one another");
    }
    if is_free(package) {
        return None;
    }
    let allowed = allowed_for(&package.name)?;
    (!allowed.contains(&target.name.as_str()))
        .then_some("that is against the direction of dependencies")
}

/// What is wrong with an edge out of the workspace.
fn foreign_problem(package: &Package, dependency: &Dependency) -> Option<&'static str> {
    let (name, foreign) = (package.name.as_str(), dependency.name.as_str());
    if dependency.is_for_tests || is_development(package) {
        return None;
    }
    if PURE.contains(&name) && !ALLOWED_IN_PURE.contains(&foreign) {
        return Some("a pure crate takes nothing that could make its results differ");
    }
    let (_, holders) = HELD_BY.iter().find(|(held, _)| *held == foreign)?;
    (!holders.contains(&name)).then_some("another crate exists to hold that")
}

fn allowed_for(name: &str) -> Option<&'static [&'static str]> {
    ALLOWED.iter().find(|(of, _)| *of == name).map(|(_, allowed)| *allowed)
}

/// Whether a package may see every crate.
fn is_free(package: &Package) -> bool {
    package.name == PROGRAM || is_development(package)
}

/// Whether a package is a tool for working on the others.
fn is_development(package: &Package) -> bool {
    package.manifest.starts_with("dev") || package.name == "xtask"
}

#[cfg(test)]
mod tests;
