//! Runs every target for a bounded number of iterations, with a bound on memory.
//!
//! If the program dies, the seed is in `target/tmp/fuzz-TARGET.seed`.

mod memory;

use std::{
    env,
    fs::File,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use fuzz::{Target, mutate, targets};

const ITERATIONS_DEFAULT: u64 = 20_000;
const SEED_DEFAULT: u64 = 0x4252_4947_4144_4500;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(text) => text.parse().expect("the variable is a number"),
        Err(_) => default,
    }
}

fn fuzz(target: &Target) {
    let corpus = (target.corpus)();
    for valid in &corpus {
        check(target, valid, None);
    }
    let seed = setting("BRIGADE_FUZZ_SEED", SEED_DEFAULT);
    // Where a stack overflow ends the program at once, this is what is left to tell the seed.
    let last_seed = format!("{}/fuzz-{}.seed", env!("CARGO_TARGET_TMPDIR"), target.name);
    let last_seed = File::create(last_seed).expect("the folder for temporary files is writable");
    // Seeds count up, so that one iteration can be repeated alone.
    for seed in
        (0..setting("BRIGADE_FUZZ_ITERATIONS", ITERATIONS_DEFAULT)).map(|i| seed.wrapping_add(i))
    {
        last_seed
            .write_all_at(format!("{seed:020}\n").as_bytes(), 0)
            .expect("the file is writable");
        check(target, &mutate::input(target, &corpus, seed), Some(seed));
    }
}

fn check(target: &Target, input: &[u8], seed: Option<u64>) {
    let watch = memory::Watch::start(seed.unwrap_or(0));
    let result = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    let peak = watch.peak_bytes();
    let again = seed.map(|seed| format!("BRIGADE_FUZZ_SEED={seed} BRIGADE_FUZZ_ITERATIONS=1"));
    let again = again.unwrap_or_else(|| "a valid input".to_owned());
    assert!(
        result.is_ok(),
        "{} panicked; to repeat: {again} cargo test -p fuzz {}",
        target.name,
        target.name
    );
    let max = target.memory_bytes_max;
    assert!(
        peak <= max,
        "{} took {peak} bytes of memory, over {max}; to repeat: {again}",
        target.name
    );
}

#[test]
fn gguf() {
    fuzz(&targets::gguf::TARGET);
}

#[test]
fn safetensors() {
    fuzz(&targets::safetensors::TARGET);
}

#[test]
fn template() {
    fuzz(&targets::template::TARGET);
}

#[test]
fn every_target_has_valid_inputs_and_a_name_of_its_own() {
    let mut names: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), targets::ALL.len());
    assert!(targets::ALL.iter().all(|target| !(target.corpus)().is_empty()));
}

#[test]
fn the_same_seed_makes_the_same_input() {
    let target = &targets::gguf::TARGET;
    let corpus = (target.corpus)();
    let inputs = |seed| mutate::input(target, &corpus, seed);
    assert_eq!(inputs(1), inputs(1));
    assert!((0..100).any(|seed| inputs(seed) != inputs(seed + 1)));
}

#[test]
fn the_driver_finds_planted_defects() {
    fn panics(input: &[u8]) {
        assert!(!input.windows(2).any(|pair| pair == [0xff, 0xff]), "a planted defect");
    }
    fn hungry(input: &[u8]) {
        drop(vec![0_u8; if input.len() < 8 { 1 << 22 } else { 0 }]);
    }
    let target = |feed, memory_bytes_max| Target {
        name: "planted",
        feed,
        corpus: || vec![b"0123456789".to_vec()],
        dictionary: &[],
        memory_bytes_max,
    };
    for planted in [target(panics as fn(&[u8]), usize::MAX), target(hungry, 1 << 20)] {
        assert!(catch_unwind(|| fuzz(&planted)).is_err());
    }
}
