//! The real model against itself: what a request gets does not depend, bit for bit, on its company, on how its
//! prompt is cut, on preemption, on where its blocks lie or on the number of threads.

use std::sync::Arc;

use device::cpu::{Cpu, Rung};
use engine::{Engine, EngineSettings, NewRequest, SchedulerSettings};
use golden::{
    all_processors, cpu,
    drive::{Circumstances, Generated, Job, run},
    load, runner, smollm2_file,
};
use kernels::attention::KvFormat;
use models::{Compute, Model};
use runner::{CpuRunner, KvBudget, RunnerOptions};
use telemetry::EngineMetrics;
use types::{Executor, Fault, RequestEvent, SamplingParams, TokenId, Usage};
use weights::Weights;

/// Prompts of mixed lengths, half of them greedy and half sampled with everything that looks at history.
fn jobs(count: usize, output: usize) -> Vec<Job> {
    (0..count)
        .map(|index| {
            let len = 3 + index * 13 % 70;
            let token = |place: usize| 100 + (index * 7919 + place * 104_729) as TokenId % 40_000;
            let sampled = SamplingParams {
                temperature: 0.9,
                top_p: 0.95,
                top_k: 200,
                repetition_penalty: 1.1,
                presence_penalty: 0.2,
                frequency_penalty: 0.1,
                seed: index as u64,
                ..SamplingParams::default()
            };
            let base = if index % 2 == 0 { SamplingParams::greedy() } else { sampled };
            Job {
                prompt: (0..len).map(token).collect(),
                count: output,
                sampling: SamplingParams { logprobs: Some(3), prompt_logprobs: Some(2), ..base },
            }
        })
        .collect()
}

fn with_model(check: impl Fn(&Arc<Cpu>, &Arc<Model>)) {
    let Some(file) = smollm2_file() else { return };
    let _alone = all_processors();
    let weights = Weights::open(&file).expect("the file is a model");
    // One rung is enough here: that rows do not depend on their company is tested for each kernel on each.
    let cpu = cpu(Rung::Avx512);
    let model = load(&weights, &cpu, Compute::Native);
    check(&cpu, &model);
}

#[track_caller]
fn assert_same(got: &[Generated], want: &[Generated], what: &str) {
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got, want, "{what}: request {index}");
    }
}

#[test]
fn circumstances_make_no_difference() {
    with_model(|cpu, model| {
        let jobs = jobs(32, 6);
        let mut together = runner(cpu, model, 32, KvFormat::Bf16);
        let want = run(&mut together, &jobs, Circumstances::default());
        let mut check = |what: &str, circumstances: Circumstances| {
            assert_same(&run(&mut together, &jobs, circumstances), &want, what);
        };
        let plain = Circumstances::default();
        check("in chunks of 7", Circumstances { chunk: 7, ..plain });
        check("in chunks of 33", Circumstances { chunk: 33, ..plain });
        check("preempted", Circumstances { preempt_after: Some(3), ..plain });
        check("other blocks", Circumstances { blocks_backwards: true, ..plain });
        for (index, job) in jobs.iter().enumerate().step_by(5) {
            let alone = run(&mut together, std::slice::from_ref(job), plain);
            assert_same(&alone, &want[index..=index], "alone");
        }
        let single = Arc::new(Cpu::new(cpu.isa.rung(), 1));
        let mut on_one_thread = runner(&single, model, 32, KvFormat::Bf16);
        assert_same(&run(&mut on_one_thread, &jobs, plain), &want, "on one thread");
    });
}

/// Runs jobs through the engine with a pool of `blocks` blocks.
fn through_the_engine(
    cpu: &Arc<Cpu>,
    model: &Arc<Model>,
    jobs: &[Job],
    blocks: u64,
) -> (Vec<Generated>, Vec<Usage>) {
    let block_bytes = (model.spec.kv_values_per_token() * 16 * 2) as u64;
    let options = RunnerOptions {
        step_tokens_max: 96,
        slots_max: 32,
        context_max: Some(512),
        kv_budget: KvBudget::Bytes(blocks * block_bytes),
        kv_format: KvFormat::Bf16,
    };
    let (cpu, model) = (Arc::clone(cpu), Arc::clone(model));
    let factory = move || -> Result<Box<dyn Executor>, Fault> {
        Ok(Box::new(CpuRunner::new(Arc::clone(&cpu), Arc::clone(&model), &options)?))
    };
    let scheduler = SchedulerSettings { prefill_chunk_max: 40, ..SchedulerSettings::default() };
    let settings = EngineSettings { scheduler, ..EngineSettings::default() };
    let (engine, handle) =
        Engine::start(factory, settings, EngineMetrics::unregistered()).expect("it starts");
    let streams: Vec<_> = jobs
        .iter()
        .map(|job| {
            let request = NewRequest {
                prompt: job.prompt.clone(),
                sampling: job.sampling.clone(),
                tokens_max: job.count as u32,
                priority: 0,
            };
            handle.submit(request).expect("it is taken")
        })
        .collect();
    let ended = streams.into_iter().map(|mut stream| {
        let mut generated = Generated::default();
        loop {
            match stream.next_blocking().expect("a stream ends with an ending") {
                RequestEvent::PromptLogprobs(list) => generated.prompt_logprobs = list,
                RequestEvent::Token { token, logprobs } => {
                    generated.tokens.push(token);
                    generated.logprobs.extend(logprobs);
                }
                RequestEvent::Finished { usage, .. } => return (generated, usage),
                RequestEvent::Failed(fault) => panic!("{fault}"),
            }
        }
    });
    let ended = ended.unzip();
    engine.shutdown();
    ended
}

#[test]
fn scarcity_of_blocks_makes_no_difference() {
    with_model(|cpu, model| {
        let jobs = jobs(24, 40);
        let (plenty, usages) = through_the_engine(cpu, model, &jobs, 1000);
        assert!(usages.iter().all(|usage| usage.preemptions == 0));
        // All of them at their ends would need about 120 blocks.
        let (scarce, usages) = through_the_engine(cpu, model, &jobs, 48);
        let preemptions: u32 = usages.iter().map(|usage| usage.preemptions).sum();
        assert!(preemptions > 0, "the pool was meant to be too small");
        assert_same(&scarce, &plenty, "with preemptions");
        let mut whole = runner(cpu, model, 24, KvFormat::Bf16);
        let want = run(&mut whole, &jobs, Circumstances::default());
        assert_same(&plenty, &want, "through the engine");
    });
}
