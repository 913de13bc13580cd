//! A day of simulated time, to see that nothing grows.

use std::{fs, time::Duration};

use scheduler::Scheduler;
use simulate::{Device, Random};
use types::{
    Request, RequestId, SampledToken, SamplingParams, Service, StepOutcome, StepPlan, TokenId,
};

const HOURS: u64 = 24;
/// Requests a second, which keep a CPU busy for about half of the time.
const REQUESTS_S: f64 = 5.0;
const STOP: TokenId = 0;

/// Serves requests of all lengths from a thousand tenants for a day. Calls `see` at the end of each hour with the hour,
/// the steps so far, and the memory of the process in KiB.
///
/// # Panics
/// When the scheduler breaks an invariant.
pub fn run(device: &Device, mut see: impl FnMut(u64, u64, u64)) {
    let mut scheduler =
        Scheduler::new(&device.info, device.settings()).expect("the settings allow something");
    let mut random = Random::new(1);
    let (mut now_s, mut next_s, mut id, mut hour) = (0.0, 0.0, 0, 0);
    while hour < HOURS {
        while next_s <= now_s {
            let at = Duration::from_secs_f64(next_s);
            // One that finds the queue full goes away.
            let _refused = scheduler.submit(request(id, &mut random), at);
            id += 1;
            next_s += random.gap_s(REQUESTS_S);
        }
        let Some(plan) = scheduler.plan(Duration::from_secs_f64(now_s)) else {
            now_s = next_s;
            continue;
        };
        now_s += device.step_us(plan.items.iter().map(|item| &item.positions)) / 1e6;
        let outcome = outcome(&plan, &mut random);
        let ended = scheduler.commit(outcome, Duration::from_secs_f64(now_s));
        drop(ended.expect("the plan was answered"));
        if now_s >= 3600.0 * (hour + 1) as f64 {
            hour += 1;
            scheduler.invariants();
            see(hour, scheduler.counters().steps, resident_kib());
        }
    }
}

fn request(id: u64, random: &mut Random) -> Request {
    let family = random.between(0, 99);
    let length = random.log_normal(200.0, 0.8, 16, 4_000);
    // Half of a prompt is its family's.
    let token = |place: u32| {
        if place < length / 2 { family * 100 + place % 97 + 1 } else { random_token(id, place) }
    };
    Request {
        id: RequestId(id),
        prompt: (0..length).map(token).collect(),
        sampling: SamplingParams { stop_token_ids: vec![STOP], ..SamplingParams::default() },
        tokens_max: 1024,
        service: Service {
            tenant: random.between(0, 999).to_string().into(),
            ..Service::default()
        },
    }
}

fn random_token(id: u64, place: u32) -> TokenId {
    1 + ((id << 20 | u64::from(place)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % 49_000
}

/// Answers are of a hundred tokens on average.
fn outcome(plan: &StepPlan, random: &mut Random) -> StepOutcome {
    let drawn = plan.items.iter().filter(|item| item.sample);
    let sampled = drawn.map(|item| {
        let token = if random.chance(100) { STOP } else { random.between(1, 49_000) };
        SampledToken { slot: item.slot, token, logprobs: None }
    });
    StepOutcome { sampled: sampled.collect(), ..StepOutcome::empty(plan.id) }
}

/// What the process holds in memory, as Linux counts it; 0 elsewhere.
fn resident_kib() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4
}
