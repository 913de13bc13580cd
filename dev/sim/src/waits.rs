//! Waits as predicted when requests come, beside the waits that come.

use scheduler::Settings;
use simulate::{
    Device, Job, Random,
    report::percentile,
    run::{Fleet, Served, run},
    trace::Prefix,
};

/// Waits below this are not counted: a step is in it.
const WAIT_S_MIN: f64 = 1.0;

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// More than the device can serve, by this factor in percent, all the time.
    Steady(u32),
    /// Four times what the device can serve for five seconds in sixty, and little between.
    Bursts,
    /// Three quarters as many as the device could serve, but one in thirty is thirty times as long.
    Mixed,
    /// As steady at 150 percent, but each begins with one of twenty texts, five times as long as the rest.
    Shared,
    /// As steady at 150 percent, but the device has a thirty-second of its blocks.
    Scarce,
}

impl Load {
    /// Those that are looked at, with their names.
    pub const ALL: [(&'static str, Self); 7] = [
        ("110 %", Self::Steady(110)),
        ("150 %", Self::Steady(150)),
        ("300 %", Self::Steady(300)),
        ("bursts", Self::Bursts),
        ("long among short", Self::Mixed),
        ("shared beginnings", Self::Shared),
        ("few blocks", Self::Scarce),
    ];

    /// The device as this load finds it.
    pub fn on(self, device: &Device) -> Device {
        let mut device = device.clone();
        if self == Self::Scarce {
            device.info.cache_groups[0].blocks /= 32;
        }
        device
    }

    /// The requests: prompts and answers of all lengths, of one tenant.
    pub fn jobs(self, device: &Device, duration_s: f64, seed: u64) -> Vec<Job> {
        let mut random = Random::new(seed);
        let capacity_s = self.capacity_s(device);
        let (mut jobs, mut at_s) = (Vec::new(), 0.0);
        while at_s < duration_s {
            let part = match self {
                Self::Steady(percent) => f64::from(percent) / 100.0,
                Self::Bursts if at_s % 60.0 < 5.0 => 4.0,
                Self::Bursts => 0.4,
                Self::Mixed => 0.75,
                Self::Shared | Self::Scarce => 1.5,
            };
            at_s += random.gap_s(capacity_s * part);
            let job = self.job(at_s, &mut random);
            let is_long = self == Self::Mixed && random.chance(30);
            let prompt_tokens = if is_long { 30 * job.prompt_tokens } else { job.prompt_tokens };
            jobs.push(Job { prompt_tokens: prompt_tokens.min(8_000), ..job });
        }
        jobs
    }

    fn job(self, at_s: f64, random: &mut Random) -> Job {
        let prompt = random.log_normal(200.0, 0.8, 16, 4_000);
        let job = Job::new(at_s, prompt, random.log_normal(120.0, 0.7, 8, 1_000));
        if self != Self::Shared {
            return job;
        }
        let prefix = Prefix { id: random.between(0, 19).to_string().into(), tokens: Some(1_000) };
        Job { prompt_tokens: job.prompt_tokens + 1_000, prefix: Some(prefix), ..job }
    }

    /// Requests a second that a device serves when a thousand come at once, as far as nine in ten of them go.
    fn capacity_s(self, device: &Device) -> f64 {
        let mut random = Random::new(1);
        let jobs = (0..1000).map(|_| self.job(0.0, &mut random)).collect();
        let measured =
            run(device, device.settings(), jobs, Fleet::ONE, 1).expect("they can be served");
        let ends: Vec<f64> =
            measured.served.iter().filter_map(|served| served.tokens_s.last().copied()).collect();
        900.0 / percentile(&ends, 0.9)
    }
}

/// A wait that came, and what was predicted, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// How long it was.
    pub actual_s: f64,
    /// How long it was to be.
    pub predicted_s: f64,
}

impl Wait {
    /// By which part of itself it was predicted wrong.
    fn off(self) -> f64 {
        (self.predicted_s - self.actual_s).abs() / self.actual_s
    }
}

/// What became of some predictions.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// How many there are.
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

impl Waits {
    /// All of these taken together.
    pub fn of(waits: &[Wait]) -> Self {
        let count = waits.len().max(1) as f64;
        let off: Vec<f64> = waits.iter().map(|wait| wait.off()).collect();
        Self {
            counted: waits.len(),
            actual_s: waits.iter().map(|wait| wait.actual_s).sum::<f64>() / count,
            predicted_s: waits.iter().map(|wait| wait.predicted_s).sum::<f64>() / count,
            within_a_fifth: off.iter().filter(|off| **off <= 0.2).count() as f64 / count,
            off: [0.5, 0.9].map(|part| percentile(&off, part)),
        }
    }
}

/// Runs requests. The waits of those for whom something was predicted and who waited long enough to count.
///
/// # Panics
/// When the settings allow nothing.
pub fn measure(device: &Device, settings: Settings, jobs: Vec<Job>) -> Vec<Wait> {
    let measured =
        run(device, settings, jobs, Fleet::ONE, 1).expect("the settings allow something");
    let wait = |served: &Served| {
        let actual_s = served.queued_s.filter(|wait_s| *wait_s >= WAIT_S_MIN)?;
        Some(Wait { actual_s, predicted_s: served.predicted_s? })
    };
    measured.served.iter().filter_map(wait).collect()
}
