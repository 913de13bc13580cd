//! Sixteen values at a time.

use super::Part;
use crate::{
    lanes::{Dots, LANES, LaneKernel, Lanes},
    quantize::{QUAD, quantize_row_lanes},
};

impl LaneKernel for Part<'_> {
    #[inline(always)]
    fn run<L: Lanes + Dots>(self) {
        let width = self.width;
        let (zero, one) = (L::splat(0.0), L::splat(1.0));
        for row in self.rows {
            let (gate, up) = self.gate_up[row * 2 * width..][..2 * width].split_at(width);
            // SAFETY: workers have different rows.
            let output = unsafe { self.output.part(row * width..(row + 1) * width) };
            let chunks = gate.chunks(LANES).zip(up.chunks(LANES)).zip(output.chunks_mut(LANES));
            for ((gate, up), output) in chunks {
                let gate = L::load_some(gate);
                let silu = gate.div(one.add(zero.sub(gate).exp()));
                silu.mul(L::load_some(up)).store_some(output);
            }
            if let Some(quantized) = self.quantized {
                // SAFETY: workers have different quads.
                quantize_row_lanes::<L>(output, unsafe { quantized.quad_of(row) }, row % QUAD);
            }
        }
    }
}
