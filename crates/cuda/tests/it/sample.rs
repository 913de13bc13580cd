//! Drawing tokens.

use cuda::kernels::SampleRow;

use crate::support::{Bench, Values};

const GREEDY: SampleRow = SampleRow {
    seed: 0,
    position: 0,
    scale: 0.0,
    top_p: 1.0,
    min_p: 0.0,
    top_k: 0,
    slot: 0,
    unused: 0,
};

/// Draws a token for each row of logits.
fn draw(bench: &Bench, logits: &[f32], rows: &[SampleRow]) -> Vec<i32> {
    let vocabulary = logits.len() / rows.len();
    let tokens = bench.poisoned::<i32>(rows.len());
    let last_tokens = bench.poisoned::<i32>(rows.len() + 1);
    let logits = bench.upload(logits);
    let targets = [&tokens, &last_tokens];
    let sample = &bench.kernels.sample;
    sample.draw(&bench.stream, &logits, &bench.upload(rows), targets, vocabulary).unwrap();
    let (tokens, last_tokens) = (bench.download(&tokens), bench.download(&last_tokens));
    for (row, &token) in rows.iter().zip(&tokens) {
        assert_eq!(last_tokens[row.slot as usize], token, "by row and by slot");
    }
    tokens
}

#[test]
fn the_most_likely_token_and_the_first_of_equals() {
    let Some(bench) = Bench::new(64, 3) else { return };
    for vocabulary in [1, 31, 1024, 1025, 49_152, 128_256] {
        let mut logits = Values::new(vocabulary as u64).floats(4 * vocabulary);
        let expected = [0, vocabulary / 2, vocabulary - 1, vocabulary / 3];
        for (row, &token) in logits.chunks_mut(vocabulary).zip(&expected) {
            row[token] = 2.0;
            row[vocabulary - 1] =
                row[vocabulary - 1].max(if token == vocabulary / 3 { 2.0 } else { 0.0 });
        }
        let rows = [3, 0, 1, 2].map(|slot| SampleRow { slot, ..GREEDY });
        let tokens = draw(&bench, &logits, &rows);
        assert_eq!(tokens, expected.map(|token| token as i32), "of {vocabulary}");
    }
}

#[test]
fn rows_that_are_not_numbers_have_no_token() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let vocabulary = 5000;
    let mut logits = Values::new(1).floats(4 * vocabulary);
    logits[17] = f32::NAN;
    logits[2 * vocabulary - 1] = f32::INFINITY;
    logits[2 * vocabulary] = f32::NEG_INFINITY;
    logits[3 * vocabulary + 9] = 3.0;
    let rows = [0, 1, 2, 3].map(|slot| SampleRow { slot, scale: slot as f32, ..GREEDY });
    let tokens = draw(&bench, &logits, &rows);
    assert_eq!(&tokens[..3], [-1, -1, -1]);
    assert!(tokens[3] >= 0);
}

/// What may be drawn, by the definition: the candidates kept, with their weights, in order of their ids.
fn kept(logits: &[f32], row: &SampleRow) -> Vec<(usize, f64)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut order: Vec<(usize, f64)> = logits
        .iter()
        .enumerate()
        .map(|(token, logit)| (token, f64::from((logit - largest) * row.scale).exp()))
        .collect();
    order.sort_by(|a, b| logits[b.0].total_cmp(&logits[a.0]).then(a.0.cmp(&b.0)));
    if row.top_k > 0 {
        order.truncate(row.top_k as usize);
    }
    let target = f64::from(row.top_p) * order.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut sum = 0.0;
    let reached = order.iter().position(|(_, weight)| {
        sum += weight;
        sum >= target
    });
    if row.top_p < 1.0 {
        order.truncate(reached.map_or(order.len(), |place| place + 1));
    }
    order.retain(|&(_, weight)| weight >= f64::from(row.min_p));
    order.sort_by_key(|&(token, _)| token);
    order
}

#[test]
fn draws_follow_the_distribution_that_the_cuts_leave() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let plain = SampleRow { scale: 1.0, ..GREEDY };
    let cases = [
        plain,
        SampleRow { scale: 3.0, ..plain },
        SampleRow { top_k: 1, ..plain },
        SampleRow { top_k: 7, ..plain },
        SampleRow { top_p: 0.5, ..plain },
        SampleRow { top_p: 0.95, top_k: 50, ..plain },
        SampleRow { min_p: 0.2, ..plain },
        SampleRow { top_k: 900, top_p: 0.9, min_p: 0.05, scale: 2.0, ..plain },
    ];
    /// Draws of each case.
    const DRAWS: usize = 1000;
    for (case, vocabulary) in cases.iter().zip([100, 1000, 5000, 49_152].into_iter().cycle()) {
        // Steep enough that a few tokens hold most of the mass, and with ties.
        let mut values = Values::new(vocabulary as u64);
        let logits: Vec<f32> =
            (0..vocabulary).map(|_| (12.0 * values.float()).round() / 2.0).collect();
        let kept = kept(&logits, case);
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        let mut counts = vec![0_usize; vocabulary];
        for chunk in 0..DRAWS / 50 {
            let rows: Vec<SampleRow> = (0..50)
                .map(|slot| SampleRow {
                    slot,
                    seed: 9,
                    position: (50 * chunk) as u64 + slot as u64,
                    ..*case
                })
                .collect();
            let all: Vec<f32> = (0..50).flat_map(|_| logits.iter().copied()).collect();
            for token in draw(&bench, &all, &rows) {
                counts[token as usize] += 1;
            }
        }
        let drawn: usize = kept.iter().map(|&(token, _)| counts[token]).sum();
        assert_eq!(drawn, DRAWS, "{case:?}: tokens that were cut are never drawn");
        // The greatest distance of the two distribution functions (Kolmogorov and Smirnov); 1.95 / √n is passed by
        // chance once in a thousand times.
        let (mut expected, mut seen, mut distance) = (0.0, 0, 0.0_f64);
        for &(token, weight) in &kept {
            expected += weight / total;
            seen += counts[token];
            distance = distance.max((expected - seen as f64 / DRAWS as f64).abs());
        }
        assert!(distance < 1.95 / (DRAWS as f64).sqrt(), "{case:?}: off by {distance}");
    }
}

#[test]
fn the_same_key_and_position_draw_the_same_token_in_any_row() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let vocabulary = 49_152;
    let logits: Vec<f32> = Values::new(5).floats(vocabulary).iter().map(|x| 9.0 * x).collect();
    let row =
        |slot, position| SampleRow { slot, position, seed: 3, scale: 1.0, top_p: 0.9, ..GREEDY };
    let rows: Vec<SampleRow> = (0..16).map(|slot| row(slot, slot as u64 / 2)).collect();
    let all: Vec<f32> = (0..16).flat_map(|_| logits.iter().copied()).collect();
    let tokens = draw(&bench, &all, &rows);
    assert!(tokens.chunks(2).all(|pair| pair[0] == pair[1]), "{tokens:?}");
    assert_eq!(draw(&bench, &logits, &[row(0, 3)]), tokens[6..7]);
}
