//! Sixteen values at a time; the squares add up in four independent sums.

use super::Part;
use crate::{
    lanes::{Dots, LANES, LaneKernel, Lanes},
    quantize::{QUAD, quantize_row_lanes},
};

impl LaneKernel for Part<'_> {
    #[inline(always)]
    fn run<L: Lanes + Dots>(self) {
        let width = self.weight.len();
        for row in self.rows {
            let range = row * width..(row + 1) * width;
            // SAFETY: workers have different rows.
            let output = unsafe { self.output.part(range.clone()) };
            normalise::<L>(&self.input[range], self.weight, self.epsilon, output);
            if let Some(quantized) = self.quantized {
                // SAFETY: workers have different quads.
                quantize_row_lanes::<L>(output, unsafe { quantized.quad_of(row) }, row % QUAD);
            }
        }
    }
}

#[inline(always)]
fn normalise<L: Lanes>(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
    let mut sums = [L::splat(0.0); 4];
    for (index, values) in input.chunks(LANES).enumerate() {
        let values = L::load_some(values);
        sums[index % 4] = values.fma(values, sums[index % 4]);
    }
    let squares = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
    let factor = L::splat(1.0 / (squares / input.len() as f32 + epsilon).sqrt());
    let chunks = input.chunks(LANES).zip(weight.chunks(LANES)).zip(output.chunks_mut(LANES));
    for ((input, weight), output) in chunks {
        L::load_some(input).mul(factor).mul(L::load_some(weight)).store_some(output);
    }
}
