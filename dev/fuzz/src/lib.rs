//! Fuzzing of every parser that reads what others wrote.
//!
//! A [`Target`] is a function over bytes that must come back, whatever the bytes are: no panic, no more memory than it
//! states. Two drivers run targets:
//!
//! - `cargo test -p fuzz` mutates valid inputs from a fixed seed for a bounded number of iterations. It is part of CI.
//!   `BRIGADE_FUZZ_ITERATIONS=1000000` runs longer, `BRIGADE_FUZZ_SEED` takes another road. A failure prints the
//!   variables that repeat it.
//! - libFuzzer searches by coverage: `cargo +nightly fuzz run --fuzz-dir dev/fuzz --features libfuzzer gguf`.
//!
//! To add a target, add a file to `targets/` and a line to [`targets::ALL`] (and, for libFuzzer, a file to
//! `fuzz_targets/` and a `[[bin]]`).

pub mod mutate;
pub mod targets;

/// Something to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Feeds it one input.
    pub feed: fn(&[u8]),
    /// Valid inputs, from which others are made.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// Byte strings that mean something to it.
    pub dictionary: &'static [&'static [u8]],
    /// Most memory that one input may take.
    pub memory_bytes_max: usize,
}

impl Target {
    /// Feeds it one input.
    pub fn run(&self, input: &[u8]) {
        (self.feed)(input);
    }
}
