//! Rungs against the meaning, and rows against themselves in other company.

use super::*;
use crate::testing::{Values, assert_close, cpus};

struct Case {
    cache: KvLayer,
    sequences: Vec<Sequence>,
    tables: Vec<u32>,
    queries: Vec<f32>,
    heads: usize,
    head_dim: usize,
}

/// Sequences of `(first position, rows)` over shuffled blocks of a cache full of values.
fn case(
    format: KvFormat,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    of: &[(usize, usize)],
) -> Case {
    let mut values = Values::new(11);
    let mut tables = Vec::new();
    let mut sequences = Vec::new();
    let mut row = 0;
    for &(first_position, rows) in of {
        let blocks = (first_position + rows).div_ceil(BLOCK_TOKENS);
        let start = tables.len();
        // 7 and the 60 blocks of the cache have no common factor: each block is used once, out of order.
        tables.extend((start..start + blocks).map(|index| (index * 7 % 60) as u32));
        sequences.push(Sequence {
            rows: row..row + rows,
            first_position,
            blocks: start..start + blocks,
        });
        row += rows;
    }
    let mut cache = KvLayer::new(KvShape { blocks: 60, kv_heads, head_dim, format });
    for bytes in [&mut cache.keys, &mut cache.values] {
        match bytes {
            cache::Bytes::F32(bytes) => bytes.iter_mut().for_each(|byte| *byte = values.float()),
            cache::Bytes::Bf16(bytes) => {
                bytes.iter_mut().for_each(|byte| *byte = KvElement::from_f32(values.float()));
            }
            cache::Bytes::Int8(bytes) => {
                let mut integer = || KvElement::from_f32(values.float() * 127.0);
                bytes.iter_mut().for_each(|byte| *byte = integer());
            }
        }
    }
    for scales in [&mut cache.key_scales, &mut cache.value_scales] {
        scales.iter_mut().for_each(|scale| *scale = (1.0 + values.float() / 2.0) / 127.0);
    }
    let queries = values.floats(row * (heads + 2) * head_dim).iter().map(|v| v * 3.0).collect();
    Case { cache, sequences, tables, queries, heads, head_dim }
}

fn compute(cpu: &Cpu, case: &Case, sequences: &[Sequence], window: Option<usize>) -> Vec<f32> {
    let kv_heads = case.cache.shape().kv_heads;
    let threads = cpu.pool.threads();
    let tasks = AttentionTasks::new(sequences, case.tables.clone(), case.heads, kv_heads, threads);
    let mut output = vec![9.0; (tasks.rows() + 1) * case.heads * case.head_dim];
    attention(
        cpu,
        Attention {
            queries: &case.queries,
            query_stride: (case.heads + 2) * case.head_dim,
            heads: case.heads,
            tasks: &tasks,
            cache: &case.cache,
            scale: 0.125,
            window,
            output: &mut output,
        },
    );
    let guard = output.split_off(tasks.rows() * case.heads * case.head_dim);
    assert!(guard.iter().all(|&guard| guard == 9.0));
    output
}

const SEQUENCES: [(usize, usize); 6] = [(0, 1), (15, 1), (120, 13), (0, 37), (16, 17), (400, 1)];

#[test]
fn rungs_agree_with_the_meaning() {
    for format in [KvFormat::F32, KvFormat::Bf16, KvFormat::Int8] {
        for (heads, kv_heads, head_dim) in
            [(9, 3, 64), (1, 1, 16), (4, 4, 80), (16, 1, 32), (14, 2, 64)]
        {
            for window in [None, Some(1), Some(20)] {
                let case = case(format, heads, kv_heads, head_dim, &SEQUENCES);
                let mut want = None;
                for cpu in cpus() {
                    let got = compute(&cpu, &case, &case.sequences, window);
                    let rounds = cpu.isa.rung().has_bf16_pairs() && format == KvFormat::Bf16;
                    // Queries and weights rounded to 8 bits move scores, of up to 2 here, by parts of 256.
                    let tolerance = if rounds { 4e-3 } else { 2e-6 };
                    assert_close(&got, want.get_or_insert(got.clone()), tolerance, "attention");
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    for (format, heads) in [(KvFormat::Bf16, 9), (KvFormat::Int8, 15)] {
        let case = case(format, heads, 3, 64, &SEQUENCES);
        let width = case.heads * case.head_dim;
        for cpu in cpus() {
            let together = compute(&cpu, &case, &case.sequences, None);
            for sequence in &case.sequences {
                for row in sequence.rows.clone() {
                    let alone = Sequence {
                        rows: row..row + 1,
                        first_position: sequence.first_position + row - sequence.rows.start,
                        blocks: sequence.blocks.clone(),
                    };
                    let alone = compute(&cpu, &case, &[alone], None);
                    assert_eq!(alone[row * width..], together[row * width..][..width]);
                }
            }
        }
    }
}
