//! Products of few rows.

use cuda::kernels::{FEW_ROWS_MAX, FewRows, NextNorm, NormFactor, Sink, square_sums};
use half::bf16;

use crate::support::{Bench, Values, assert_close};

/// What a product writes to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Bf16,
    F32,
    Residual,
    Gated,
}

#[test]
fn every_epilogue_at_every_edge() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let mut values = Values::new(1);
    // Outputs and inputs: below a tile, not a multiple of anything, several steps a warp.
    let shapes = [(8, 8), (33, 40), (576, 576), (192, 1536), (100, 2056), (4096, 4096)];
    for (outputs, inputs) in shapes {
        for rows in [1, 2, 5, 7, FEW_ROWS_MAX] {
            for kind in [Kind::Bf16, Kind::F32, Kind::Residual, Kind::Gated] {
                case(&bench, &mut values, (rows, outputs, inputs), kind);
            }
        }
    }
}

fn case(
    bench: &Bench,
    values: &mut Values,
    (rows, outputs, inputs): (usize, usize, usize),
    kind: Kind,
) {
    let what = format!("{rows} rows, {outputs} outputs, {inputs} inputs, {kind:?}");
    let matrix_rows = if kind == Kind::Gated { 2 * outputs } else { outputs };
    let weights = values.halves(matrix_rows * inputs);
    let input = values.halves(rows * inputs);
    let bias = (kind != Kind::Gated).then(|| values.floats(outputs));
    let output_stride = outputs + 3;
    let before = values.floats(rows * output_stride);
    let product = |row: usize, output: usize| -> f32 {
        let weights = &weights[output * inputs..(output + 1) * inputs];
        let input = &input[row * inputs..(row + 1) * inputs];
        weights.iter().zip(input).map(|(&w, &x)| f32::from(w) * f32::from(x)).sum()
    };
    let mut expected = Vec::new();
    for row in 0..rows {
        for output in 0..outputs {
            let sum = product(row, output) + bias.as_ref().map_or(0.0, |bias| bias[output]);
            expected.push(match kind {
                Kind::Bf16 | Kind::F32 => sum,
                Kind::Residual => before[row * output_stride + output] + sum,
                Kind::Gated => sum / (1.0 + (-sum).exp()) * product(row, outputs + output),
            });
        }
    }
    let halves = bench.poisoned::<bf16>(rows * output_stride);
    let floats = if kind == Kind::Residual {
        bench.upload(&before)
    } else {
        bench.poisoned::<f32>(rows * output_stride)
    };
    let bias = bias.map(|bias| bench.upload(&bias));
    let args = FewRows {
        weights: &bench.upload(&weights),
        input: &bench.upload(&input),
        factor: None,
        bias: bias.as_ref(),
        sink: match kind {
            Kind::Bf16 => Sink::Bf16(&halves),
            Kind::F32 => Sink::F32(&floats),
            Kind::Residual => Sink::Residual(&floats, None),
            Kind::Gated => Sink::Gated(&halves),
        },
        rows,
        outputs,
        inputs,
        output_stride,
    };
    bench.kernels.few_rows.multiply(&bench.stream, &args).unwrap();
    let got = match kind {
        Kind::Bf16 | Kind::Gated => bench.floats(&halves),
        Kind::F32 | Kind::Residual => bench.download(&floats),
    };
    let untouched = |index: usize, value: f32| match kind {
        Kind::Residual => value == before[index],
        _ => value.is_nan(),
    };
    let between = (0..rows * output_stride).filter(|index| index % output_stride >= outputs);
    for index in between {
        assert!(untouched(index, got[index]), "{what}: wrote between rows at {index}");
    }
    let got: Vec<f32> = got.chunks(output_stride).flat_map(|row| row[..outputs].to_vec()).collect();
    let relative = match kind {
        Kind::F32 | Kind::Residual => 1e-4,
        Kind::Bf16 => 4e-3,
        Kind::Gated => 1e-2,
    };
    assert_close(&got, &expected, relative, &what);
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let mut values = Values::new(2);
    let (outputs, inputs) = (128, 576);
    let weights = bench.upload(&values.halves(outputs * inputs));
    let input = values.halves(FEW_ROWS_MAX * inputs);
    let run = |rows: usize| {
        let output = bench.poisoned::<f32>(rows * outputs);
        let args = FewRows {
            weights: &weights,
            input: &bench.upload(&input[..rows * inputs]),
            factor: None,
            bias: None,
            sink: Sink::F32(&output),
            rows,
            outputs,
            inputs,
            output_stride: outputs,
        };
        bench.kernels.few_rows.multiply(&bench.stream, &args).unwrap();
        bench.download(&output)[..outputs].to_vec()
    };
    let alone = run(1);
    for rows in [2, 5, 8] {
        assert_eq!(run(rows), alone, "{rows} rows");
    }
}

#[test]
fn a_norm_between_products_is_what_it_is_by_itself() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let mut values = Values::new(3);
    for (width, inner) in [(576, 1536), (104, 64), (4096, 512)] {
        for rows in [1, 5, 8] {
            let epsilon = 1e-5;
            let first = values.halves(width * inner);
            let second = values.halves(inner * width);
            let input = values.halves(rows * inner);
            let before = values.floats(rows * width);
            let weight = values.floats(width);
            let residual = bench.upload(&before);
            let scaled = bench.poisoned::<bf16>(rows * width);
            let squares = bench.poisoned::<f32>(rows * square_sums(width));
            let weight_on_gpu = bench.upload(&weight);
            let next = NextNorm { weight: &weight_on_gpu, scaled: &scaled, squares: &squares };
            let output = bench.poisoned::<f32>(rows * inner);
            let products = [
                FewRows {
                    weights: &bench.upload(&first),
                    input: &bench.upload(&input),
                    factor: None,
                    bias: None,
                    sink: Sink::Residual(&residual, Some(next)),
                    rows,
                    outputs: width,
                    inputs: inner,
                    output_stride: width,
                },
                FewRows {
                    weights: &bench.upload(&second),
                    input: &scaled,
                    factor: Some(NormFactor { squares: &squares, epsilon }),
                    bias: None,
                    sink: Sink::F32(&output),
                    rows,
                    outputs: inner,
                    inputs: width,
                    output_stride: inner,
                },
            ];
            for product in &products {
                bench.kernels.few_rows.multiply(&bench.stream, product).unwrap();
            }
            let residual = bench.download(&residual);
            let mut expected = Vec::new();
            for row in residual.chunks(width) {
                let mean = row.iter().map(|x| x * x).sum::<f32>() / width as f32;
                let factor = (mean + epsilon).sqrt().recip();
                let normed: Vec<f32> =
                    row.iter().zip(&weight).map(|(x, w)| x * factor * w).collect();
                for weights in second.chunks(width) {
                    expected.push(
                        weights.iter().zip(&normed).map(|(&w, x)| f32::from(w) * x).sum::<f32>(),
                    );
                }
            }
            let what = format!("{rows} rows, width {width}");
            assert_close(&bench.download(&output), &expected, 6e-3, &what);
        }
    }
}
