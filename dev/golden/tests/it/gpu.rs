//! SmolLM2 on a GPU, against the reference and against itself in other circumstances. Skipped where there is none.

use std::{collections::VecDeque, sync::Arc};

use cuda::Gpu;
use engine::{Engine, EngineSettings, EngineStats, NewRequest, SchedulerSettings};
use golden::{
    bfloat16::smollm2_bfloat16,
    drive::{Circumstances, Generated, Job, run},
    reference, smollm2_file,
};
use runner::{CudaLoadOptions, CudaModel, CudaOptions, CudaRunner, GpuBudget};
use telemetry::EngineMetrics;
use types::{Executor, Fault, RequestEvent, SamplingParams, Service, TokenId};
use weights::Weights;

use crate::real_model::{compare, jobs};

/// Greedy tokens are compared up to the first whose margin is below this.
const MARGIN: f32 = 0.5;

/// The GPU, if there is one.
fn gpu() -> Option<Arc<Gpu>> {
    if Gpu::count() == 0 {
        eprintln!("skipped: there is no GPU");
        return None;
    }
    Some(Gpu::open(0).expect("the GPU can be used"))
}

/// The model from its file.
fn model() -> Option<Arc<CudaModel>> {
    let file = smollm2_file()?;
    let gpu = gpu()?;
    Some(loaded(&gpu, &Weights::open(&file).expect("the file is a model")))
}

fn loaded(gpu: &Arc<Gpu>, weights: &Weights) -> Arc<CudaModel> {
    let kernel_cache = Some(std::env::temp_dir().join("brigade-kernel-tests"));
    let options = CudaLoadOptions {
        random: false,
        check_launches: false,
        kernel_cache,
        progress: &mut |_, _| {},
    };
    Arc::new(CudaModel::load(gpu, weights, options).expect("the model can be loaded"))
}

/// Limits with so many bytes for keys and values on the GPU, and on the host besides.
fn options(slots_max: u32, [kv_bytes, host_cache_bytes]: [u64; 2]) -> CudaOptions {
    CudaOptions {
        step_tokens_max: 512,
        slots_max,
        context_max: Some(512),
        budget: GpuBudget::Bytes(kv_bytes),
        host_cache_bytes,
        tune: false,
    }
}

fn runner(model: &Arc<CudaModel>, slots_max: u32) -> CudaRunner {
    let options = options(slots_max, [1 << 30, 0]);
    CudaRunner::new(Arc::clone(model), &options).expect("the limits are sound")
}

#[test]
fn the_gpu_stays_near_the_reference() {
    let Some(model) = model() else { return };
    let jobs = jobs();
    let mut runner = runner(&model, jobs.len() as u32);
    let generated = run(&mut runner, &jobs, Circumstances::default());
    compare(&generated, 0.02, MARGIN, None);
}

#[test]
fn a_folder_in_bfloat16_stays_near_the_reference() {
    let Some(gpu) = gpu() else { return };
    let Some(weights) = smollm2_bfloat16() else { return };
    let model = loaded(&gpu, weights);
    let jobs = jobs();
    let generated = run(&mut runner(&model, jobs.len() as u32), &jobs, Circumstances::default());
    compare(&generated, 0.02, MARGIN, None);
}

/// The jobs with tokens drawn on the GPU, greedy or not.
fn plain(sampling: &SamplingParams) -> Vec<Job> {
    let seeded = |(seed, job): (usize, Job)| Job {
        sampling: SamplingParams { seed: seed as u64, ..sampling.clone() },
        ..job
    };
    jobs().into_iter().enumerate().map(seeded).collect()
}

/// Whether both got the same greedy tokens, as far as the reference's margins are clear.
fn assert_alike(got: &[Generated], want: &[Generated], what: &str) {
    let reference = reference::read();
    for ((got, want), case) in got.iter().zip(want).zip(&reference.generate) {
        let sure = case.greedy_margin.iter().position(|&margin| margin < MARGIN);
        let sure = sure.unwrap_or(case.greedy_ids.len());
        assert_eq!(got.tokens[..sure], want.tokens[..sure], "{what}");
    }
}

#[test]
fn company_chunks_preemption_and_places_make_no_difference_where_the_margin_is_clear() {
    let Some(model) = model() else { return };
    let jobs = plain(&SamplingParams::greedy());
    let mut runner = runner(&model, jobs.len() as u32);
    let together = run(&mut runner, &jobs, Circumstances::default());
    let alone: Vec<Generated> = jobs
        .iter()
        .flat_map(|job| run(&mut runner, std::slice::from_ref(job), Circumstances::default()))
        .collect();
    assert_alike(&alone, &together, "alone");
    for chunk in [1, 7, 16, 33] {
        let circumstances = Circumstances { chunk, ..Circumstances::default() };
        assert_alike(&run(&mut runner, &jobs, circumstances), &together, "in chunks");
    }
    let circumstances = Circumstances { preempt_after: Some(5), ..Circumstances::default() };
    assert_alike(&run(&mut runner, &jobs, circumstances), &together, "preempted");
    let circumstances = Circumstances { blocks_backwards: true, ..Circumstances::default() };
    let backwards = run(&mut runner, &jobs, circumstances);
    for (got, want) in backwards.iter().zip(&together) {
        assert_eq!(got.tokens, want.tokens, "other blocks, the same bits");
    }
}

#[test]
fn the_same_work_gives_the_same_tokens_drawn_at_random_or_not() {
    let Some(model) = model() else { return };
    let sampling = SamplingParams { top_p: 0.95, top_k: 100, ..SamplingParams::default() };
    let jobs = plain(&sampling);
    let mut runner = runner(&model, jobs.len() as u32);
    let once = run(&mut runner, &jobs, Circumstances::default());
    let again = run(&mut runner, &jobs, Circumstances::default());
    for (once, again) in once.iter().zip(&again) {
        assert_eq!(once.tokens, again.tokens);
    }
}

/// Runs jobs through an engine, whose steps overlap, with so many bytes for keys and values on the GPU and on the host.
fn through_engine(
    model: &Arc<CudaModel>,
    jobs: &[Job],
    bytes: [u64; 2],
) -> (Vec<Vec<TokenId>>, EngineStats) {
    let (model, options) = (Arc::clone(model), options(jobs.len() as u32, bytes));
    let factory = move || -> Result<Box<dyn Executor>, Fault> {
        Ok(Box::new(CudaRunner::new(Arc::clone(&model), &options)?))
    };
    let scheduler = SchedulerSettings {
        prefill_chunk_max: 40,
        // No time is measured, and what is on the host is brought back in any case.
        token_latency_target: None,
        ..SchedulerSettings::default()
    };
    let settings = EngineSettings { scheduler, ..EngineSettings::default() };
    let (engine, handle) =
        Engine::start(factory, settings, EngineMetrics::unregistered()).expect("the engine starts");
    let mut generations: VecDeque<_> = jobs
        .iter()
        .map(|job| {
            let request = NewRequest {
                prompt: job.prompt.clone(),
                sampling: job.sampling.clone(),
                tokens_max: job.count as u32,
                service: Service::default(),
                label: "".into(),
            };
            handle.submit(request).expect("the request fits")
        })
        .collect();
    let mut tokens = Vec::new();
    while let Some(mut generation) = generations.pop_front() {
        let mut own = Vec::new();
        while let Some(event) = generation.next_blocking() {
            match event {
                RequestEvent::Token { token, .. } => own.push(token),
                RequestEvent::Failed(fault) => panic!("{fault}"),
                RequestEvent::Prefilled { .. }
                | RequestEvent::Finished { .. }
                | RequestEvent::PromptLogprobs(_) => {}
            }
        }
        tokens.push(own);
    }
    let stats = handle.stats();
    engine.shutdown();
    (tokens, stats)
}

#[test]
fn overlapping_steps_and_scarce_blocks_change_nothing() {
    let Some(model) = model() else { return };
    let jobs = plain(&SamplingParams::greedy());
    let want = run(&mut runner(&model, jobs.len() as u32), &jobs, Circumstances::default());
    let block_bytes = 2 * 16 * model.spec.kv_values_per_token() as u64;
    let longest =
        jobs.iter().map(|job| job.prompt.len() + job.count).max().expect("there are jobs");
    let scarce = (longest as u64).div_ceil(16) + 6;
    for (blocks, on_host) in [(4096, 0), (scarce, 0), (scarce, 4096)] {
        let bytes = [blocks, on_host].map(|blocks| blocks * block_bytes);
        let (tokens, stats) = through_engine(&model, &jobs, bytes);
        assert!(blocks > scarce || stats.preemptions > 0, "scarce blocks lead to preemption");
        assert!(on_host == 0 || stats.host_hit_tokens > 0, "and some come back: {stats:?}");
        let got: Vec<Generated> =
            tokens.into_iter().map(|tokens| Generated { tokens, ..Generated::default() }).collect();
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(got.tokens.len(), want.tokens.len());
        }
        assert_alike(&got, &want, "through the engine");
    }
}

#[test]
fn what_changes_logits_does_the_same_on_the_gpu_and_on_the_host() {
    let Some(model) = model() else { return };
    let on_gpu = SamplingParams {
        presence_penalty: 0.6,
        frequency_penalty: 0.3,
        repetition_penalty: 1.2,
        logit_bias: vec![(28, 2.0), (260, -3.0), (28, 0.5)],
        tokens_min: 12,
        stop_token_ids: vec![2, 0],
        logprobs: Some(5),
        ..SamplingParams::greedy()
    };
    // More alternatives than the GPU reports: the host draws.
    let on_host = SamplingParams { logprobs: Some(21), ..on_gpu.clone() };
    let mut runner = runner(&model, 16);
    let got = run(&mut runner, &plain(&on_gpu), Circumstances::default());
    let want = run(&mut runner, &plain(&on_host), Circumstances::default());
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got.tokens, want.tokens);
        for (got, want) in got.logprobs.iter().zip(&want.logprobs) {
            assert!((got.logprob - want.logprob).abs() < 1e-3, "{got:?}, {want:?}");
            assert_eq!(got.top.len(), 5);
            for ((token, logprob), (other, wanted)) in got.top.iter().zip(&want.top) {
                assert!(token == other && (logprob - wanted).abs() < 1e-3, "{got:?}, {want:?}");
            }
        }
    }
    let circumstances = Circumstances { preempt_after: Some(5), ..Circumstances::default() };
    let got = run(&mut runner, &plain(&on_gpu), circumstances);
    let want = run(&mut runner, &plain(&on_host), circumstances);
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got.tokens, want.tokens, "counted again after preemption");
    }
}

#[test]
fn requests_that_the_host_draws_for_change_nothing_for_others() {
    let Some(model) = model() else { return };
    let mut jobs = plain(&SamplingParams::greedy());
    let bytes = [4096 * 2 * 16 * model.spec.kv_values_per_token() as u64, 0];
    let (want, _) = through_engine(&model, &jobs, bytes);
    let special = |change: &dyn Fn(&mut SamplingParams), job: &mut Job| change(&mut job.sampling);
    special(&|sampling| sampling.prompt_logprobs = Some(3), &mut jobs[0]);
    special(&|sampling| sampling.typical_p = 0.9999, &mut jobs[2]);
    special(&|sampling| sampling.logprobs = Some(2), &mut jobs[3]);
    let (got, _) = through_engine(&model, &jobs, bytes);
    let generated = |tokens: Vec<Vec<TokenId>>| -> Vec<Generated> {
        tokens.into_iter().map(|tokens| Generated { tokens, ..Generated::default() }).collect()
    };
    assert_alike(&generated(got), &generated(want), "in such company");
}
