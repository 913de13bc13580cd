//! Attention of one sequence: the next token after a context, and prompts.

use kernels::attention::KvFormat;

use super::{
    Bench, CALL_MAX_S, Size,
    calls::{KV_FORMATS, Sequences},
    products::SHAPES,
};
use crate::shape::Heads;

/// Context and rows: decode, then prefill.
const CASES: [(usize, usize); 5] = [(128, 1), (1024, 1), (8192, 1), (512, 512), (2048, 2048)];

pub(super) fn run(bench: &Bench) {
    for shape in SHAPES {
        for (format_name, format) in KV_FORMATS {
            let mut operations_s: Option<f64> = None;
            for case in CASES {
                let (context, rows) = case;
                let kind = if rows == 1 { "decode" } else { "prefill" };
                let line = format!("attention {format_name} {} {kind} {context}", shape.name);
                let heads = shape.heads;
                let expected_s = operations_s.map_or(0.0, |rate| operations(heads, case) / rate);
                if bench.wants(&line) && expected_s < CALL_MAX_S {
                    operations_s = Some(measure(bench, &line, heads, format, case));
                }
            }
        }
    }
}

/// Two multiply-adds for each value of a head that a query sees.
fn operations(heads: Heads, (context, rows): (usize, usize)) -> f64 {
    let seen: usize = (context - rows + 1..=context).sum();
    4.0 * (seen * heads.queries * heads.dim) as f64
}

/// Returns operations per second.
fn measure(bench: &Bench, line: &str, heads: Heads, format: KvFormat, case: (usize, usize)) -> f64 {
    let (context, rows) = case;
    let cache = 2 * context * heads.kv * heads.dim * format.bytes();
    let activations = 2 * 4 * rows * heads.queries * heads.dim;
    let operations = operations(heads, case);
    let size = Size {
        bytes: (cache + activations) as f64,
        operations: Some((operations, bench.roofline.f32_s)),
    };
    let mut sequences = Sequences::new(&bench.cpu, heads, format, case, bench.copies(cache));
    let timing = bench.measure(line, size, || sequences.attention(&bench.cpu));
    operations / timing.best_s
}
