//! Where the time of a step goes on the GPU, by kernel family.

use std::{sync::Arc, time::Instant};

use anyhow::Result;
use runner::{CudaModel, CudaOptions, CudaRunner};
use types::{Executor, SamplingParams};

use super::{Ceilings, Work};
use crate::model::streams::{Streams, prompt};

/// Steps that are timed.
const STEPS: usize = 20;

/// Steps of several streams, each submitted before the one before it has ended, as an engine does it.
pub(crate) fn overlapped(model: &Arc<CudaModel>, options: &CudaOptions) -> Result<()> {
    /// Steps before those that are timed: the first ones are recorded.
    const WARM_UP: usize = 4;
    let vocab_size = model.spec.vocab_size;
    println!("\nsteps one after another, without an engine");
    println!("streams    ms a step   host ms to submit one");
    for count in [1, 2, 8, 16, 32, 64, 128, 256] {
        let mut runner = CudaRunner::new(Arc::clone(model), options)?;
        let prompts = (0..count).map(|stream| prompt(vocab_size, stream, 128)).collect();
        let mut streams = Streams::new(&mut runner, prompts, &SamplingParams::greedy());
        streams.finish_prompts()?;
        let mut submit_s = 0.0;
        let mut begun = Instant::now();
        streams.submit()?;
        for step in 0..WARM_UP + STEPS {
            if step == WARM_UP {
                (begun, submit_s) = (Instant::now(), 0.0);
            }
            let submitting = Instant::now();
            streams.submit()?;
            submit_s += submitting.elapsed().as_secs_f64();
            streams.runner().wait()?;
        }
        let elapsed_s = begun.elapsed().as_secs_f64();
        streams.runner().wait()?;
        streams.end()?;
        println!(
            "{count:<8} {:>11.3} {:>23.3}",
            1e3 * elapsed_s / STEPS as f64,
            1e3 * submit_s / STEPS as f64
        );
    }
    Ok(())
}

/// Prints the profile of steps of several kinds.
pub(crate) fn run(
    model: &Arc<CudaModel>,
    options: &CudaOptions,
    ceilings: &Ceilings,
    work: &Work,
) -> Result<()> {
    let mut runner = CudaRunner::new(Arc::clone(model), options)?;
    let vocab_size = model.spec.vocab_size;
    let greedy = SamplingParams::greedy();
    for (count, context) in [(1, 128), (16, 128), (64, 128), (256, 128), (64, 1024)] {
        let prompts = (0..count).map(|stream| prompt(vocab_size, stream, context)).collect();
        let mut streams = Streams::new(&mut runner, prompts, &greedy);
        streams.finish_prompts()?;
        streams.step()?;
        streams.runner().start_profile();
        for _ in 0..STEPS {
            streams.step()?;
        }
        let profile = streams.runner().finish_profile();
        streams.end()?;
        let floor_s = work.decode_floor_s(ceilings, count as f64, context as f64);
        report(&format!("a step of {count} streams after {context} tokens"), &profile, floor_s);
    }
    let tokens = options.step_tokens_max as usize;
    let mut streams = Streams::new(&mut runner, vec![prompt(vocab_size, 3, 4 * tokens)], &greedy);
    streams.runner().start_profile();
    streams.step()?;
    let profile = streams.runner().finish_profile();
    streams.end()?;
    let floor_s = work.prefill_floor_s(ceilings, tokens as f64);
    report(&format!("a step of {tokens} tokens of a prompt"), &profile, floor_s);
    Ok(())
}

fn report(what: &str, profile: &runner::CudaProfile, floor_s: f64) {
    let ms = |seconds: f64| 1e3 * seconds / f64::from(profile.steps.max(1));
    let total: f64 = profile.by_family.iter().map(|(_, time)| time.as_secs_f64()).sum();
    println!(
        "\n{what}: {:.3} ms by kernel (each timed apart), floor {:.3} ms",
        ms(total),
        1e3 * floor_s
    );
    for (family, time) in &profile.by_family {
        let seconds = time.as_secs_f64();
        println!(
            "  {:<12} {:>8.3} ms {:>5.1} %",
            format!("{family:?}"),
            ms(seconds),
            1e2 * seconds / total
        );
    }
}
