//! Planted edges are found, real ones are not complained about.

use std::path::Path;

use super::*;

fn package(name: &str, folder: &str, dependencies: &[&str]) -> Package {
    let dependencies = dependencies
        .iter()
        .map(|name| Dependency { name: (*name).to_owned(), is_for_tests: false })
        .collect();
    let manifest = Path::new(folder).join("Cargo.toml");
    Package { name: name.to_owned(), manifest, is_described: true, dependencies }
}

/// The problems of a crate with these dependencies among all crates of the table.
fn problems_of(name: &str, dependencies: &[&str]) -> Vec<String> {
    let mut packages: Vec<Package> =
        ALLOWED.iter().map(|(name, _)| package(name, &format!("crates/{name}"), &[])).collect();
    packages.push(package("brigade", "crates/cli", &[]));
    packages.push(package("golden", "dev/golden", &[]));
    packages.push(package("xtask", "xtask", &[]));
    let found = packages.iter_mut().find(|package| package.name == name).unwrap();
    found.dependencies = package(name, "", dependencies).dependencies;
    problems(&packages)
}

#[test]
fn edges_along_the_direction_are_allowed() {
    for (name, allowed) in ALLOWED {
        assert_eq!(problems_of(name, allowed), [] as [String; 0]);
    }
    assert_eq!(
        problems_of("brigade", &["front", "runner", "engine", "tokio", "serde"]),
        [] as [String; 0]
    );
    assert_eq!(
        problems_of("golden", &["engine", "runner", "xtask", "safetensors"]),
        [] as [String; 0]
    );
}

#[test]
fn edges_against_it_are_named() {
    for (from, to) in [
        ("front", "scheduler"),
        ("engine", "runner"),
        ("runner", "engine"),
        ("scheduler", "telemetry"),
        ("types", "device"),
        ("kernels", "models"),
        ("models", "brigade"),
        ("engine", "golden"),
        ("brigade", "golden"),
        ("brigade", "xtask"),
        ("golden", "brigade"),
    ] {
        let problems = problems_of(from, &[to]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with(&format!("{from} -> {to}: ")), "{problems:?}");
    }
}

#[test]
fn tests_may_not_reach_further_than_their_crate() {
    let mut packages = vec![
        package("runner", "crates/runner", &["engine"]),
        package("engine", "crates/engine", &[]),
    ];
    packages[0].dependencies[0].is_for_tests = true;
    assert_eq!(problems(&packages).len(), 1);
}

#[test]
fn pure_crates_take_nothing_impure_but_for_tests() {
    for foreign in ["tokio", "rand", "tracing", "postcard"] {
        for pure in PURE {
            assert_eq!(problems_of(pure, &[foreign]).len(), 1, "{pure} -> {foreign}");
        }
    }
    assert_eq!(problems_of("kv", &["thiserror"]), [] as [String; 0]);
    let mut kv = package("kv", "crates/kv", &["proptest"]);
    kv.dependencies[0].is_for_tests = true;
    assert_eq!(problems(&[kv]), [] as [String; 0]);
}

#[test]
fn dependencies_stay_with_their_holders() {
    assert_eq!(problems_of("weights", &["safetensors"]), [] as [String; 0]);
    assert_eq!(problems_of("models", &["safetensors"]).len(), 1);
    assert_eq!(problems_of("brigade", &["axum"]).len(), 1);
}

#[test]
fn a_crate_that_the_table_does_not_know_is_a_problem() {
    let problems = problems(&[package("pantry", "crates/pantry", &[])]);
    assert!(problems[0].starts_with("pantry: "), "{problems:?}");
}

/// Crates in the order of the table can be built one after the other, so there is no circle.
#[test]
fn the_table_has_no_circle() {
    for (index, (name, allowed)) in ALLOWED.iter().enumerate() {
        for dependency in *allowed {
            let place = ALLOWED.iter().position(|(other, _)| other == dependency);
            assert!(place.is_some_and(|place| place < index), "{name} -> {dependency}");
        }
    }
}
