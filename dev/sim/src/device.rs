//! What a step takes on a device.

use std::time::Duration;

use scheduler::{PolicyKind, Settings};
use types::{CacheGroup, ExecutorInfo, StepPlan};

use crate::{random::Random, workload::Workload};

/// A device with a model, as far as the duration of its steps goes.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub name: &'static str,
    /// Every step, in microseconds.
    pub step_us: f64,
    /// A position of a prompt.
    pub prompt_us: f64,
    /// A position for a next token.
    pub token_us: f64,
    /// Looking back at 1,000 positions, from a prompt.
    pub prompt_look_back_us: f64,
    /// The same, for a next token: each reads the keys and values for itself.
    pub token_look_back_us: f64,
    /// How long a step may take while tokens are waited for.
    pub token_latency_target: Duration,
    /// How much of the load that its prompts allow its answers leave time for.
    pub load: f64,
    /// Its limits.
    pub info: ExecutorInfo,
}

impl Device {
    /// SmolLM2-135M on two cores, after `docs/measurements/2026-11-25-cpu-models.md`: 16 streams at 400 tokens/s,
    /// prompts at 1,200.
    pub fn cpu() -> Self {
        Self {
            name: "cpu",
            step_us: 6000.0,
            prompt_us: 800.0,
            token_us: 2100.0,
            prompt_look_back_us: 100.0,
            token_look_back_us: 150.0,
            token_latency_target: Duration::from_millis(100),
            load: 0.2,
            info: info(8192, 512, 64, 8192, 1),
        }
    }

    /// An 8B model on a large GPU. Assumed, not measured: weights read in 5 ms, prompts at 30,000 tokens/s.
    pub fn gpu() -> Self {
        Self {
            name: "gpu",
            step_us: 6000.0,
            prompt_us: 33.0,
            token_us: 10.0,
            prompt_look_back_us: 0.8,
            token_look_back_us: 30.0,
            token_latency_target: Duration::from_millis(25),
            load: 1.5,
            info: info(32_768, 8192, 256, 131_072, 2),
        }
    }

    /// The device and how much load it gets under a workload: the starved one has few blocks.
    pub fn under(&self, workload: Workload) -> (Self, f64) {
        let mut device = self.clone();
        if workload == Workload::Starved {
            device.info.cache_groups[0].blocks /= 16;
        }
        (device, self.load)
    }

    /// The settings that the tables compare: each policy as it is by default, and plain first-come, which fills every
    /// step and admits as long as there are blocks.
    pub fn contenders(&self) -> Vec<(&'static str, Settings)> {
        let settings = Settings {
            step_tokens_max: self.info.step_tokens_max,
            prefill_chunk_max: self.info.step_tokens_max,
            running_max: self.info.slots_max,
            waiting_max: 1 << 20,
            token_latency_target: Some(self.token_latency_target),
            ..Settings::default()
        };
        let plain = Settings {
            policy: PolicyKind::FirstCome,
            token_latency_target: None,
            kv_growth_percent: 0,
            kv_reserve_percent: 0,
            ..settings.clone()
        };
        let ours =
            PolicyKind::NAMES.map(|(name, policy)| (name, Settings { policy, ..settings.clone() }));
        std::iter::once(("plain first-come", plain)).chain(ours).collect()
    }

    /// How long a step takes: a few percent more or less than the model says.
    pub(crate) fn step(&self, plan: &StepPlan, random: &mut Random) -> Duration {
        let items_us: f64 = plan
            .items
            .iter()
            .map(|item| {
                let (start, end) = (f64::from(item.positions.start), f64::from(item.positions.end));
                let looked_back = (end * end - start * start) / 2e3;
                if item.positions.len() == 1 {
                    self.token_us + looked_back * self.token_look_back_us
                } else {
                    self.prompt_us * (end - start) + looked_back * self.prompt_look_back_us
                }
            })
            .sum();
        let noise = 0.96 + 0.08 * random.unit();
        Duration::from_secs_f64((self.step_us + items_us) * noise / 1e6)
    }
}

fn info(
    blocks: u32,
    step_tokens_max: u32,
    slots_max: u32,
    context_max: u32,
    steps_in_flight_max: u32,
) -> ExecutorInfo {
    ExecutorInfo {
        cache_groups: vec![CacheGroup { blocks, block_tokens: 16 }],
        step_tokens_max,
        slots_max,
        context_max,
        vocab_size: 50_000,
        steps_in_flight_max,
    }
}
