//! Cuts, penalties and frequencies, on distributions small enough to work out by hand.

use std::sync::Arc;

use types::{SamplingParams, SlotAdmission, SlotId};

use super::*;

mod reference;

/// The widest rung of this machine.
fn isa() -> Isa {
    Isa::detect()
}

/// Logits of a distribution that gives token `i` the probability `probabilities[i]`.
fn logits(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|probability| probability.ln() + 3.0).collect()
}

fn slot(tokens: &[TokenId], prompt_len: u32, sampling: SamplingParams) -> Slot {
    let (tokens, sampling) = (tokens.to_vec(), Arc::new(sampling));
    Slot::new(SlotAdmission { slot: SlotId(0), tokens, prompt_len, sampling })
}

/// How often each token is drawn over many seeds.
fn frequencies(probabilities: &[f32], sampling: &SamplingParams) -> Vec<f32> {
    let mut counts = vec![0.0; probabilities.len()];
    let rounds = 20_000;
    for seed in 0..rounds {
        let slot = slot(&[0], 1, SamplingParams { seed, ..sampling.clone() });
        let (token, _) = sample(isa(), &mut logits(probabilities), &slot).unwrap();
        counts[token as usize] += 1.0 / rounds as f32;
    }
    counts
}

#[track_caller]
fn check(sampling: SamplingParams, want: [f32; 5]) {
    let got = frequencies(&[0.4, 0.1, 0.3, 0.05, 0.15], &sampling);
    for (got, want) in got.iter().zip(want) {
        // Five standard deviations of a frequency over 20,000 draws are below 0.018; what is cut is never drawn.
        assert!(
            (got - want).abs() < 0.018 && (want > 0.0 || *got == 0.0),
            "{got}, expected {want}"
        );
    }
}

#[test]
fn frequencies_follow_the_probabilities_that_the_cuts_leave() {
    let plain = SamplingParams::default;
    check(plain(), [0.4, 0.1, 0.3, 0.05, 0.15]);
    check(SamplingParams { temperature: 0.0, ..plain() }, [1.0, 0.0, 0.0, 0.0, 0.0]);
    let squares = 0.16 + 0.01 + 0.09 + 0.0025 + 0.0225;
    check(
        SamplingParams { temperature: 0.5, ..plain() },
        [0.16, 0.01, 0.09, 0.0025, 0.0225].map(|square| square / squares),
    );
    check(SamplingParams { top_k: 2, ..plain() }, [4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0, 0.0]);
    check(SamplingParams { top_k: 9, ..plain() }, [0.4, 0.1, 0.3, 0.05, 0.15]);
    check(SamplingParams { top_p: 0.69, ..plain() }, [4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0, 0.0]);
    check(
        SamplingParams { top_p: 0.71, ..plain() },
        [8.0 / 17.0, 0.0, 6.0 / 17.0, 0.0, 3.0 / 17.0],
    );
    check(SamplingParams { min_p: 0.7, ..plain() }, [4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0, 0.0]);
    // The entropy is 1.393; -ln p is 0.916, 2.303, 1.204, 2.996, 1.897: nearest are tokens 2, 0 and 4.
    check(SamplingParams { typical_p: 0.25, ..plain() }, [0.0, 0.0, 1.0, 0.0, 0.0]);
    check(SamplingParams { typical_p: 0.5, ..plain() }, [4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0, 0.0]);
}

#[test]
fn top_p_over_many_candidates_is_exact() {
    // Weights 1000, 999, ... in shuffled places; the heaviest that hold 30 % of the mass are kept.
    let weights: Vec<f32> = (0..1000).map(|index| (index * 7 % 1000 + 1) as f32).collect();
    let sampling = SamplingParams { top_p: 0.3, ..SamplingParams::default() };
    let target = 0.3 * 500_500.0;
    let mut sum = 0.0;
    let lightest = (1..=1000).rev().find(|weight| {
        sum += f64::from(*weight);
        sum >= target
    });
    let mut seen = f32::MAX;
    for seed in 0..20_000 {
        let slot = slot(&[0], 1, SamplingParams { seed, ..sampling.clone() });
        let (token, _) = sample(isa(), &mut logits(&weights), &slot).unwrap();
        seen = seen.min(weights[token as usize]);
    }
    assert_eq!(seen, lightest.unwrap() as f32);
}

#[test]
fn cuts_reach_as_far_down_as_it_takes() {
    // Groups of tokens, the lightest first, each far below the next.
    let groups = [(5000, -18), (1000, -14), (2000, -10), (1, 0)];
    let weights: Vec<f64> =
        groups.iter().flat_map(|&(count, exponent)| vec![2.0_f64.powi(exponent); count]).collect();
    let logits: Vec<f32> = weights.iter().map(|weight| weight.ln() as f32).collect();
    let mut ranked: Vec<usize> = (0..weights.len()).collect();
    ranked.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
    let total: f64 = weights.iter().sum();
    // Masses just above what the upper groups hold, and floors just below a group.
    for (top_p, min_p, lowest) in [
        (0.35, 0.0, 2),
        (0.98, 0.0, 1),
        (0.9965, 0.0, 0),
        (1.0, 0.000_9, 2),
        (1.0, 0.000_055, 1),
        (1.0, 0.000_003_5, 0),
        (0.9965, 0.000_055, 1),
    ] {
        let mut sum = 0.0;
        let mut kept = vec![false; weights.len()];
        for &token in &ranked {
            kept[token] = sum < f64::from(top_p) * total && weights[token] >= f64::from(min_p);
            sum += weights[token];
        }
        let first: usize = groups[..lowest].iter().map(|group| group.0).sum();
        let lowest = first..first + groups[lowest].0;
        let mut has_lowest = false;
        for seed in 0..1500 {
            let sampling = SamplingParams { seed, top_p, min_p, ..SamplingParams::default() };
            let survey = kernels::vocabulary::survey(isa(), &logits);
            let token = draw::draw(isa(), &logits, survey, &sampling, 0) as usize;
            assert!(kept[token], "{token} at top_p {top_p}, min_p {min_p}");
            has_lowest |= lowest.contains(&token);
        }
        assert!(has_lowest, "none of {lowest:?} at top_p {top_p}, min_p {min_p}");
    }
}

#[test]
fn of_equal_tokens_those_with_lower_ids_are_kept() {
    // More than are taken out of a vocabulary, and a few.
    for len in [8, 8192] {
        let flat = vec![0.5; len];
        let half = SamplingParams { top_p: 0.5, ..SamplingParams::default() };
        let cuts = [
            (len / 2, half.clone()),
            (len / 2, SamplingParams { top_p: 1.0, typical_p: 0.5, ..half.clone() }),
            (len / 2, SamplingParams { top_p: 1.0, top_k: len as u32 / 2, ..half.clone() }),
            (len / 4, SamplingParams { top_k: len as u32 / 2, ..half.clone() }),
            (len / 4, SamplingParams { typical_p: 0.5, min_p: 1.0, ..half }),
        ];
        for (kept, sampling) in cuts {
            let tokens: Vec<usize> = (0..500)
                .map(|seed| {
                    let slot = slot(&[0], 1, SamplingParams { seed, ..sampling.clone() });
                    sample(isa(), &mut flat.clone(), &slot).unwrap().0 as usize
                })
                .collect();
            assert!(tokens.iter().all(|&token| token < kept), "{sampling:?}");
            assert!(tokens.iter().any(|&token| token >= kept - kept.div_ceil(20)), "{sampling:?}");
        }
    }
}

#[test]
fn a_token_depends_on_seed_and_position_only() {
    let flat = vec![1.0; 1000];
    let draw = |seed, tokens: &[TokenId]| {
        let slot = slot(tokens, 1, SamplingParams { seed, ..SamplingParams::default() });
        sample(isa(), &mut logits(&flat), &slot).unwrap().0
    };
    assert_eq!(draw(1, &[5, 6]), draw(1, &[7, 8]));
    assert_ne!(draw(1, &[5, 6]), draw(2, &[5, 6]));
    assert_ne!(draw(1, &[5, 6]), draw(1, &[5, 6, 7]));
}

#[test]
fn bias_and_penalties_change_logits_as_defined() {
    let sampling = SamplingParams {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        logit_bias: vec![(3, 10.0), (99, 1.0)],
        stop_token_ids: vec![4],
        tokens_min: 3,
        ..SamplingParams::greedy()
    };
    // Token 0 in the prompt; token 1 in the prompt and twice in the output; token 2 nowhere.
    let slot = slot(&[0, 1, 1, 1], 2, sampling);
    let mut values = vec![1.0, -1.0, 1.0, 1.0, 50.0];
    let (token, _) = sample(isa(), &mut values, &slot).unwrap();
    assert_eq!(values, [0.5, -2.0 - 0.5 - 0.5, 1.0, 11.0, f32::NEG_INFINITY]);
    assert_eq!(token, 3);
}

#[test]
fn logprobs_are_of_the_raw_distribution() {
    let sampling = SamplingParams {
        logprobs: Some(2),
        logit_bias: vec![(3, 100.0)],
        ..SamplingParams::greedy()
    };
    let slot = slot(&[0], 1, sampling);
    let (token, logprobs) = sample(isa(), &mut logits(&[0.5, 0.25, 0.125, 0.125]), &slot).unwrap();
    let logprobs = logprobs.unwrap();
    assert_eq!((token, logprobs.token), (3, 3));
    assert!((logprobs.logprob - 0.125_f32.ln()).abs() < 1e-6);
    assert_eq!(logprobs.top.iter().map(|&(token, _)| token).collect::<Vec<_>>(), [0, 1]);
    assert!((logprobs.top[1].1 - 0.25_f32.ln()).abs() < 1e-6);
}

#[test]
fn logits_that_are_not_numbers_fail_the_request() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in 0..3 {
            let mut logits = vec![1.0; 3];
            logits[place] = wrong;
            let slot = slot(&[0], 1, SamplingParams::greedy());
            assert_eq!(
                sample(isa(), &mut logits, &slot).unwrap_err().kind,
                types::FaultKind::Internal
            );
        }
    }
}
