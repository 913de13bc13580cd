//! Every rung gives the same integers, scales and sums as the scalar one, and rounds as plain code does.

use half::bf16;

use super::{scalar::integer, *};
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
                let mut got = Q8Rows::new(rows + QUAD, width);
                quantize(&cpu, &input, rows, &mut got);
                let guard = got.quad(rows.div_ceil(QUAD)).iter();
                assert!(guard.flat_map(|block| block.values).flatten().all(|value| value == 0));
                for (index, value) in input.iter().enumerate() {
                    let (row, column) = (index / width, index % width);
                    let block = &got.quad(row / QUAD)[column / BLOCK];
                    let scale = block.scales[row % QUAD];
                    let back = scale * integer(block, row % QUAD, column % BLOCK) as f32;
                    assert!((back - value).abs() <= scale * 0.5001, "{back} for {value}");
                }
                let want = want.get_or_insert_with(|| {
                    let mut want = Q8Rows::new(rows + QUAD, width);
                    quantize(&cpu, &input, rows, &mut want);
                    want
                });
                for (got, want) in got.blocks.iter().zip(want.blocks.iter()) {
                    assert_eq!(got.values, want.values);
                    assert_eq!(got.scales, want.scales);
                    assert_eq!(got.sums, want.sums);
                    assert_eq!(got.scaled_sums, want.scaled_sums);
                }
            }
        }
    }
}

#[test]
fn rounded_rows_are_the_nearest_values_and_zeros_behind_them() {
    for width in [1, 15, 16, 17, 33, 64, 100] {
        for rows in [1, 4, 6] {
            let input = Values::new(17).floats(rows * width);
            for cpu in cpus() {
                let mut got = Bf16Rows::new(rows, width);
                assert!(got.rows() >= rows && got.rows() < rows + QUAD);
                round_to_bf16(&cpu, &input, rows, &mut got);
                for row in 0..got.rows() {
                    let values = got.quad(row / QUAD).iter().flat_map(|block| {
                        block.pairs[row % QUAD].into_iter().flat_map(i32::to_le_bytes)
                    });
                    let values: Vec<u8> = values.collect();
                    for (column, value) in values.as_chunks().0.iter().enumerate() {
                        let is_there = row < rows && column < width;
                        let want = if is_there { input[row * width + column] } else { 0.0 };
                        let want = bf16::from_f32(want).to_le_bytes();
                        assert_eq!(*value, want, "{} row {row}, {column}", cpu.isa.rung());
                    }
                }
            }
        }
    }
}
