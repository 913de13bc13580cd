//! Waits as predicted when requests come, beside the waits that come.

use scheduler::Settings;
use simulate::{
    Device, Job, Random,
    report::percentile,
    run::{Fleet, Served, run},
};

/// Waits below this are not counted: a step is in it.
const WAIT_S_MIN: f64 = 1.0;

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// More than the device can serve, by this factor in percent, all the time.
    Steady(u32),
    /// Four times what the device can serve for five seconds in sixty, and little between.
    Bursts,
    /// As steady at 150 percent, but one request in thirty is thirty times as long.
    Mixed,
}

/// What became of the predictions.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// Requests that waited long enough to count.
    pub counted: usize,
    /// Their mean wait, in seconds.
    pub actual_s: f64,
    /// What was predicted for them, on average, in seconds.
    pub predicted_s: f64,
    /// The part of them whose wait was within 20 percent of what was predicted.
    pub within_a_fifth: f64,
    /// How far off predictions were, as a part of the wait: the median and 90 in 100.
    pub off: [f64; 2],
}

/// The requests: prompts and answers of all lengths, of one tenant.
pub fn jobs(device: &Device, arrivals: Arrivals, duration_s: f64, seed: u64) -> Vec<Job> {
    let mut random = Random::new(seed);
    let capacity_s = capacity_s(device);
    let (mut jobs, mut at_s) = (Vec::new(), 0.0);
    while at_s < duration_s {
        let rate_s = match arrivals {
            Arrivals::Steady(percent) => capacity_s * f64::from(percent) / 100.0,
            Arrivals::Bursts if at_s % 60.0 < 5.0 => capacity_s * 4.0,
            Arrivals::Bursts => capacity_s * 0.4,
            Arrivals::Mixed => capacity_s * 0.75,
        };
        at_s += random.gap_s(rate_s);
        let job = job(at_s, &mut random);
        let is_long = arrivals == Arrivals::Mixed && random.chance(30);
        let prompt_tokens = if is_long { 30 * job.prompt_tokens } else { job.prompt_tokens };
        jobs.push(Job { prompt_tokens: prompt_tokens.min(8_000), ..job });
    }
    jobs
}

fn job(at_s: f64, random: &mut Random) -> Job {
    let prompt = random.log_normal(200.0, 0.8, 16, 4_000);
    Job::new(at_s, prompt, random.log_normal(120.0, 0.7, 8, 1_000))
}

/// Requests a second that a device serves when a thousand come at once, as far as nine in ten of them go.
fn capacity_s(device: &Device) -> f64 {
    let mut random = Random::new(1);
    let jobs = (0..1000).map(|_| job(0.0, &mut random)).collect();
    let measured = run(device, device.settings(), jobs, Fleet::ONE, 1).expect("they can be served");
    let ends: Vec<f64> =
        measured.served.iter().filter_map(|served| served.tokens_s.last().copied()).collect();
    900.0 / percentile(&ends, 0.9)
}

/// Runs requests and compares.
///
/// # Panics
/// When the settings allow nothing.
pub fn measure(device: &Device, settings: Settings, jobs: Vec<Job>) -> Waits {
    let measured =
        run(device, settings, jobs, Fleet::ONE, 1).expect("the settings allow something");
    let waited = |served: &&Served| served.queued_s.is_some_and(|wait_s| wait_s >= WAIT_S_MIN);
    let counted: Vec<&Served> = measured.served.iter().filter(waited).collect();
    let count = counted.len().max(1) as f64;
    let wait_s = |served: &&Served| served.queued_s.unwrap_or(0.0);
    let off: Vec<f64> = counted
        .iter()
        .map(|served| (served.predicted_s - wait_s(served)).abs() / wait_s(served))
        .collect();
    Waits {
        counted: counted.len(),
        actual_s: counted.iter().map(wait_s).sum::<f64>() / count,
        predicted_s: counted.iter().map(|served| served.predicted_s).sum::<f64>() / count,
        within_a_fifth: off.iter().filter(|off| **off <= 0.2).count() as f64 / count,
        off: [0.5, 0.9].map(|part| percentile(&off, part)),
    }
}
