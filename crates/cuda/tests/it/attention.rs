//! Attention over pages.

use cuda::kernels::{
    BLOCK_TOKENS,
    attention::{Attention, Sequence, StepLimits, Tasks},
};
use half::bf16;

use crate::support::{Bench, Values, assert_close};

/// A model's heads, what it sees, and the sequences of a step: rows and the position of the first.
struct Case<'a> {
    head_dim: usize,
    heads: usize,
    kv_heads: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    sequences: &'a [(usize, usize)],
}

const DECODE: &[(usize, usize)] =
    &[(1, 0), (1, 15), (1, 16), (1, 700), (2, 33), (1, 5000), (1, 1), (1, 20_000), (6, 3000)];
const PROMPTS: &[(usize, usize)] = &[(17, 0), (300, 0), (64, 1000), (130, 7), (33, 2048)];
const MIXED: &[(usize, usize)] = &[(1, 300), (257, 0), (1, 0), (40, 511), (3, 900)];

#[test]
fn heads_of_every_width() {
    for (head_dim, heads, kv_heads) in
        [(64, 9, 3), (64, 2, 2), (80, 4, 4), (96, 8, 2), (128, 8, 2), (128, 14, 2), (256, 8, 4)]
    {
        for sequences in [DECODE, PROMPTS, MIXED] {
            let (window, softcap) = (None, None);
            run(&Case { head_dim, heads, kv_heads, window, softcap, sequences });
        }
    }
}

#[test]
fn many_long_sequences() {
    // So many that none is cut, though a warp does more pages of each than it has lanes.
    let (window, softcap, sequences) = (None, None, &[(1, 2200); 52]);
    run(&Case { head_dim: 64, heads: 8, kv_heads: 8, window, softcap, sequences });
}

#[test]
fn windows_and_capped_scores() {
    for (window, softcap) in [
        (Some(1), None),
        (Some(100), None),
        (Some(4096), None),
        (None, Some(5.0)),
        (Some(64), Some(2.0)),
    ] {
        for sequences in [DECODE, PROMPTS, MIXED] {
            let (head_dim, heads, kv_heads) = (128, 8, 2);
            run(&Case { head_dim, heads, kv_heads, window, softcap, sequences });
        }
    }
}

fn run(case: &Case<'_>) {
    let Some(bench) = Bench::new(case.head_dim, case.heads / case.kv_heads) else { return };
    let got = attend(&bench, case, 0..case.sequences.len());
    let mut first = 0;
    for (index, &(rows, position)) in case.sequences.iter().enumerate() {
        let width = case.heads * case.head_dim;
        let expected = expected(case, index);
        let got = &got[first * width..(first + rows) * width];
        let Case { head_dim, heads, window, softcap, .. } = case;
        let what = format!(
            "{rows} rows at {position}, heads {heads} × {head_dim}, window {window:?}, cap {softcap:?}"
        );
        assert_close(got, &expected, 1e-2, &what);
        first += rows;
    }
}

/// Queries, keys and values of a sequence: they depend on its number alone.
fn content(case: &Case<'_>, index: usize) -> [Vec<bf16>; 3] {
    let (rows, position) = case.sequences[index];
    let mut values = Values::new(index as u64 + 100);
    let kv = (position + rows) * case.kv_heads * case.head_dim;
    [values.halves(rows * case.heads * case.head_dim), values.halves(kv), values.halves(kv)]
}

/// Runs some of a case's sequences on the GPU, in pages all over the pool.
fn attend(bench: &Bench, case: &Case<'_>, which: std::ops::Range<usize>) -> Vec<f32> {
    let &Case { head_dim, heads, kv_heads, window, softcap, .. } = case;
    let stride = (heads + 2 * kv_heads) * head_dim;
    let pages: usize = case.sequences[which.clone()]
        .iter()
        .map(|(rows, position)| (rows + position).div_ceil(BLOCK_TOKENS))
        .sum();
    let blocks = pages + 3;
    let mut free: Vec<usize> = (0..blocks).collect();
    let mut values = Values::new(7);
    for index in (1..blocks).rev() {
        free.swap(index, (values.bits() % (index as u64 + 1)) as usize);
    }
    let block = kv_heads * BLOCK_TOKENS * head_dim;
    // What is in no sequence must not be seen.
    let mut keys = vec![bf16::NAN; blocks * block];
    let mut pool_values = keys.clone();
    let (mut queries, mut tables, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
    for index in which {
        let (row_count, position_first) = case.sequences[index];
        let row_first = queries.len() / stride;
        let table_first = tables.len();
        sequences.push(Sequence { row_first, row_count, position_first, table_first });
        let [own_queries, own_keys, own_values] = content(case, index);
        for row in own_queries.chunks(heads * head_dim) {
            queries.extend_from_slice(row);
            queries.resize(queries.len() + stride - row.len(), bf16::NAN);
        }
        let width = kv_heads * head_dim;
        for position in 0..position_first + row_count {
            if position % BLOCK_TOKENS == 0 {
                tables.push(free.pop().expect("there are enough") as i32);
            }
            let page = tables[tables.len() - 1] as usize;
            for head in 0..kv_heads {
                let from = position * width + head * head_dim;
                let to =
                    ((page * kv_heads + head) * BLOCK_TOKENS + position % BLOCK_TOKENS) * head_dim;
                keys[to..to + head_dim].copy_from_slice(&own_keys[from..from + head_dim]);
                pool_values[to..to + head_dim].copy_from_slice(&own_values[from..from + head_dim]);
            }
        }
    }
    let rows = queries.len() / stride;
    let kernels = &bench.kernels.attention;
    let limits = StepLimits { rows, sequences: sequences.len(), kv_heads };
    let scratch = kernels.scratch(&bench.stream, limits).unwrap();
    let tasks = kernels.planner().plan(&sequences, rows, kv_heads, window);
    assert!(tasks.words().len() <= kernels.planner().words_max(limits));
    let output = bench.poisoned::<bf16>(rows * heads * head_dim);
    let args = Attention {
        queries: &bench.upload(&queries),
        query_stride: stride,
        keys: &bench.upload(&keys),
        values: &bench.upload(&pool_values),
        block_tables: &bench.upload(&tables),
        task_words: &bench.upload(tasks.words()),
        tasks: Tasks::Listed(&tasks),
        output: &output,
        rows,
        window,
        scale: 1.0 / (head_dim as f32).sqrt(),
        softcap,
    };
    // Twice: what a launch leaves behind must not disturb the next.
    for _ in 0..2 {
        bench.stream.fill_bytes(&output, 0xff).unwrap();
        kernels.attend(&bench.stream, &args, &scratch).unwrap();
    }
    bench.floats(&output)
}

fn expected(case: &Case<'_>, index: usize) -> Vec<f32> {
    let &Case { head_dim, heads, kv_heads, window, softcap, .. } = case;
    let (rows, position_first) = case.sequences[index];
    let floats = |values: &Vec<bf16>| values.iter().map(|&value| value.into()).collect();
    let [queries, keys, values]: [Vec<f32>; 3] = content(case, index).each_ref().map(floats);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut output = Vec::new();
    for row in 0..rows {
        let end = position_first + row + 1;
        let begin = window.map_or(0, |window| end.saturating_sub(window));
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let at = |position: usize| (position * kv_heads + kv_head) * head_dim;
            let query = &queries[(row * heads + head) * head_dim..][..head_dim];
            let mut scores: Vec<f32> = (begin..end)
                .map(|position| {
                    let key = &keys[at(position)..][..head_dim];
                    let score = scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
                    softcap.map_or(score, |cap| cap * (score / cap).tanh())
                })
                .collect();
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
            let sum: f32 = scores.iter().sum();
            let mut attended = vec![0.0; head_dim];
            for (weight, position) in scores.iter().zip(begin..end) {
                let value = &values[at(position)..][..head_dim];
                attended.iter_mut().zip(value).for_each(|(out, v)| *out += weight / sum * v);
            }
            output.extend(attended);
        }
    }
    output
}
