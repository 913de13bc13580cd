//! Drawing tokens.

use cuda::kernels::{Draw, LOGPROBS_MAX, Report, SampleRow, TokenBias};

use crate::support::{Bench, Values, assert_close};

/// What is drawn from.
struct Case<'a> {
    logits: &'a [f32],
    rows: &'a [SampleRow],
    biases: &'a [TokenBias],
    /// For each slot the prompt and the output so far, where they are known.
    tokens: &'a [(Vec<i32>, Vec<i32>)],
}

/// Draws a token for each row of logits, and once more, so that what was counted counts.
fn draw_twice(bench: &Bench, case: &Case<'_>) -> [Vec<(i32, Report)>; 2] {
    let (rows, vocabulary) = (case.rows.len(), case.logits.len() / case.rows.len());
    let tokens = bench.poisoned::<i32>(rows);
    let last_tokens = bench.poisoned::<i32>(rows + 1);
    let counts = bench.poisoned::<u32>((rows + 1) * vocabulary);
    let kernels = &bench.kernels.sample;
    for (slot, (prompt, output)) in case.tokens.iter().enumerate() {
        let own = counts.slice(slot * vocabulary..(slot + 1) * vocabulary);
        let all = bench.upload(&[&prompt[..], output].concat());
        kernels.count(&bench.stream, &all, prompt.len(), &own).unwrap();
    }
    let reports = bench.poisoned::<Report>(rows);
    let on_gpu = bench.upload(case.rows);
    // Never empty.
    let biases = bench.upload(&[case.biases, &[TokenBias::default()]].concat());
    [(); 2].map(|()| {
        let args = Draw {
            logits: &bench.upload(case.logits),
            rows: &on_gpu,
            adjusts: true,
            biases: &biases,
            counts: &counts,
            reports: &reports,
            tokens: &tokens,
            last_tokens: &last_tokens,
            vocabulary,
        };
        kernels.draw(&bench.stream, &args).unwrap();
        let last_tokens = bench.download(&last_tokens);
        let drawn = bench.download(&tokens);
        for (row, &token) in case.rows.iter().zip(&drawn) {
            assert_eq!(last_tokens[row.slot as usize], token, "by row and by slot");
        }
        drawn.into_iter().zip(bench.download(&reports)).collect()
    })
}

/// Draws a token for each row of logits, where nothing is added to them.
fn draw(bench: &Bench, logits: &[f32], rows: &[SampleRow]) -> Vec<i32> {
    let case = Case { logits, rows, biases: &[], tokens: &[] };
    let [first, second] = draw_twice(bench, &case);
    let tokens = |drawn: Vec<(i32, Report)>| -> Vec<i32> {
        drawn.into_iter().map(|(token, _)| token).collect()
    };
    let first = tokens(first);
    assert_eq!(first, tokens(second), "the same again");
    first
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
        let rows = [3, 0, 1, 2].map(SampleRow::greedy);
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
    let rows =
        [0, 1, 2, 3].map(|slot| SampleRow { slot, scale: slot as f32, ..SampleRow::greedy(0) });
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
    let plain = SampleRow { scale: 1.0, ..SampleRow::greedy(0) };
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
    let row = |slot, position| SampleRow {
        slot,
        position,
        seed: 3,
        scale: 1.0,
        top_p: 0.9,
        ..SampleRow::greedy(0)
    };
    let rows: Vec<SampleRow> = (0..16).map(|slot| row(slot, slot as u64 / 2)).collect();
    let all: Vec<f32> = (0..16).flat_map(|_| logits.iter().copied()).collect();
    let tokens = draw(&bench, &all, &rows);
    assert!(tokens.chunks(2).all(|pair| pair[0] == pair[1]), "{tokens:?}");
    assert_eq!(draw(&bench, &logits, &[row(0, 3)]), tokens[6..7]);
}

/// The logits as the parameters change them, by their definition.
fn adjusted(
    logits: &[f32],
    row: &SampleRow,
    biases: &[TokenBias],
    (prompt, output): &(Vec<i32>, Vec<i32>),
) -> Vec<f32> {
    let own = &biases[row.bias_first as usize..];
    let (own, rest) = own.split_at(row.bias_count as usize);
    let mut logits = logits.to_vec();
    for bias in own {
        logits[bias.token as usize] += bias.bias;
    }
    for (token, logit) in logits.iter_mut().enumerate() {
        let times = |tokens: &[i32]| tokens.iter().filter(|&&other| other == token as i32).count();
        if times(prompt) + times(output) > 0 {
            *logit = if *logit > 0.0 { *logit / row.repetition } else { *logit * row.repetition };
        }
        if times(output) > 0 {
            *logit -= row.frequency * times(output) as f32 + row.presence;
        }
    }
    for ban in &rest[..row.ban_count as usize] {
        logits[ban.token as usize] = f32::MIN;
    }
    logits
}

fn most_likely(logits: &[f32]) -> usize {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == largest).unwrap()
}

#[test]
fn biases_penalties_and_bans_change_what_is_drawn_and_draws_are_counted() {
    let Some(bench) = Bench::new(64, 3) else { return };
    for vocabulary in [40, 3000, 49_152] {
        let mut values = Values::new(vocabulary as u64);
        let mut token = |values: &mut Values| (values.bits() % vocabulary as u64) as i32;
        let mut biases = vec![TokenBias { token: 0, bias: 9.0 }];
        let (mut rows, mut tokens, mut logits) = (Vec::new(), Vec::new(), Vec::new());
        for slot in 0..12 {
            let list =
                |values: &mut Values, len: usize, token: &mut dyn FnMut(&mut Values) -> i32| {
                    (0..len).map(|_| token(values)).collect::<Vec<i32>>()
                };
            let own: Vec<f32> = values.floats(vocabulary).iter().map(|x| 4.0 * x).collect();
            // The likeliest ones have been seen, so that penalties matter.
            let mut order: Vec<i32> = (0..vocabulary as i32).collect();
            order.sort_by(|&a, &b| own[b as usize].total_cmp(&own[a as usize]));
            let output = [&order[..3], &order[..1], &list(&mut values, 30, &mut token)].concat();
            let prompt = [&order[2..5], &list(&mut values, 200, &mut token)].concat();
            let bias_first = biases.len();
            let kind = slot % 4;
            if kind != 1 {
                biases.extend([
                    TokenBias { token: order[1], bias: -1.5 },
                    TokenBias { token: order[30], bias: 8.5 },
                ]);
            }
            biases.push(TokenBias { token: order[30], bias: f32::NAN });
            rows.push(SampleRow {
                repetition: if kind == 2 { 1.0 } else { 1.3 },
                presence: if kind == 2 { 0.0 } else { 0.4 },
                frequency: if kind == 0 { 0.2 } else { 0.0 },
                logprobs: [-1, 0, 5, 20][kind as usize],
                bias_first: bias_first as i32,
                bias_count: (biases.len() - 1 - bias_first) as i32,
                ban_count: i32::from(kind == 3),
                ..SampleRow::greedy(slot)
            });
            tokens.push((prompt, output));
            logits.extend(own);
        }
        let case = Case { logits: &logits, rows: &rows, biases: &biases, tokens: &tokens };
        for drawn in draw_twice(&bench, &case) {
            for (place, (token, report)) in drawn.into_iter().enumerate() {
                let (row, raw) = (&rows[place], &logits[place * vocabulary..][..vocabulary]);
                let want = most_likely(&adjusted(raw, row, &biases, &tokens[place]));
                assert_eq!(token as usize, want, "of {vocabulary}, {row:?}");
                tokens[place].1.push(token);
                if row.logprobs < 0 {
                    continue;
                }
                let total = raw.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
                let logprob = |token: usize| (f64::from(raw[token]) - total) as f32;
                assert_close(&[report.logprob], &[logprob(want)], 1e-4, "of the token drawn");
                let mut order: Vec<usize> = (0..vocabulary).collect();
                order.sort_by(|&a, &b| raw[b].total_cmp(&raw[a]).then(a.cmp(&b)));
                for (top, &token) in report.top[..row.logprobs as usize].iter().zip(&order) {
                    assert_eq!(top.token as usize, token);
                    assert_close(&[top.logprob], &[logprob(token)], 1e-4, "of another");
                }
            }
        }
    }
    assert_eq!(size_of::<Report>(), 4 + 8 * LOGPROBS_MAX);
}
