//! What a step costs the host: `cargo run --release -p scheduler --example step_cost`.
//!
//! Every request generates one token in each step, so a step is the most work for the least computing.

#![expect(clippy::disallowed_types, reason = "a measurement needs a clock; the scheduler has none")]

use std::time::{Duration, Instant};

use scheduler::{Error, Scheduler, Settings};
use types::{
    CacheGroup, ExecutorInfo, Request, RequestId, SampledToken, SamplingParams, Service,
    StepOutcome, StepPlan,
};

const STEPS: u32 = 2000;

fn main() -> Result<(), Error> {
    for (running, prompt_len) in [(1, 1000), (64, 1000), (256, 100), (256, 1000), (1024, 1000)] {
        let info = ExecutorInfo {
            cache_groups: vec![CacheGroup::new(1 << 18, 16)],
            step_tokens_max: 8192,
            slots_max: 1024,
            context_max: 8192,
            vocab_size: 32_000,
            steps_in_flight_max: 1,
            draft_tokens_max: 0,
        };
        let settings =
            Settings { running_max: running, step_tokens_max: 8192, ..Settings::default() };
        let mut scheduler = Scheduler::new(&info, settings)?;
        for id in 0..u64::from(running) {
            let prompt = vec![1; prompt_len];
            let sampling = SamplingParams::default();
            let request = Request {
                id: RequestId(id),
                prompt,
                sampling,
                tokens_max: 8192,
                service: Service::default(),
            };
            scheduler.submit(request, Duration::ZERO)?;
        }
        let mut host = Vec::new();
        while host.len() < STEPS as usize {
            let start = Instant::now();
            let plan = scheduler.plan(Duration::ZERO).expect("there is work");
            let planned = start.elapsed();
            let outcome = answer(&plan);
            let all_decode = plan.items.len() == running as usize && plan.admit.is_empty();
            drop(plan);
            let start = Instant::now();
            scheduler.commit(outcome, Duration::ZERO)?;
            if all_decode {
                host.push((planned, start.elapsed()));
            }
        }
        host.sort_by_key(|(plan, commit)| *plan + *commit);
        let (plan, commit) = host[host.len() / 2];
        let (plan_99, commit_99) = host[host.len() * 99 / 100];
        println!(
            "{running:5} running, prompt {prompt_len:5}: plan {:6.1} us, commit {:6.1} us; 99 %: {:6.1} us",
            plan.as_secs_f64() * 1e6,
            commit.as_secs_f64() * 1e6,
            (plan_99 + commit_99).as_secs_f64() * 1e6,
        );
    }
    Ok(())
}

fn answer(plan: &StepPlan) -> StepOutcome {
    let drawn = plan.items.iter().filter(|item| item.sample);
    let sampled =
        drawn.map(|item| SampledToken { slot: item.slot, token: 7, logprobs: None }).collect();
    StepOutcome { id: plan.id, sampled, prompt_logprobs: Vec::new(), failed: Vec::new() }
}
