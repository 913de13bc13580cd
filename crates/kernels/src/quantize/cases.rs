//! Every rung gives the same integers, scales and sums as the scalar one.

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
