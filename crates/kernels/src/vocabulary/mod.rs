//! One row of logits, a value for every token of a vocabulary, as sampling reads it: which is the largest ([`survey`]),
//! `e^((logit - largest) × scale)` of each with their sum ([`weigh`]), and those from a floor up ([`collect`]).
//!
//! All of it runs on the calling thread: the rows of a batch are spread over the pool by the caller. Rows are not
//! copied, and logits not changed.

mod lanes;
mod scalar;

#[cfg(test)]
mod cases;

use device::cpu::{Isa, Rung};

use crate::lanes::launch;

/// What a row of logits is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Survey {
    /// The largest value; negative infinity if there is none above it.
    pub largest: f32,
    /// The first index that holds it.
    pub index: usize,
    /// Whether all values are finite. Where one is NaN, `largest` and `index` say nothing.
    pub is_finite: bool,
}

pub(crate) struct SurveyPart<'a> {
    row: &'a [f32],
    survey: &'a mut Survey,
}

/// Looks a row over.
pub fn survey(isa: Isa, row: &[f32]) -> Survey {
    let mut survey = Survey { largest: f32::NEG_INFINITY, index: 0, is_finite: true };
    let part = SurveyPart { row, survey: &mut survey };
    match isa.rung() {
        Rung::Scalar => scalar::survey(part),
        _ => launch(isa, part),
    }
    survey
}

/// Arguments of [`weigh`].
pub struct Weigh<'a> {
    /// A row or a part of one, without NaN.
    pub logits: &'a [f32],
    /// The largest logit of the row, finite.
    pub largest: f32,
    /// Factor on the distance from the largest, finite and not negative.
    pub scale: f32,
    /// As many as logits: between 0 and 1, and exactly 1 for the largest. A weight below about `e^-87` is 0.
    pub weights: &'a mut [f32],
}

pub(crate) struct WeighPart<'a> {
    args: Weigh<'a>,
    sum: &'a mut f64,
}

/// Fills `weights` with `e^((logit - largest) × scale)` and returns their sum.
///
/// Vector rungs add floats in 64 sums, so that the result is within `(logits / 64 + 6) × 2^-24` of itself: 1.3
/// millionths for 1,024 logits. Longer rows are best weighed in parts.
///
/// # Panics
/// If there are not as many weights as logits.
pub fn weigh(isa: Isa, args: Weigh<'_>) -> f64 {
    assert_eq!(args.logits.len(), args.weights.len(), "weigh: lengths");
    let mut sum = 0.0;
    let part = WeighPart { args, sum: &mut sum };
    match isa.rung() {
        Rung::Scalar => scalar::weigh(part),
        _ => launch(isa, part),
    }
    sum
}

/// Arguments of [`collect`].
pub struct Collect<'a> {
    /// The whole row.
    pub row: &'a [f32],
    /// Where to begin.
    pub start: usize,
    /// Values from here up are collected.
    pub floor: f32,
    /// How many may be found before the search pauses.
    pub limit: usize,
    /// Values with their indices, in the row's order; what is found is appended.
    pub found: &'a mut Vec<(f32, u32)>,
}

/// Values that [`collect`] looks at before it counts what it has found.
pub const COLLECT_BLOCK: usize = 64;

pub(crate) struct CollectPart<'a> {
    args: Collect<'a>,
    end: &'a mut usize,
}

/// Collects values that are not below a floor, until the row ends or `found` holds at least `limit`, which it may
/// exceed by less than [`COLLECT_BLOCK`]. Returns where to go on: the row's length when it was searched to its end.
///
/// # Panics
/// If an index does not fit into 32 bits.
pub fn collect(isa: Isa, args: Collect<'_>) -> usize {
    assert!(u32::try_from(args.row.len()).is_ok(), "collect: row too long");
    let mut end = args.row.len();
    let part = CollectPart { args, end: &mut end };
    match isa.rung() {
        Rung::Scalar => scalar::collect(part),
        _ => launch(isa, part),
    }
    end
}
