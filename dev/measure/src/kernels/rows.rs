//! Kernels that work on rows of activations. Few rows stay in the cache, as they do in a model.

use super::{
    Bench, Size,
    calls::{KV_FORMATS, Rows, Sequences},
    products::SHAPES,
};
use crate::random::Random;

const ROWS: [usize; 3] = [1, 32, 512];

/// Bytes of a value as a float.
const FLOAT: usize = 4;

pub(super) fn run(bench: &Bench) {
    let cpu = &*bench.cpu;
    let size = |values: usize| Size { bytes: values as f64, operations: None };
    for shape in SHAPES {
        let (width, feed_forward) = (shape.width, shape.feed_forward);
        for rows in ROWS {
            let line = |kernel: &str| format!("{kernel} {} rows {rows}", shape.name);
            let weight = Random::new(0, "weight").floats(width);
            let input = Random::new(0, "input").floats(rows * 2 * feed_forward.max(width));
            if bench.wants(&line("rmsnorm")) {
                let mut output = Rows::new(cpu, rows, width);
                bench.measure(&line("rmsnorm"), size(rows * width * (FLOAT + 1)), || {
                    output.rms_norm(cpu, rows, &input, &weight);
                });
            }
            if bench.wants(&line("quantize")) {
                let mut output = Rows::new(cpu, rows, width);
                bench.measure(&line("quantize"), size(rows * width * (FLOAT + 1)), || {
                    output.quantize(cpu, rows);
                });
            }
            if bench.wants(&line("silu_mul")) {
                let mut output = Rows::new(cpu, rows, feed_forward);
                bench.measure(
                    &line("silu_mul"),
                    size(rows * feed_forward * (2 * FLOAT + 1)),
                    || {
                        output.silu_mul(cpu, rows, &input);
                    },
                );
            }
            for (format_name, format) in KV_FORMATS {
                let line = line(&format!("rope_store {format_name}"));
                if bench.wants(&line) {
                    let heads = shape.heads;
                    let turned = 2 * 4 * (heads.queries + heads.kv) * heads.dim;
                    let stored = (4 + 2 * format.bytes()) * heads.kv * heads.dim;
                    let mut sequences = Sequences::new(cpu, heads, format, (rows, rows), 1);
                    bench.measure(&line, size(rows * (turned + stored)), || {
                        sequences.rope_store(cpu);
                    });
                }
            }
        }
    }
}
