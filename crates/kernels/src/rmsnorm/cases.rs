//! Rungs against the meaning, over widths around the lane count.

use super::*;
use crate::quantize::{Bf16Rows, Q8Rows, quantize, round_to_bf16};
use crate::testing::{Values, assert_close, cpus};

#[test]
fn rungs_agree_with_the_meaning() {
    for width in [1, 15, 16, 17, 32, 64, 100, 576] {
        for rows in [1, 2, 5] {
            let mut values = Values::new(3);
            let input = values.floats(rows * width);
            let weight = values.floats(width);
            let mut want = input.clone();
            want.chunks_exact_mut(width)
                .for_each(|row| scalar::normalise_in_place(row, &weight, 1e-5));
            for cpu in cpus() {
                let mut output = vec![9.0; (rows + 1) * width];
                let mut rounded = Bf16Rows::new(rows, width);
                let mut quantized = width.is_multiple_of(32).then(|| Q8Rows::new(rows, width));
                rms_norm(
                    &cpu,
                    RmsNorm {
                        input: &input,
                        rows,
                        weight: &weight,
                        epsilon: 1e-5,
                        output: RowOutputs {
                            floats: Some(&mut output),
                            quantized: quantized.as_mut(),
                            rounded: Some(&mut rounded),
                        },
                    },
                );
                let (got, guard) = output.split_at(rows * width);
                assert_close(got, &want, 1e-6, "rms_norm");
                assert!(guard.iter().all(|&guard| guard == 9.0));
                let mut again = Bf16Rows::new(rows, width);
                round_to_bf16(&cpu, got, rows, &mut again);
                for quad in 0..rows.div_ceil(4) {
                    for (got, want) in rounded.quad(quad).iter().zip(again.quad(quad)) {
                        assert_eq!(got.pairs, want.pairs);
                    }
                }
                if let Some(quantized) = quantized {
                    let mut again = Q8Rows::new(rows, width);
                    quantize(&cpu, got, rows, &mut again);
                    for quad in 0..rows.div_ceil(4) {
                        for (got, want) in quantized.quad(quad).iter().zip(again.quad(quad)) {
                            assert_eq!(got.values, want.values);
                            assert_eq!(got.scales, want.scales);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn heads_are_normalised_and_the_rest_is_left_alone() {
    let weight = Values::new(1).floats(16);
    for cpu in cpus() {
        let before = Values::new(2).floats(3 * 50);
        let mut values = before.clone();
        rms_norm_heads(
            &cpu,
            RmsNormHeads {
                values: &mut values,
                rows: 3,
                stride: 50,
                offset: 8,
                heads: 2,
                weight: &weight,
                epsilon: 1e-6,
            },
        );
        for row in 0..3 {
            let (got, had) = (&values[row * 50..][..50], &before[row * 50..][..50]);
            assert_eq!(got[..8], had[..8]);
            assert_eq!(got[40..], had[40..]);
            for head in [8..24, 24..40] {
                let mut want = had[head.clone()].to_vec();
                scalar::normalise_in_place(&mut want, &weight, 1e-6);
                assert_eq!(got[head], want);
            }
        }
    }
}
