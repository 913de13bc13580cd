//! What a model has to do for a token at least, and how fast this machine could do that.

use device::cpu::Rung;
use kernels::linear::InputForm;
use models::{Op, Program};

use crate::roofline::Roofline;

/// What some products take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Products {
    /// Operations for one row, two for each quantized weight.
    pub(crate) int8_operations: f64,
    /// Operations for one row, two for each float weight, but for those below.
    pub(crate) f32_operations: f64,
    /// Operations for one row, two for each weight that is multiplied in pairs of bfloat16.
    pub(crate) bf16_operations: f64,
    /// Bytes of weights, read once for any number of rows.
    pub(crate) bytes: f64,
}

/// What a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ModelWork {
    /// All layers, for each position.
    pub(crate) body: Products,
    /// The logits, for each token drawn.
    pub(crate) head: Products,
}

impl Products {
    fn of(ops: &[Op], program: &Program, rung: Rung) -> Self {
        let mut products = Self::default();
        let segments = ops.iter().filter_map(|op| match op {
            Op::Linear { segments, .. } => Some(segments),
            _ => None,
        });
        for segment in segments.flatten() {
            let matrix = &program.matrices[segment.matrix.0].weights;
            let operations = 2.0 * matrix.rows() as f64 * matrix.columns() as f64;
            match matrix.layout().input_form(rung) {
                InputForm::Quantized => products.int8_operations += operations,
                InputForm::Rounded => products.bf16_operations += operations,
                InputForm::Floats => products.f32_operations += operations,
            }
            products.bytes += matrix.bytes() as f64;
        }
        products
    }

    /// The least time for the operations of one row.
    fn seconds(&self, roofline: &Roofline, int8_s: f64) -> f64 {
        self.int8_operations / int8_s
            + self.bf16_operations / roofline.bf16_s.unwrap_or(roofline.f32_s)
            + self.f32_operations / roofline.f32_s
    }
}

impl ModelWork {
    /// Of a program.
    pub(crate) fn of(program: &Program, rung: Rung) -> Self {
        let of = |ops: &[Op]| Products::of(ops, program, rung);
        Self { body: of(&program.body), head: of(&program.head) }
    }

    /// Prompt tokens per second if nothing but the products of the layers took time, with this rate of 8-bit
    /// operations.
    pub(crate) fn prefill_tokens_s(&self, roofline: &Roofline, int8_s: f64) -> f64 {
        1.0 / self.body.seconds(roofline, int8_s)
    }

    /// Tokens per second of some streams together if nothing took time but the products, or the reading of all weights
    /// once a step if that takes longer.
    pub(crate) fn decode_tokens_s(&self, roofline: &Roofline, int8_s: f64, streams: usize) -> f64 {
        let reading = (self.body.bytes + self.head.bytes) / roofline.read_bytes_s;
        let products = self.body.seconds(roofline, int8_s) + self.head.seconds(roofline, int8_s);
        streams as f64 / reading.max(streams as f64 * products)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stream_is_bound_by_reading_and_many_by_products() {
        let roofline = Roofline {
            read_bytes_s: 100.0,
            f32_s: 10.0,
            bf16_s: Some(20.0),
            int8_s: 1000.0,
            int8_narrow_s: None,
        };
        let none = Products::default();
        let body = Products { int8_operations: 200.0, bytes: 80.0, ..none };
        // Together 0.1 seconds.
        let head = Products { f32_operations: 0.5, bf16_operations: 1.0, bytes: 20.0, ..none };
        let work = ModelWork { body, head };
        assert!((work.prefill_tokens_s(&roofline, 1000.0) - 5.0).abs() < 1e-9);
        // A second for reading, 0.2 and 0.1 for the products of a token.
        assert!((work.decode_tokens_s(&roofline, 1000.0, 1) - 1.0).abs() < 1e-9);
        assert!((work.decode_tokens_s(&roofline, 1000.0, 8) - 8.0 / 2.4).abs() < 1e-9);
    }
}
