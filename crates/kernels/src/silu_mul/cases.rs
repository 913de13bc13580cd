//! Rungs against the formula, over widths around the lane count.

use super::*;
use crate::quantize::{Q8Rows, quantize};
use crate::testing::{Values, assert_close, cpus};

#[test]
fn rungs_agree_with_the_formula() {
    for width in [1, 15, 16, 17, 64, 100] {
        for rows in [1, 2, 5] {
            let gate_up: Vec<f32> =
                Values::new(5).floats(rows * 2 * width).iter().map(|value| value * 12.0).collect();
            let want: Vec<f32> = (0..rows * width)
                .map(|index| {
                    let row = &gate_up[index / width * 2 * width..][..2 * width];
                    let gate = f64::from(row[index % width]);
                    (gate / (1.0 + (-gate).exp()) * f64::from(row[width + index % width])) as f32
                })
                .collect();
            for cpu in cpus() {
                let mut output = vec![9.0; (rows + 1) * width];
                let output_rows = RowOutputs { floats: Some(&mut output), ..RowOutputs::default() };
                silu_mul(&cpu, SiluMul { gate_up: &gate_up, rows, width, output: output_rows });
                let (got, guard) = output.split_at(rows * width);
                assert_close(got, &want, 1e-6, "silu_mul");
                assert!(guard.iter().all(|&guard| guard == 9.0));
            }
        }
    }
}

#[test]
fn quantized_alone_is_what_the_floats_become() {
    let (rows, width) = (5, 96);
    let gate_up = Values::new(6).floats(rows * 2 * width);
    for cpu in cpus() {
        let mut floats = vec![0.0; rows * width];
        let gate_up = &gate_up[..];
        let output = RowOutputs { floats: Some(&mut floats), ..RowOutputs::default() };
        silu_mul(&cpu, SiluMul { gate_up, rows, width, output });
        let (mut got, mut want) = (Q8Rows::new(rows, width), Q8Rows::new(rows, width));
        quantize(&cpu, &floats, rows, &mut want);
        let output = RowOutputs { quantized: Some(&mut got), ..RowOutputs::default() };
        silu_mul(&cpu, SiluMul { gate_up, rows, width, output });
        for quad in 0..rows.div_ceil(QUAD) {
            for (got, want) in got.quad(quad).iter().zip(want.quad(quad)) {
                assert_eq!((got.values, got.scales), (want.values, want.scales));
            }
        }
    }
}
