//! Every rung gives the same integers, scales and sums as the scalar one.

use super::*;
use crate::testing::{Values, cpus};

#[test]
fn rungs_agree_exactly() {
    for width in [32, 64, 96, 576] {
        for rows in [1, 2, 3, 7] {
            let mut input = Values::new(7).floats(rows * width);
            input[..BLOCK].fill(0.0);
            input[width - 1] = 40.0;
            let mut want: Option<Q8Rows> = None;
            for cpu in cpus() {
                let mut got = Q8Rows::new(rows + 1, width);
                quantize(&cpu, &input, rows, &mut got);
                assert!(got.values[rows * width..].iter().all(|&guard| guard == 0));
                for (index, value) in input.iter().enumerate() {
                    let scale = got.scales[index / BLOCK];
                    let back = scale * f32::from(got.values[index]);
                    assert!((back - value).abs() <= scale * 0.5001, "{back} for {value}");
                }
                if let Some(want) = &want {
                    assert_eq!(*got.values, *want.values);
                    assert_eq!(*got.scales, *want.scales);
                    assert_eq!(*got.sums, *want.sums);
                    assert_eq!(*got.scaled_sums, *want.scaled_sums);
                } else {
                    want = Some(got);
                }
            }
        }
    }
}
