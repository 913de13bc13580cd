//! What 8-bit inputs cost in accuracy, format by format: products with the packed weights beside products of the same
//! weights, dequantised, with float inputs. For the K formats too, of which small models have no files.

use anyhow::{Context, Result};
use types::DataType;

use super::{Bench, calls::Rows};
use crate::{
    random::{Random, fill},
    report::Table,
};

const ROWS: usize = 16;
const OUTPUTS: usize = 256;
const INPUTS: usize = 2048;

pub(super) fn run(bench: &Bench) -> Result<()> {
    let name = |data_type: DataType| format!("error {}", data_type.to_string().to_lowercase());
    let wanted: Vec<DataType> =
        DataType::ALL.into_iter().filter(|data_type| bench.wants(&name(*data_type))).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let table = Table::start(&[("products beside float inputs", 44), ("root mean square", 17)]);
    for data_type in wanted {
        let error = format!("{:.3} %", 100.0 * relative(bench, data_type)?);
        table.row(&[name(data_type), error]);
    }
    Ok(())
}

/// The root of the mean square of the differences, in parts of that of the products.
fn relative(bench: &Bench, data_type: DataType) -> Result<f64> {
    let cpu = &*bench.cpu;
    let shape = [OUTPUTS, INPUTS];
    let bytes = data_type.bytes_for(OUTPUTS * INPUTS).context("rows are whole blocks")?;
    let mut source = vec![0; bytes];
    fill(&mut Random::new(0, "error"), data_type, 0.03, &mut source);
    let rows = Rows::new(cpu, ROWS, INPUTS);
    let mut products = [vec![0.0; ROWS * OUTPUTS], vec![0.0; ROWS * OUTPUTS]];
    let packed = quant::pack(&cpu.pool, data_type, shape, &source)?;
    let floats = quant::pack_as_f32(&cpu.pool, data_type, shape, &source)?;
    for (matrix, products) in [packed, floats].into_iter().zip(&mut products) {
        rows.multiply(cpu, ROWS, &[matrix], products);
    }
    let [packed, floats] = products;
    let square = |value: f32| f64::from(value) * f64::from(value);
    let differences: f64 = packed.iter().zip(&floats).map(|(a, b)| square(a - b)).sum();
    let whole: f64 = floats.iter().map(|value| square(*value)).sum();
    Ok((differences / whole).sqrt())
}
