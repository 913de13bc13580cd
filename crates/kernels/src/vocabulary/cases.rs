//! Rungs against the meaning, over lengths around the block's.

use super::*;
use crate::testing::{Values, assert_close};

const LENGTHS: [usize; 12] = [1, 2, 15, 16, 17, 63, 64, 65, 128, 200, 1024, 5000];

/// The rungs this machine has.
fn rungs() -> impl Iterator<Item = Isa> {
    let detected = Isa::detect();
    Rung::ALL
        .iter()
        .copied()
        .filter(move |&rung| rung <= detected.rung())
        .map(move |r| detected.capped(r))
}

/// Values of a coarse grid, so that many are equal; with `bans`, some are negative infinity.
fn grid(seed: u64, len: usize, bans: bool) -> Vec<f32> {
    let mut values = Values::new(seed);
    let mut next = || {
        let value = (values.float() * 40.0).round() / 4.0 - 20.0;
        if bans && values.bits().is_multiple_of(5) { f32::NEG_INFINITY } else { value }
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn surveys_find_the_first_largest_value() {
    for isa in rungs() {
        for len in LENGTHS {
            for bans in [false, true] {
                let row = grid(len as u64, len, bans);
                let got = survey(isa, &row);
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let index = row.iter().position(|&value| value == largest).unwrap();
                let is_finite = !row.contains(&f32::NEG_INFINITY);
                assert_eq!(got, Survey { largest, index, is_finite }, "{isa:?}, {len}");
            }
        }
        let empty = Survey { largest: f32::NEG_INFINITY, index: 0, is_finite: true };
        assert_eq!(survey(isa, &[]), empty);
        let banned = Survey { is_finite: false, ..empty };
        assert_eq!(survey(isa, &[f32::NEG_INFINITY; 70]), banned);
    }
}

#[test]
fn surveys_see_what_is_not_finite_anywhere() {
    for isa in rungs() {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for len in LENGTHS {
                let mut row = grid(3, len, false);
                for place in [0, len / 3, len / 2, len - 1] {
                    let value = std::mem::replace(&mut row[place], wrong);
                    assert!(!survey(isa, &row).is_finite, "{isa:?}: {wrong} at {place} of {len}");
                    row[place] = value;
                }
                assert!(survey(isa, &row).is_finite);
            }
        }
        assert!(survey(isa, &[f32::MAX, f32::MIN, 1e-40, 0.0]).is_finite);
    }
}

#[test]
fn weights_are_exponentials_and_their_sum() {
    for isa in rungs() {
        for len in LENGTHS {
            for (bans, scale) in [(false, 1.0), (true, 1.25), (true, 0.01), (true, f32::MAX)] {
                let row = grid(len as u64, len, bans);
                let largest = survey(isa, &row).largest;
                if largest == f32::NEG_INFINITY {
                    continue;
                }
                let weight = |logit: &f32| (f64::from(logit - largest) * f64::from(scale)).exp();
                let want: Vec<f64> = row.iter().map(weight).collect();
                let mut weights = vec![9.0; len + 1];
                let (got, guard) = weights.split_at_mut(len);
                let sum = weigh(isa, Weigh { logits: &row, largest, scale, weights: got });
                let single: Vec<f32> = want.iter().map(|&weight| weight as f32).collect();
                assert_close(got, &single, 1e-6, "weights");
                let want: f64 = want.iter().sum();
                assert!((sum - want).abs() < 2e-6 * want, "{isa:?}, {len}: {sum}, not {want}");
                assert_eq!(guard, [9.0]);
                for (logit, weight) in row.iter().zip(got) {
                    assert!(*logit != largest || *weight == 1.0);
                    assert!(*logit != f32::NEG_INFINITY || *weight == 0.0);
                }
            }
        }
    }
}

#[test]
fn what_is_collected_is_what_is_not_below_the_floor() {
    for isa in rungs() {
        for len in LENGTHS {
            let row = grid(len as u64, len, true);
            for floor in [f32::NEG_INFINITY, -24.5, -20.0, -10.5, 0.0] {
                for limit in [1, 40, usize::MAX] {
                    let want: Vec<(f32, u32)> =
                        row.iter().copied().zip(0..).filter(|&(value, _)| value >= floor).collect();
                    let (mut got, mut start, mut pauses) = (Vec::new(), 0, 0);
                    while start < len {
                        let mut found = Vec::new();
                        let row = &row;
                        start =
                            collect(isa, Collect { row, start, floor, limit, found: &mut found });
                        assert!(found.len() < limit.saturating_add(COLLECT_BLOCK));
                        assert!(start == len || found.len() >= limit);
                        got.append(&mut found);
                        pauses += 1;
                    }
                    assert_eq!(got, want, "{isa:?}: {len} values from {floor} up");
                    assert!(limit < usize::MAX || pauses == 1);
                }
            }
        }
    }
}
