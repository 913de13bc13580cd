//! Five kinds of load that policies are compared under, and one of tenants.

use simulate::{Device, Job, Random};

/// A kind of load, to be made from a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Short prompts, steadily.
    Short,
    /// Long prompts, steadily.
    Long,
    /// Many short ones, and now and then a long one.
    Mixed,
    /// Short ones, ten times as many for a second in ten.
    Bursty,
    /// Long answers, for which there are too few blocks.
    Starved,
    /// Two tenants who each ask for more than there is, one of them for ten times as much.
    Tenants,
}

impl Workload {
    /// Those that are compared, with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("short", Self::Short),
        ("long", Self::Long),
        ("mixed", Self::Mixed),
        ("bursty", Self::Bursty),
        ("starved", Self::Starved),
    ];

    /// The requests of `duration_s` seconds. `load` scales how many come: at 1, a device is busy for about two thirds
    /// of the time with prompts.
    pub fn jobs(self, seed: u64, duration_s: f64, device: &Device, load: f64) -> Vec<Job> {
        let mut random = Random::new(seed);
        let prompt_tokens_s = 1e6 / device.prompt_us;
        let (short, long) = (0.005 * prompt_tokens_s, 0.25 * prompt_tokens_s);
        let sizes = |tokens: f64| ((tokens / 2.0) as u32 + 1, (tokens * 1.5) as u32 + 1);
        let (mut jobs, mut at_s) = (Vec::new(), 0.0);
        while at_s < duration_s {
            let (class, mean_s, tokens, output) = match self {
                Self::Short => ("short", 40.0, short, (8, 128)),
                Self::Long => ("long", 1.6, long, (8, 128)),
                Self::Mixed if random.chance(30) => ("long", 16.0, 2.0 * long, (8, 128)),
                Self::Mixed => ("short", 16.0, short, (8, 128)),
                Self::Bursty if at_s % 10.0 < 1.0 => ("short", 100.0, short, (8, 128)),
                Self::Bursty => ("short", 10.0, short, (8, 128)),
                Self::Starved => ("short", 24.0, short, (256, 1024)),
                Self::Tenants => ("short", 220.0, short, (64, 1024)),
            };
            let is_rare = self == Self::Tenants && random.chance(11);
            at_s += random.gap_s(mean_s * load);
            let (low, high) = sizes(tokens);
            jobs.push(Job {
                class: class.into(),
                tenant: if is_rare { "rare" } else { "" }.into(),
                ..Job::new(at_s, random.between(low, high), random.spread(output.0, output.1))
            });
        }
        jobs
    }

    /// The device as this load finds it: the starved one has few blocks.
    pub fn on(self, device: &Device) -> Device {
        let mut device = device.clone();
        if self == Self::Starved {
            device.info.cache_groups[0].blocks /= 16;
        }
        device
    }
}

/// How much of the load that its prompts allow a device's answers leave time for.
pub fn load_of(device: &Device) -> f64 {
    if device.name == "cpu" { 0.2 } else { 0.9 }
}
