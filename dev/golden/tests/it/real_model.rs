//! SmolLM2 against its float32 reference.

use device::cpu::Rung;
use golden::{
    all_processors,
    bfloat16::smollm2_bfloat16,
    cpu,
    drive::{Circumstances, Generated, Job, run},
    load, reference, runner, smollm2_file,
};
use kernels::attention::KvFormat;
use models::Compute;
use types::SamplingParams;
use weights::Weights;

struct Tolerance {
    compute: Compute,
    kv_format: KvFormat,
    rung: Rung,
    /// Log-probabilities after the prompt differ by at most this, if they are compared.
    top10: Option<f32>,
    /// Mean negative log-likelihoods of all prompts differ by at most this part.
    nll: f32,
    /// Greedy tokens are compared up to the first whose margin is below this.
    margin: f32,
}

fn check(tolerance: &Tolerance) {
    let Some(file) = smollm2_file() else { return };
    check_weights(&Weights::open(&file).expect("the file is a model"), tolerance);
}

fn check_weights(weights: &Weights, tolerance: &Tolerance) {
    let _alone = all_processors();
    let cpu = cpu(tolerance.rung);
    let model = load(weights, &cpu, tolerance.compute);
    let jobs = jobs();
    let mut runner = runner(&cpu, &model, jobs.len() as u32, tolerance.kv_format);
    let generated = run(&mut runner, &jobs, Circumstances::default());
    println!("{:?} {:?} {}", tolerance.compute, tolerance.kv_format, tolerance.rung);
    compare(&generated, tolerance.nll, tolerance.margin, tolerance.top10);
}

/// What the reference was asked for.
pub(crate) fn jobs() -> Vec<Job> {
    let reference = reference::read();
    let job = |case: reference::Generation| Job {
        prompt: case.prompt_ids,
        count: case.greedy_ids.len(),
        sampling: SamplingParams {
            logprobs: Some(10),
            prompt_logprobs: Some(0),
            ..SamplingParams::greedy()
        },
    };
    reference.generate.into_iter().map(job).collect()
}

/// Compares what came of these jobs with the reference, within the bounds that [`Tolerance`] describes.
pub(crate) fn compare(generated: &[Generated], nll_bound: f32, margin: f32, top10: Option<f32>) {
    let reference = reference::read();
    let (mut got_nll, mut want_nll) = (0.0, 0.0);
    let mut worst_logprob = 0.0_f32;
    for (case, got) in reference.generate.iter().zip(generated) {
        assert_eq!(got.prompt_logprobs.len(), case.prompt_nll.len());
        got_nll -= got.prompt_logprobs.iter().map(|token| token.logprob).sum::<f32>();
        want_nll += case.prompt_nll.iter().sum::<f32>();
        worst_logprob = worst_logprob.max(compare_top10(case, got));
        let sure = case.greedy_margin.iter().position(|&found| found < margin);
        let sure = sure.unwrap_or(case.greedy_ids.len());
        assert_eq!(got.tokens[..sure], case.greedy_ids[..sure], "greedy tokens of {:?}", case.text);
    }
    let nll = (got_nll - want_nll).abs() / want_nll;
    println!("  worst of top ten off by {worst_logprob}, NLL off by {nll}");
    assert!(nll <= nll_bound, "NLL off by {nll}");
    if let Some(most) = top10 {
        assert!(worst_logprob <= most, "a log-probability is off by {worst_logprob}");
    }
}

/// The largest difference among the reference's ten most likely tokens that are among ours.
fn compare_top10(case: &reference::Generation, got: &Generated) -> f32 {
    let got = &got.logprobs[0].top;
    let &(_, smallest) = got.last().expect("ten were asked for");
    case.last_top10
        .iter()
        .map(|&(token, want)| {
            let found = got.iter().find(|&&(other, _)| other == token);
            // A token that fell out of the ten is at most as likely as the last of them.
            (found.map_or(smallest, |&(_, value)| value) - want).abs()
        })
        .fold(0.0, f32::max)
}

#[test]
fn the_reference_path_agrees_with_the_reference() {
    for &rung in &Rung::ALL[1..] {
        check(&Tolerance {
            compute: Compute::F32,
            kv_format: KvFormat::F32,
            rung,
            top10: Some(0.02),
            nll: 0.0005,
            margin: 0.02,
        });
    }
}

#[test]
fn the_fast_path_stays_near_the_reference() {
    for &rung in &Rung::ALL[1..] {
        check(&Tolerance {
            compute: Compute::Native,
            kv_format: KvFormat::Bf16,
            rung,
            top10: None,
            nll: 0.02,
            margin: 0.5,
        });
    }
}

#[test]
fn keys_and_values_of_8_bits_cost_little() {
    check(&Tolerance {
        compute: Compute::Native,
        kv_format: KvFormat::Int8,
        rung: Rung::HIGHEST,
        top10: None,
        nll: 0.02,
        margin: 0.5,
    });
}

#[test]
fn a_folder_in_bfloat16_agrees_on_the_reference_path() {
    let Some(weights) = smollm2_bfloat16() else { return };
    // What differs is the rounding of the weights alone; the kernels of the other rungs are compared above.
    check_weights(
        weights,
        &Tolerance {
            compute: Compute::F32,
            kv_format: KvFormat::F32,
            rung: Rung::HIGHEST,
            top10: Some(0.1),
            nll: 0.001,
            margin: 0.1,
        },
    );
}

#[test]
fn a_folder_in_bfloat16_stays_near_the_reference_on_the_fast_path() {
    let Some(weights) = smollm2_bfloat16() else { return };
    for &rung in &Rung::ALL[1..] {
        check_weights(
            weights,
            &Tolerance {
                compute: Compute::Native,
                kv_format: KvFormat::Bf16,
                rung,
                top10: Some(0.15),
                nll: 0.003,
                margin: 0.2,
            },
        );
    }
}
