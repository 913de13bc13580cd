//! Embedding, norms, rotary embedding with storing, the gate.

use cuda::kernels::{BLOCK_TOKENS, Embed, RmsNorm, RopeStore};
use half::bf16;
use kernels::linear::QuantizedLayout;

use crate::support::{Bench, LAYOUTS, Values, assert_close};

#[test]
fn embedding_looks_up_known_and_drawn_tokens() {
    let Some(bench) = Bench::with_layouts(64, 3, &LAYOUTS) else { return };
    let tables = LAYOUTS.map(|layout| (Some(layout), 768));
    for (layout, width) in tables.into_iter().chain([(None, 72)]) {
        embedding(&bench, layout, width);
    }
}

fn embedding(bench: &Bench, layout: Option<QuantizedLayout>, width: usize) {
    let mut values = Values::new(1);
    let (vocabulary, pairs) = (50, 5);
    let (table, table_values) = bench.matrix(&mut values, layout, [vocabulary, width]);
    let tokens = [7, -1, 49, -3, 0];
    let last_tokens = [11, 12, 13];
    let positions = [0, 1, 1000, 100_000, 131_071];
    let frequencies: Vec<f64> = (0..pairs).map(|pair| 0.7_f64.powi(3 * pair)).collect();
    let rows = tokens.len();
    let residual = bench.poisoned::<f32>(rows * width);
    let angles = bench.poisoned::<f32>(rows * pairs as usize * 2);
    let norm = values.floats(width);
    let normed = bench.poisoned::<bf16>(rows * width);
    let embed = Embed {
        tokens: &bench.upload(&tokens),
        last_tokens: &bench.upload(&last_tokens),
        table: &table,
        vocabulary,
        residual: &residual,
        positions: &bench.upload(&positions),
        frequencies: &bench.upload(&frequencies),
        angles: &angles,
        width,
        rows,
        magnitude: 1.5,
        norm: &bench.upload(&norm),
        normed: &normed,
        epsilon: 1e-5,
    };
    bench.kernels.rows.embed(&bench.stream, &embed).unwrap();
    let expected: Vec<f32> = [7, 11, 49, 13, 0]
        .iter()
        .flat_map(|&token: &usize| &table_values[token * width..(token + 1) * width])
        .copied()
        .collect();
    assert_close(&bench.download(&residual), &expected, 1e-6, &format!("{layout:?}"));
    assert_close(&bench.floats(&normed), &rms_norm(&expected, &norm), 4e-3, "first norm");
    let expected: Vec<f32> = positions
        .iter()
        .flat_map(|&position| {
            frequencies.iter().flat_map(move |frequency| {
                let (sine, cosine) = (f64::from(position) * frequency).sin_cos();
                [1.5 * cosine as f32, 1.5 * sine as f32]
            })
        })
        .collect();
    for (got, want) in bench.download(&angles).iter().zip(&expected) {
        assert!((got - want).abs() < 1e-5, "angle {got}, expected {want}");
    }
}

fn rms_norm(rows: &[f32], weight: &[f32]) -> Vec<f32> {
    let width = weight.len();
    let normed = rows.chunks(width).flat_map(|row| {
        let mean = row.iter().map(|x| x * x).sum::<f32>() / width as f32;
        let factor = (mean + 1e-5).sqrt().recip();
        row.iter().zip(weight).map(move |(x, w)| x * factor * w)
    });
    normed.collect()
}

#[test]
fn rms_norm_of_narrow_and_wide_rows_in_any_order() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let mut values = Values::new(2);
    for (rows, width) in [(1, 4), (3, 576), (2, 4096), (5, 5120), (300, 64)] {
        let input = values.floats(rows * width);
        let weight = values.floats(width);
        let order: Vec<i32> = (0..rows as i32).rev().collect();
        for selected in [false, true] {
            let output = bench.poisoned::<bf16>(rows * width);
            let order = selected.then(|| bench.upload(&order));
            let norm = RmsNorm {
                input: &bench.upload(&input),
                weight: &bench.upload(&weight),
                output: &output,
                selected: order.as_ref(),
                rows,
                width,
                epsilon: 1e-5,
            };
            bench.kernels.rows.rms_norm(&bench.stream, &norm).unwrap();
            let order: Vec<usize> =
                if selected { (0..rows).rev().collect() } else { (0..rows).collect() };
            let ordered: Vec<f32> = order
                .iter()
                .flat_map(|row| input[row * width..(row + 1) * width].to_vec())
                .collect();
            let expected = rms_norm(&ordered, &weight);
            assert_close(&bench.floats(&output), &expected, 4e-3, "rms norm");
        }
    }
}

/// A case of rotary embedding.
struct Rope {
    head_dim: usize,
    heads: usize,
    kv_heads: usize,
    pairs: usize,
    adjacent: bool,
    bias: bool,
    norms: bool,
}

#[test]
fn queries_and_keys_are_turned_and_stored() {
    let plain = Rope {
        head_dim: 128,
        heads: 8,
        kv_heads: 2,
        pairs: 64,
        adjacent: false,
        bias: false,
        norms: false,
    };
    let cases = [
        Rope { adjacent: true, ..plain },
        Rope { bias: true, norms: true, ..plain },
        Rope { head_dim: 64, heads: 9, kv_heads: 3, pairs: 32, bias: true, ..plain },
        Rope { head_dim: 80, heads: 5, kv_heads: 5, pairs: 16, norms: true, ..plain },
        Rope { head_dim: 96, pairs: 48, adjacent: true, ..plain },
        Rope { head_dim: 256, pairs: 128, ..plain },
        plain,
    ];
    for case in cases {
        rope_case(&case);
    }
}

fn rope_case(case: &Rope) {
    let &Rope { head_dim, heads, kv_heads, pairs, adjacent, bias, norms } = case;
    let Some(bench) = Bench::new(head_dim, heads / kv_heads) else { return };
    let mut values = Values::new(3);
    let (rows, blocks) = (5, 3);
    let stride = (heads + 2 * kv_heads) * head_dim;
    let qkv = values.halves(rows * stride);
    let angles = values.floats(rows * pairs * 2);
    let places = [0, 47, 16, 31, 5];
    let bias_values = bias.then(|| values.floats(stride));
    let norm_values = norms.then(|| [values.floats(head_dim), values.floats(head_dim)]);
    let pool = blocks * kv_heads * BLOCK_TOKENS * head_dim;
    let (keys, pool_values) = (bench.poisoned::<bf16>(pool), bench.poisoned::<bf16>(pool));
    let on_gpu = bench.upload(&qkv);
    let bias_on_gpu = bias_values.as_ref().map(|values| bench.upload(values));
    let norms_on_gpu = norm_values.as_ref().map(|norms| norms.each_ref().map(|n| bench.upload(n)));
    let args = RopeStore {
        qkv: &on_gpu,
        angles: &bench.upload(&angles),
        places: &bench.upload(&places),
        keys: &keys,
        values: &pool_values,
        bias: bias_on_gpu.as_ref(),
        query_norm: norms_on_gpu.as_ref().map(|norms| &norms[0]),
        key_norm: norms_on_gpu.as_ref().map(|norms| &norms[1]),
        rows,
        heads,
        kv_heads,
        pairs,
        adjacent,
        epsilon: 1e-6,
    };
    bench.kernels.rows.rope_store(&bench.stream, &args).unwrap();
    let (turned, keys, stored) =
        (bench.floats(&on_gpu), bench.floats(&keys), bench.floats(&pool_values));
    let mut touched = 0;
    for row in 0..rows {
        for head in 0..heads + 2 * kv_heads {
            let start = row * stride + head * head_dim;
            let mut expected: Vec<f32> =
                qkv[start..start + head_dim].iter().map(|&value| value.into()).collect();
            if let Some(bias) = &bias_values {
                let bias = &bias[head * head_dim..];
                expected.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
            if head < heads + kv_heads {
                if let Some(norms) = &norm_values {
                    let mean = expected.iter().map(|x| x * x).sum::<f32>() / head_dim as f32;
                    let factor = (mean + 1e-6).sqrt().recip();
                    let norm = &norms[usize::from(head >= heads)];
                    expected.iter_mut().zip(norm).for_each(|(value, w)| *value *= factor * w);
                }
                for pair in 0..pairs {
                    let (a, b) =
                        if adjacent { (2 * pair, 2 * pair + 1) } else { (pair, pair + pairs) };
                    let angle = &angles[(row * pairs + pair) * 2..];
                    let (x, y) = (expected[a], expected[b]);
                    expected[a] = x * angle[0] - y * angle[1];
                    expected[b] = y * angle[0] + x * angle[1];
                }
            }
            let got = if head < heads {
                &turned[start..start + head_dim]
            } else {
                let kv_head = (head - heads) % kv_heads;
                let place = places[row] as usize;
                let block = place / BLOCK_TOKENS * kv_heads + kv_head;
                let first = (block * BLOCK_TOKENS + place % BLOCK_TOKENS) * head_dim;
                touched += head_dim;
                let pool = if head < heads + kv_heads { &keys } else { &stored };
                &pool[first..first + head_dim]
            };
            assert_close(got, &expected, 4e-3, &format!("row {row}, head {head}"));
        }
    }
    let written = keys.iter().chain(&stored).filter(|value| !value.is_nan()).count();
    assert_eq!(written, touched, "nothing else is written");
}

#[test]
fn the_gate_multiplies_halves_of_rows() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let mut values = Values::new(4);
    for (rows, width) in [(1, 8), (17, 1536), (700, 4096)] {
        let gate_up: Vec<bf16> =
            (0..rows * 2 * width).map(|_| bf16::from_f32(4.0 * values.float())).collect();
        let output = bench.poisoned::<bf16>(rows * width);
        let shape = (rows, width);
        let rows_on_gpu = bench.upload(&gate_up);
        bench.kernels.rows.silu_mul(&bench.stream, &rows_on_gpu, &output, shape).unwrap();
        let expected: Vec<f32> = gate_up
            .chunks(2 * width)
            .flat_map(|row| {
                let (gate, up) = row.split_at(width);
                gate.iter().zip(up).map(|(&gate, &up)| {
                    let (gate, up) = (f32::from(gate), f32::from(up));
                    gate / (1.0 + (-gate).exp()) * up
                })
            })
            .collect();
        assert_close(&bench.floats(&output), &expected, 4e-3, "gate");
    }
}
