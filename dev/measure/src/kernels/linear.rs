//! Products in every weight format.

use anyhow::{Context, Result};
use kernels::linear::PackedMatrix;
use types::DataType;

use super::{
    Bench, CALL_MAX_S, Size,
    calls::{Arithmetic, Rows, arithmetic_of},
    products::{Product, SHAPES, products},
};
use crate::random::{Random, fill};

/// Rows multiplied together: one request, some, many, a prompt.
const ROWS: [usize; 4] = [1, 4, 32, 512];

pub(super) fn run(bench: &Bench) -> Result<()> {
    for shape in SHAPES {
        for product in products(&shape) {
            for data_type in DataType::ALL {
                // The k-quants have blocks of 256, and not every width is a multiple of that.
                if product.inputs.is_multiple_of(data_type.block_elements()) {
                    measure(bench, shape.name, &product, data_type)?;
                }
            }
        }
    }
    Ok(())
}

fn measure(bench: &Bench, model: &str, product: &Product, data_type: DataType) -> Result<()> {
    let cpu = &*bench.cpu;
    let format = data_type.to_string().to_lowercase();
    let line = |rows: usize| format!("linear {format} {model} {} rows {rows}", product.name);
    let wanted = ROWS.into_iter().filter(|&rows| rows <= product.rows_max);
    let wanted: Vec<usize> = wanted.filter(|&rows| bench.wants(&line(rows))).collect();
    let Some(&rows_max) = wanted.last() else { return Ok(()) };
    let copies = pack(bench, product, data_type)?;
    let outputs: usize = product.outputs.iter().sum();
    let input = Rows::new(cpu, rows_max, product.inputs);
    let mut output = vec![0.0; rows_max * outputs];
    let weights: usize = copies[0].iter().map(PackedMatrix::bytes).sum();
    let (input_bytes, peak) = match arithmetic_of(cpu, &copies[0][0]) {
        Arithmetic::F32 => (4, bench.roofline.f32_s),
        Arithmetic::Bf16 => (2, bench.roofline.bf16_s.unwrap_or(bench.roofline.f32_s)),
        Arithmetic::Int8 => (1, bench.roofline.int8_s),
        Arithmetic::Int8Of4Bits => (1, bench.roofline.int8_of_4_bits_s()),
    };
    let mut last: Option<(usize, f64)> = None;
    for rows in wanted {
        let expected_s = last.map_or(0.0, |(before, s)| s * rows as f64 / before as f64);
        if expected_s > CALL_MAX_S {
            println!("{}: left out, a call would take {expected_s:.0} s", line(rows));
            continue;
        }
        let activations = rows * (product.inputs * input_bytes + outputs * 4);
        let operations = 2.0 * (rows * outputs) as f64 * product.inputs as f64;
        let size =
            Size { bytes: (weights + activations) as f64, operations: Some((operations, peak)) };
        let mut next = 0;
        let timing = bench.measure(&line(rows), size, || {
            input.multiply(cpu, rows, &copies[next], &mut output);
            next = (next + 1) % copies.len();
        });
        last = Some((rows, timing.best_s));
    }
    Ok(())
}

/// The product's matrices, so often that no cache holds them all.
fn pack(bench: &Bench, product: &Product, data_type: DataType) -> Result<Vec<Vec<PackedMatrix>>> {
    let shapes = product.outputs.iter().map(|&outputs| [outputs, product.inputs]);
    let bytes = |[rows, columns]: [usize; 2]| data_type.bytes_for(rows * columns);
    let largest = shapes.clone().filter_map(bytes).max().context("rows are whole blocks")?;
    let mut source = vec![0; largest];
    fill(&mut Random::new(0, product.name), data_type, 0.03, &mut source);
    let pack_all = || -> Result<Vec<PackedMatrix>> {
        let pack = |shape| {
            let bytes = bytes(shape).context("rows are whole blocks")?;
            Ok(quant::pack(&bench.cpu.pool, data_type, shape, &source[..bytes])?)
        };
        shapes.clone().map(pack).collect()
    };
    let first = pack_all()?;
    let copies = bench.copies(first.iter().map(PackedMatrix::bytes).sum());
    let others = (1..copies).map(|_| pack_all());
    std::iter::once(Ok(first)).chain(others).collect()
}
