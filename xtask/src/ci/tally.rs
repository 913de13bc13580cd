//! Counting tests by what test programs print at their end.

use std::{fmt, ops::AddAssign};

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// What a line of `cargo test` counts, if it sums a test program up:
/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
pub(super) fn of_cargo_test(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |kind| count_of(counts.split("; "), kind);
    Some(Tally { passed: count("passed"), failed: count("failed") })
}

/// What a line of pytest counts, if it sums the run up: `2 failed, 45 passed, 1 skipped in 3.21s`, with or without
/// `=` around it. Errors outside of tests count as failures.
pub(super) fn of_pytest(line: &str) -> Option<Tally> {
    let line = line.trim_matches(['=', ' ']);
    let (counts, time) = line.rsplit_once(" in ")?;
    let seconds = time.split(' ').next()?.strip_suffix('s')?;
    seconds.parse::<f64>().ok()?;
    let count = |kind| count_of(counts.split(", "), kind);
    let failed = count("failed") + count("error") + count("errors");
    Some(Tally { passed: count("passed"), failed })
}

/// The number before a word.
fn count_of<'a>(mut counts: impl Iterator<Item = &'a str>, kind: &str) -> u64 {
    counts
        .find_map(|count| count.trim().strip_suffix(kind)?.strip_suffix(' ')?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_cargo_test_are_counted() {
        let ok = "test result: ok. 31 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.2s";
        assert_eq!(of_cargo_test(ok), Some(Tally { passed: 31, failed: 0 }));
        let failed = "test result: FAILED. 3 passed; 12 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(of_cargo_test(failed), Some(Tally { passed: 3, failed: 12 }));
        for line in ["test x ... ok", "running 3 tests", "3 passed; 0 failed", ""] {
            assert_eq!(of_cargo_test(line), None, "{line}");
        }
    }

    #[test]
    fn summaries_of_pytest_are_counted() {
        for (line, passed, failed) in [
            ("45 passed in 12.34s", 45, 0),
            ("======== 1 failed, 44 passed, 2 skipped in 90.01s (0:01:30) ========", 44, 1),
            ("2 failed, 1 passed, 3 warnings, 1 error in 0.5s", 1, 3),
            ("3 errors in 0.5s", 0, 3),
            ("no tests ran in 0.01s", 0, 0),
        ] {
            assert_eq!(of_pytest(line), Some(Tally { passed, failed }), "{line}");
        }
        for line in ["test_chat.py::test_x PASSED", "once in a while", "all in 3 seconds", ""] {
            assert_eq!(of_pytest(line), None, "{line}");
        }
    }

    #[test]
    fn sums_are_shown_alone_on_a_line() {
        let mut sum = Tally { passed: 1, failed: 2 };
        sum += Tally { passed: 10, failed: 20 };
        assert_eq!(sum.to_string(), "11 passed, 22 failed");
    }
}
