//! Products of few rows, and of more with quantized weights.

use cuda::{
    DeviceBuffer,
    kernels::products::{
        DENSE_ROWS_MAX, FewRows, Matrix, NextNorm, NormFactor, QUANTIZED_ROWS_MAX, Sink, Tiled,
        TiledScratch, square_sums,
    },
};
use half::bf16;
use kernels::linear::{QuantizedLayout, Scales};

use crate::support::{Bench, LAYOUTS, Values, assert_close};

/// What a product writes to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Bf16,
    F32,
    Residual,
    Gated,
}

const KINDS: [Kind; 4] = [Kind::Bf16, Kind::F32, Kind::Residual, Kind::Gated];

#[test]
fn every_epilogue_at_every_edge() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let mut values = Values::new(1);
    // Outputs and inputs: below a tile, not a multiple of anything, several steps a warp.
    let shapes = [(8, 8), (33, 40), (576, 576), (192, 1536), (100, 2056), (4096, 4096)];
    for (outputs, inputs) in shapes {
        for rows in [1, 2, 5, 7, DENSE_ROWS_MAX] {
            for kind in KINDS {
                case(&bench, &mut values, None, (rows, outputs, inputs), kind);
            }
        }
    }
}

#[test]
fn every_quantized_layout_with_every_epilogue() {
    let Some(bench) = Bench::with_layouts(64, 3, &LAYOUTS) else { return };
    let mut values = Values::new(4);
    for layout in LAYOUTS {
        let mut shapes = vec![(16, 256), (192, 1536), (304, 2304), (2112, 512)];
        if layout.scales == Scales::Half {
            // Inputs that end within a record.
            shapes.extend([(48, 96), (16, 32)]);
        }
        for (outputs, inputs) in shapes {
            for rows in [1, 3, 8, 9, 16, 17, 32] {
                for kind in KINDS {
                    case(&bench, &mut values, Some(layout), (rows, outputs, inputs), kind);
                }
            }
        }
        // Outputs that end within a tile.
        case(&bench, &mut values, Some(layout), (5, 40, 256), Kind::F32);
        case(&bench, &mut values, Some(layout), (30, 1000, 256), Kind::Residual);
    }
}

#[test]
fn more_rows_with_every_quantized_layout() {
    let Some(bench) = Bench::with_layouts(64, 3, &LAYOUTS) else { return };
    let mut values = Values::new(6);
    let scratch = bench.kernels.tiled.scratch(&bench.stream).unwrap();
    for layout in LAYOUTS {
        // One block and several, inputs that many and few blocks share, and that end within a stage.
        let mut shapes = vec![(16, 256), (304, 1536), (1056, 512)];
        if layout.scales == Scales::Half {
            shapes.extend([(48, 96), (16, 32)]);
        }
        for (outputs, inputs) in shapes {
            for rows in [33, 64, 100] {
                for kind in KINDS {
                    let what = (rows, outputs, inputs);
                    tiled_case(&bench, &scratch, &mut values, layout, what, kind);
                }
            }
        }
        // Outputs that end within a tile, and many blocks of rows.
        tiled_case(&bench, &scratch, &mut values, layout, (65, 40, 256), Kind::F32);
        tiled_case(&bench, &scratch, &mut values, layout, (400, 1000, 256), Kind::Residual);
    }
}

fn case(
    bench: &Bench,
    values: &mut Values,
    layout: Option<QuantizedLayout>,
    shape: (usize, usize, usize),
    kind: Kind,
) {
    let has_bias = kind != Kind::Gated;
    check(bench, values, layout, (shape, has_bias), (kind, 0.0), |operands, sink| {
        let Operands { weights, input, bias, output_stride } = operands;
        let (rows, outputs, inputs) = shape;
        let factor = None;
        let args =
            FewRows { weights, input, factor, bias, sink, rows, outputs, inputs, output_stride };
        bench.kernels.few_rows.multiply(&bench.stream, &args).unwrap();
    });
}

fn tiled_case(
    bench: &Bench,
    scratch: &TiledScratch,
    values: &mut Values,
    layout: QuantizedLayout,
    shape: (usize, usize, usize),
    kind: Kind,
) {
    assert!(shape.0 > QUANTIZED_ROWS_MAX, "fewer are the other kernel's");
    // Weights are rounded to bfloat16.
    check(bench, values, Some(layout), (shape, false), (kind, 3e-3), |operands, sink| {
        let Operands { weights, input, output_stride, .. } = operands;
        let (rows, outputs, inputs) = shape;
        let args = Tiled { weights, input, sink, rows, outputs, inputs, output_stride };
        bench.kernels.tiled.multiply(&bench.stream, &args, scratch).unwrap();
    });
}

/// What is multiplied.
struct Operands<'a> {
    weights: &'a Matrix,
    input: &'a DeviceBuffer<bf16>,
    bias: Option<&'a DeviceBuffer<f32>>,
    output_stride: usize,
}

fn check(
    bench: &Bench,
    values: &mut Values,
    layout: Option<QuantizedLayout>,
    ((rows, outputs, inputs), has_bias): ((usize, usize, usize), bool),
    (kind, error): (Kind, f32),
    multiply: impl FnOnce(Operands<'_>, Sink<'_>),
) {
    let what = format!("{rows} rows, {outputs} outputs, {inputs} inputs, {kind:?}, {layout:?}");
    let matrix_rows = if kind == Kind::Gated { 2 * outputs } else { outputs };
    let (matrix, weights) = bench.matrix(values, layout, [matrix_rows, inputs]);
    let input = values.halves(rows * inputs);
    let bias = has_bias.then(|| values.floats(outputs));
    let output_stride = outputs + 3;
    let before = values.floats(rows * output_stride);
    let product = |row: usize, output: usize| -> f32 {
        let weights = &weights[output * inputs..(output + 1) * inputs];
        let input = &input[row * inputs..(row + 1) * inputs];
        weights.iter().zip(input).map(|(&w, &x)| w * f32::from(x)).sum()
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
    let sink = match kind {
        Kind::Bf16 => Sink::Bf16(&halves),
        Kind::F32 => Sink::F32(&floats),
        Kind::Residual => Sink::Residual(&floats, None),
        Kind::Gated => Sink::Gated(&halves),
    };
    let input = bench.upload(&input);
    let operands = Operands { weights: &matrix, input: &input, bias: bias.as_ref(), output_stride };
    multiply(operands, sink);
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
    assert_close(&got, &expected, relative + error, &what);
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let layouts = [None, Some(LAYOUTS[1]), Some(LAYOUTS[7])];
    let Some(bench) = Bench::with_layouts(64, 3, &[LAYOUTS[1], LAYOUTS[7]]) else { return };
    let mut values = Values::new(2);
    let (outputs, inputs) = (128, 768);
    for layout in layouts {
        let (matrix, _) = bench.matrix(&mut values, layout, [outputs, inputs]);
        let input = values.halves(32 * inputs);
        let run = |rows: usize| {
            let output = bench.poisoned::<f32>(rows * outputs);
            let args = FewRows {
                weights: &matrix,
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
        // Within what one kernel takes; from 17 rows on, fewer warps share the inputs out.
        for sizes in [&[1_usize, 2, 5, 8, 9, 16][..], &[17, 25, 32]] {
            let sizes: Vec<_> =
                sizes.iter().filter(|&&rows| rows <= DENSE_ROWS_MAX || layout.is_some()).collect();
            for pair in sizes.windows(2) {
                assert_eq!(run(*pair[0]), run(*pair[1]), "{pair:?} rows, {layout:?}");
            }
        }
    }
}

#[test]
fn a_norm_between_products_is_what_it_is_by_itself() {
    let layout = LAYOUTS[0];
    let Some(bench) = Bench::with_layouts(64, 3, &[layout]) else { return };
    let mut values = Values::new(3);
    let dense = [(576, 1536), (104, 64), (4096, 512)].map(|shape| (None, shape));
    let quantized = [(576, 1536), (2080, 512)].map(|shape| (Some(layout), shape));
    for (layout, (width, inner)) in dense.into_iter().chain(quantized) {
        let most = if layout.is_some() { 32 } else { DENSE_ROWS_MAX };
        for rows in [1, 5, 8, 13, 20, 32].into_iter().filter(|&rows| rows <= most) {
            let epsilon = 1e-5;
            let (first, _) = bench.matrix(&mut values, layout, [width, inner]);
            let (second, second_weights) = bench.matrix(&mut values, layout, [inner, width]);
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
                    weights: &first,
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
                    weights: &second,
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
                for weights in second_weights.chunks(width) {
                    expected.push(weights.iter().zip(&normed).map(|(w, x)| w * x).sum::<f32>());
                }
            }
            let what = format!("{rows} rows, width {width}, {layout:?}");
            assert_close(&bench.download(&output), &expected, 6e-3, &what);
        }
    }
}

#[test]
fn quantized_weights_become_bfloat16_row_by_row() {
    let Some(bench) = Bench::with_layouts(64, 3, &LAYOUTS) else { return };
    let mut values = Values::new(5);
    for layout in LAYOUTS {
        let (rows, columns) = (75, 768);
        let (matrix, weights) = bench.matrix(&mut values, Some(layout), [rows, columns]);
        let Matrix::Quantized(matrix) = matrix else { panic!("it is quantized") };
        for range in [0..75, 16..75, 32..64] {
            let output = bench.poisoned::<bf16>(rows * columns);
            let (kernels, stream) = (&bench.kernels.dequantize, &bench.stream);
            kernels.dequantize(stream, &matrix, range.clone(), &output).unwrap();
            let got = bench.floats(&output);
            let (got, rest) = got.split_at(range.len() * columns);
            let want = &weights[range.start * columns..range.end * columns];
            assert_close(got, want, 3e-3, &format!("{layout:?}, rows {range:?}"));
            assert!(rest.iter().all(|value| value.is_nan()), "nothing is written past the rows");
        }
    }
}
