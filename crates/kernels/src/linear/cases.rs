//! Rungs against the meaning, the meaning against plain products, and rows against themselves in other company.

use half::bf16;

use super::*;
use crate::{
    quantize::{quantize, round_to_bf16},
    testing::{Values, assert_close, cpus},
};

fn layouts() -> Vec<QuantizedLayout> {
    let layout =
        |bits, scale_block, scales, zero| QuantizedLayout { bits, scale_block, scales, zero };
    vec![
        layout(4, 32, Scales::Half, Zero::Point(8)),
        layout(4, 32, Scales::Half, Zero::Minimum),
        layout(4, 32, Scales::Nested, Zero::Minimum),
        layout(5, 32, Scales::Half, Zero::Point(16)),
        layout(5, 32, Scales::Half, Zero::Minimum),
        layout(5, 32, Scales::Nested, Zero::Minimum),
        layout(6, 16, Scales::Nested, Zero::Point(32)),
        layout(8, 32, Scales::Half, Zero::Point(128)),
    ]
}

fn random_matrix(cpu: &Cpu, shape: [usize; 2], layout: QuantizedLayout, seed: u64) -> PackedMatrix {
    PackedMatrix::pack_quantized(&cpu.pool, shape, layout, |row, block, target| {
        let mut values = Values::new(seed + (row * 1000 + block) as u64);
        // The largest quanta everywhere in some blocks: where 16-bit sums would overflow if they could.
        let full = (row + block).is_multiple_of(5);
        for quantum in &mut target.quanta {
            let bits = if full { u32::MAX } else { values.bits() };
            *quantum = (bits & ((1 << layout.bits) - 1)) as u8;
        }
        let mut number = || match layout.scales {
            Scales::Half => values.float(),
            Scales::Nested => (values.float() * 127.0).trunc(),
        };
        target.scales = [number(), number()];
        target.minimum = number();
        let mut outer = Values::new(seed + (row * 1000 + block / 8) as u64);
        (target.outer_scale, target.outer_minimum) = (outer.float() / 100.0, outer.float() / 100.0);
    })
}

fn multiply(
    cpu: &Cpu,
    input: &[f32],
    rows: usize,
    segments: &[Segment<'_>],
    stride: usize,
) -> Vec<f32> {
    let columns = segments[0].matrix.columns();
    let quantized = columns.is_multiple_of(BLOCK).then(|| {
        let mut quantized = Q8Rows::new(rows, columns);
        quantize(cpu, input, rows, &mut quantized);
        quantized
    });
    let mut rounded = Bf16Rows::new(rows, columns);
    round_to_bf16(cpu, input, rows, &mut rounded);
    let mut output = vec![9.0; (rows + 1) * stride];
    linear(
        cpu,
        Linear {
            input: Inputs { floats: input, quantized: quantized.as_ref(), rounded: Some(&rounded) },
            rows,
            segments,
            output: &mut output,
            output_stride: stride,
            accumulate: false,
        },
    );
    let guard = output.split_off(rows * stride);
    assert!(guard.iter().all(|&guard| guard == 9.0));
    output
}

fn plain_product(matrix: &PackedMatrix, input: &[f32], rows: usize) -> Vec<f32> {
    let mut weights = vec![0.0; matrix.columns()];
    let mut output = vec![0.0; rows * matrix.rows()];
    for column in 0..matrix.rows() {
        matrix.dequantise_row(column, &mut weights);
        for row in 0..rows {
            let input = &input[row * matrix.columns()..][..matrix.columns()];
            let products = input.iter().zip(&weights).map(|(a, b)| f64::from(*a) * f64::from(*b));
            output[row * matrix.rows() + column] = products.sum::<f64>() as f32;
        }
    }
    output
}

#[test]
fn quantized_rungs_agree_with_the_meaning() {
    for layout in layouts() {
        for (outputs, columns) in [(16, 256), (17, 512), (1, 1024), (50, 768)] {
            for rows in [1, 2, 3, 5, 12, 15, 16, 31, 57] {
                let input = Values::new(2).floats(rows * columns);
                let mut want = None;
                for cpu in cpus() {
                    let matrix = random_matrix(&cpu, [outputs, columns], layout, 5);
                    let segment = Segment { matrix: &matrix, bias: None, column: 0 };
                    let got = multiply(&cpu, &input, rows, &[segment], outputs);
                    let first = want.is_none();
                    let want = want.get_or_insert(got.clone());
                    assert_close(&got, want, 1e-5, &format!("{layout:?} {}", cpu.isa.rung()));
                    if first {
                        // Inputs are rounded to 8 bits: 1/254 of the largest of a block at worst.
                        let plain = plain_product(&matrix, &input, rows);
                        assert_close(&got, &plain, 0.02, &format!("{layout:?} against floats"));
                    }
                }
            }
        }
    }
}

#[test]
fn dense_rungs_agree_with_plain_products() {
    for format in [DenseFormat::F32, DenseFormat::F16, DenseFormat::Bf16] {
        for (outputs, columns) in [(16, 1), (17, 33), (1, 96), (40, 200)] {
            for rows in [1, 2, 3, 4, 9, 31] {
                let mut values = Values::new(8);
                let input = values.floats(rows * columns);
                let rounded: Vec<f32> =
                    input.iter().map(|value| bf16::from_f32(*value).to_f32()).collect();
                let weights = values.floats(outputs * columns);
                for cpu in cpus() {
                    let matrix = PackedMatrix::pack_dense(
                        &cpu.pool,
                        [outputs, columns],
                        format,
                        |row, target| target.copy_from_slice(&weights[row * columns..][..columns]),
                    );
                    let segment = Segment { matrix: &matrix, bias: None, column: 0 };
                    let got = multiply(&cpu, &input, rows, &[segment], outputs);
                    let name = format!("{format:?} {}", cpu.isa.rung());
                    let exact = plain_product(&matrix, &input, rows);
                    if matrix.layout().input_form(cpu.isa.rung()) == InputForm::Rounded {
                        let want = plain_product(&matrix, &rounded, rows);
                        assert_close(&got, &want, 2e-6, &name);
                        // Half of a last bit of eight of each input, where sums may cancel.
                        assert_close(&got, &exact, 0.01, &format!("{name} unrounded"));
                    } else {
                        assert_close(&got, &exact, 2e-6, &name);
                    }
                }
            }
        }
    }
}

#[test]
fn segments_biases_and_accumulation() {
    let layout = layouts()[1];
    for cpu in cpus() {
        let quantized = random_matrix(&cpu, [20, 64], layout, 1);
        let weights = Values::new(6).floats(7 * 64);
        let dense =
            PackedMatrix::pack_dense(&cpu.pool, [7, 64], DenseFormat::F32, |row, target| {
                target.copy_from_slice(&weights[row * 64..][..64]);
            });
        let bias = Values::new(9).floats(7);
        let input = Values::new(3).floats(3 * 64);
        let segments = [
            Segment { matrix: &quantized, bias: None, column: 0 },
            Segment { matrix: &dense, bias: Some(&bias), column: 20 },
        ];
        let got = multiply(&cpu, &input, 3, &segments, 30);
        let first = multiply(&cpu, &input, 3, &segments[..1], 20);
        let second = plain_product(&dense, &input, 3);
        for row in 0..3 {
            assert_eq!(got[row * 30..][..20], first[row * 20..][..20]);
            let want: Vec<f32> =
                second[row * 7..][..7].iter().zip(&bias).map(|(sum, bias)| sum + bias).collect();
            assert_close(&got[row * 30 + 20..][..7], &want, 1e-6, "bias");
            assert!(got[row * 30 + 27..][..3].iter().all(|&guard| guard == 9.0));
        }
        let mut output = vec![1.0; 3 * 7];
        linear(
            &cpu,
            Linear {
                input: Inputs { floats: &input, quantized: None, rounded: None },
                rows: 3,
                segments: &[Segment { column: 0, ..segments[1] }],
                output: &mut output,
                output_stride: 7,
                accumulate: true,
            },
        );
        for row in 0..3 {
            for column in 0..7 {
                let want = 1.0 + got[row * 30 + 20 + column];
                assert_eq!(output[row * 7 + column], want);
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    for cpu in cpus() {
        for layout in layouts() {
            assert_rows_alone(&cpu, &random_matrix(&cpu, [33, 1024], layout, 4));
        }
        let weights = Values::new(13).floats(50 * 333);
        for format in [DenseFormat::F32, DenseFormat::F16, DenseFormat::Bf16] {
            let read = |row: usize, target: &mut [f32]| {
                target.copy_from_slice(&weights[row * 333..][..333]);
            };
            assert_rows_alone(&cpu, &PackedMatrix::pack_dense(&cpu.pool, [50, 333], format, read));
        }
    }
}

/// That each of many rows has the same products alone.
fn assert_rows_alone(cpu: &Cpu, matrix: &PackedMatrix) {
    let (outputs, columns) = (matrix.rows(), matrix.columns());
    let segment = [Segment { matrix, bias: None, column: 0 }];
    let input = Values::new(12).floats(61 * columns);
    let together = multiply(cpu, &input, 61, &segment, outputs);
    for row in 0..61 {
        let alone = multiply(cpu, &input[row * columns..][..columns], 1, &segment, outputs);
        let name = format!("{:?} {}", matrix.layout(), cpu.isa.rung());
        assert_eq!(alone, together[row * outputs..][..outputs], "{name}");
    }
}
