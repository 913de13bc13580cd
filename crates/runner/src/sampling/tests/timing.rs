//! Microseconds a token for usual parameters, printed and not judged.
//!
//! `cargo test --release -p runner -- --ignored --nocapture microseconds_a_token`

use std::time::Instant;

use super::*;

#[test]
#[ignore = "prints times, checks nothing"]
fn microseconds_a_token() {
    let plain = SamplingParams::default;
    let greedy = SamplingParams::greedy;
    let warm = || SamplingParams { temperature: 0.8, ..plain() };
    let rows = [
        ("greedy", greedy()),
        ("greedy, repetition penalty", SamplingParams { repetition_penalty: 1.1, ..greedy() }),
        ("greedy, logprobs 5", SamplingParams { logprobs: Some(5), ..greedy() }),
        ("temperature 0.8", warm()),
        ("temperature 0.8, logprobs 5", SamplingParams { logprobs: Some(5), ..warm() }),
        ("temperature 0.8, top_p 0.95", SamplingParams { top_p: 0.95, ..warm() }),
        ("temperature 0.8, min_p 0.05", SamplingParams { min_p: 0.05, ..warm() }),
        ("temperature 0.8, top_k 40", SamplingParams { top_k: 40, ..warm() }),
        (
            "temperature 0.8, top_k 40, top_p 0.95",
            SamplingParams { top_k: 40, top_p: 0.95, ..warm() },
        ),
        ("temperature 0.8, top_k 4000", SamplingParams { top_k: 4000, ..warm() }),
        ("temperature 0.8, typical_p 0.9", SamplingParams { typical_p: 0.9, ..warm() }),
        ("temperature 5, top_p 0.95", SamplingParams { temperature: 5.0, top_p: 0.95, ..plain() }),
    ];
    for vocabulary in [49_152, 151_936] {
        let logits = peaked(vocabulary);
        println!("vocabulary of {vocabulary} tokens");
        for (name, sampling) in &rows {
            println!("{:9.1} us  {name}", microseconds(&logits, sampling));
        }
    }
}

/// Logits as of a model that is fairly sure: a bell curve of deviation 2, and a few dozen tokens that stand out.
fn peaked(vocabulary: usize) -> Vec<f32> {
    let mut logits: Vec<f32> = (0..vocabulary as u64)
        .map(|token| {
            let sum: f64 = (0..12).map(|term| random::uniform(token, term)).sum();
            ((sum - 6.0) * 2.0) as f32
        })
        .collect();
    for rank in 0..40 {
        let place = (random::uniform(7, rank) * vocabulary as f64) as usize;
        logits[place] = 14.0 - 0.15 * rank as f32;
    }
    logits
}

/// The least of many draws.
fn microseconds(logits: &[f32], sampling: &SamplingParams) -> f64 {
    let mut row = logits.to_vec();
    let mut least = f64::INFINITY;
    for seed in 0..300 {
        row.copy_from_slice(logits);
        let slot = slot(&[1, 2, 3], 2, SamplingParams { seed, ..sampling.clone() });
        let begin = Instant::now();
        std::hint::black_box(sample(isa(), &mut row, &slot)).unwrap();
        least = least.min(begin.elapsed().as_secs_f64());
    }
    least * 1e6
}
