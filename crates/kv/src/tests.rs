//! What tests of this crate share.

use proptest::{prelude::*, test_runner::RngSeed};

/// The same so many cases each time.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}
