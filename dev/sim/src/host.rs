//! Conversations whose histories are more than a device's blocks hold, with a tier in the host's memory and without.

use simulate::{Device, Job, Random, trace::Prefix};

use crate::workload::Workload;

/// Room in the host's memory, as a multiple of the device's blocks.
pub const SIZES: [u32; 4] = [0, 2, 4, 8];

/// Turns of a conversation, and the seconds between them.
const TURNS: u32 = 5;
const GAP_S: f64 = 15.0;
/// Conversations that begin in a second.
const BEGIN_S: f64 = 0.4;

/// A device with few blocks, and room for so many times as many in the host's memory.
pub fn device(device: &Device, times: u32) -> Device {
    let device = Workload::Starved.on(device);
    let blocks = device.info.cache_groups[0].blocks;
    device.with_host_blocks(times * blocks)
}

/// Conversations that begin within `duration_s` seconds. Their first prompts take about a tenth of a second to compute
/// and are of the class `first`; those of later turns, which go on from all before, of the class `later`.
pub fn jobs(device: &Device, duration_s: f64, seed: u64) -> Vec<Job> {
    let mut random = Random::new(seed);
    let tokens = (0.1e6 / device.prompt_us) as u32;
    let (mut jobs, mut begin_s) = (Vec::new(), 0.0);
    for conversation in 0.. {
        begin_s += random.gap_s(BEGIN_S);
        if begin_s >= duration_s {
            break;
        }
        let id: std::sync::Arc<str> = format!("conversation {conversation}").into();
        let (mut context, mut at_s) = (random.between(tokens / 2, 2 * tokens), begin_s);
        for turn in 0..TURNS {
            let output = random.between(32, 96);
            jobs.push(Job {
                class: if turn == 0 { "first" } else { "later" }.into(),
                prefix: Some(Prefix { id: id.clone(), tokens: None }),
                ..Job::new(at_s, context, output)
            });
            context += output + random.between(20, 60);
            at_s += GAP_S + random.gap_s(1.0 / GAP_S);
        }
    }
    jobs.sort_by(|one, other| one.at_s.total_cmp(&other.at_s));
    jobs
}
