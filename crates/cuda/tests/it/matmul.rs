//! Products of many rows, by the vendor's library.

use cuda::{Multiplier, Operands, OutputType, Product};
use half::bf16;

use crate::support::{Bench, Values, assert_close};

#[test]
fn products_of_many_rows_replace_or_add() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let mut values = Values::new(1);
    let mut multiplier = Multiplier::new(&bench.gpu).unwrap();
    for (rows, outputs, inputs) in [(17, 576, 576), (64, 192, 1536), (200, 1000, 64)] {
        let weights = values.halves(outputs * inputs);
        let input = values.halves(rows * inputs);
        let before = values.floats(rows * outputs);
        let (weights_on_gpu, input_on_gpu) = (bench.upload(&weights), bench.upload(&input));
        let kinds = [(OutputType::Bf16, false), (OutputType::F32, false), (OutputType::F32, true)];
        for (output_type, accumulate) in kinds {
            let product =
                Product { rows, outputs, inputs, output_stride: outputs, output_type, accumulate };
            let mut expected = Vec::new();
            for row in 0..rows {
                for output in 0..outputs {
                    let weights = &weights[output * inputs..(output + 1) * inputs];
                    let input = &input[row * inputs..(row + 1) * inputs];
                    let sum: f32 =
                        weights.iter().zip(input).map(|(&w, &x)| f32::from(w) * f32::from(x)).sum();
                    let start = if accumulate { before[row * outputs + output] } else { 0.0 };
                    expected.push(start + sum);
                }
            }
            let (operands, relative) = match output_type {
                OutputType::Bf16 => (bench.poisoned::<bf16>(rows * outputs).cast(), 4e-3),
                OutputType::F32 if accumulate => (bench.upload(&before).cast(), 1e-4),
                OutputType::F32 => (bench.poisoned::<f32>(rows * outputs).cast(), 1e-4),
            };
            let run =
                Operands { weights: &weights_on_gpu, input: &input_on_gpu, output: &operands };
            if !accumulate {
                multiplier.tune(&bench.stream, product, std::slice::from_ref(&run)).unwrap();
            }
            multiplier.multiply(&bench.stream, product, &run).unwrap();
            let got = match output_type {
                OutputType::Bf16 => bench.floats(&operands.cast()),
                OutputType::F32 => bench.download(&operands.cast()),
            };
            assert_close(&got, &expected, relative, &format!("{product:?}"));
        }
    }
}
