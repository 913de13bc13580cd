//! Models against themselves: what a request gets does not depend, bit for bit, on its company, on how its prompt is
//! cut, on preemption, on where its blocks lie or on the number of threads.

use std::sync::Arc;

use device::cpu::{Cpu, Rung};
use engine::{Engine, EngineHandle, EngineSettings, NewRequest, SchedulerSettings};
use golden::{
    all_processors, cpu,
    drive::{Circumstances, Generated, Job, run},
    load, runner, smollm2_file,
    tiny::{self, FloatFormat, hugging_face, quantized_gguf},
};
use kernels::attention::{KvFormat, KvShape};
use models::{Compute, DecoderSpec, Model};
use runner::{CpuRunner, KvBudget, RunnerOptions};
use telemetry::EngineMetrics;
use types::{
    CacheGroup, DataType, Executor, Fault, RequestEvent, SamplingParams, Service, TokenId, Usage,
};
use weights::Weights;

/// A model on one way of computing it.
struct Subject {
    name: String,
    cpu: Arc<Cpu>,
    model: Arc<Model>,
    kv_format: KvFormat,
}

impl Subject {
    /// The ways of computing a model on the rungs that this machine has.
    fn of(name: &str, weights: &Weights, compute: Compute, rungs: &[Rung]) -> Vec<Self> {
        rungs
            .iter()
            .map(|&rung| {
                let cpu = cpu(rung);
                let model = load(weights, &cpu, compute);
                let kv_format = match compute {
                    Compute::F32 => KvFormat::F32,
                    Compute::Native if name.starts_with("mistral") => KvFormat::Int8,
                    Compute::Native => KvFormat::Bf16,
                };
                Self { name: format!("{name}, {compute:?}, {rung}"), cpu, model, kv_format }
            })
            .collect()
    }

    /// Tiny models: one of every shape of attention, and every format of weights.
    fn tiny() -> Vec<Self> {
        let mut subjects = Vec::new();
        for name in ["llama_yarn", "mistral", "qwen2", "qwen2_windows", "qwen3"] {
            let config = tiny::named(name).config;
            for (format, compute) in
                [(FloatFormat::F32, Compute::F32), (FloatFormat::Bf16, Compute::Native)]
            {
                let weights = hugging_face(&config, format);
                subjects.extend(Self::of(name, &weights, compute, Rung::ALL));
            }
        }
        for data_type in DataType::ALL.into_iter().filter(|data_type| data_type.is_quantized()) {
            let weights = quantized_gguf(data_type, false);
            let name = data_type.to_string();
            subjects.extend(Self::of(&name, &weights, Compute::Native, &Rung::ALL[1..]));
        }
        subjects
    }

    /// The real model, if this machine has it.
    fn real() -> Vec<Self> {
        let Some(file) = smollm2_file() else { return Vec::new() };
        let weights = Weights::open(&file).expect("the file is a model");
        // One rung is enough here: the tiny models run on all.
        Self::of("SmolLM2", &weights, Compute::Native, &[Rung::HIGHEST])
    }

    /// Prompts of mixed lengths, half of them greedy and half sampled with everything that looks at history.
    fn jobs(&self, count: usize, output: usize) -> Vec<Job> {
        let vocab_size = self.model.spec.vocab_size;
        let job = |index: usize| {
            let len = 3 + index * 13 % 70;
            let token = |place: usize| ((index * 7919 + place * 104_729) % vocab_size) as TokenId;
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
            let base = if index.is_multiple_of(2) { SamplingParams::greedy() } else { sampled };
            Job {
                prompt: (0..len).map(token).collect(),
                count: output,
                sampling: SamplingParams { logprobs: Some(3), prompt_logprobs: Some(2), ..base },
            }
        };
        (0..count).map(job).collect()
    }

    /// Whether requests have all the blocks that they come to need from their start on: nobody gives way to another.
    fn is_windowed(&self) -> bool {
        self.model.spec.windows.iter().all(Option::is_some)
    }

    /// Whether what makes room may go to the host's memory.
    fn has_host_tier(&self) -> bool {
        self.model.spec.windows.iter().all(Option::is_none)
    }

    /// Panics where a request got something else.
    #[track_caller]
    fn assert_same(&self, got: &[Generated], want: &[Generated], what: &str) {
        assert_eq!(got.len(), want.len());
        for (index, (got, want)) in got.iter().zip(want).enumerate() {
            assert_eq!(got, want, "{}: request {index} {what}", self.name);
        }
    }
}

/// Runs jobs together, then in other circumstances; one in `step` of them alone.
fn check_circumstances(subject: &Subject, step: usize) {
    let Subject { cpu, model, kv_format, .. } = subject;
    let jobs = subject.jobs(32, 6);
    let mut together = runner(cpu, model, 32, *kv_format);
    let plain = Circumstances::default();
    let want = run(&mut together, &jobs, plain);
    for (what, circumstances) in [
        ("in chunks of 7", Circumstances { chunk: 7, ..plain }),
        ("in chunks of 16", Circumstances { chunk: 16, ..plain }),
        ("in chunks of 33", Circumstances { chunk: 33, ..plain }),
        ("in chunks that give way", Circumstances { chunk: 5, giving_way: true, ..plain }),
        ("preempted", Circumstances { preempt_after: Some(3), ..plain }),
        ("in other blocks", Circumstances { blocks_backwards: true, ..plain }),
    ] {
        subject.assert_same(&run(&mut together, &jobs, circumstances), &want, what);
    }
    for (index, job) in jobs.iter().enumerate().step_by(step) {
        let alone = run(&mut together, std::slice::from_ref(job), plain);
        subject.assert_same(&alone, &want[index..=index], "alone");
    }
    for threads in [1, 3] {
        let cpu = Arc::new(Cpu::new(cpu.isa.rung(), threads));
        let mut runner = runner(&cpu, model, 32, *kv_format);
        subject.assert_same(&run(&mut runner, &jobs, plain), &want, "on other threads");
    }
}

#[test]
fn circumstances_make_no_difference_to_tiny_models() {
    let _alone = all_processors();
    Subject::tiny().iter().for_each(|subject| check_circumstances(subject, 1));
}

#[test]
fn circumstances_make_no_difference_to_the_real_model() {
    let _alone = all_processors();
    Subject::real().iter().for_each(|subject| check_circumstances(subject, 5));
}

/// An engine with a pool of `blocks` blocks.
fn start_engine(subject: &Subject, blocks: usize, prefix_cache: bool) -> (Engine, EngineHandle) {
    start_engine_with(
        subject,
        [blocks, 0],
        SchedulerSettings { prefix_cache, ..Default::default() },
    )
}

/// The same with so many blocks in the pool, and in the host's memory besides.
fn start_engine_with(
    subject: &Subject,
    blocks: [usize; 2],
    scheduler: SchedulerSettings,
) -> (Engine, EngineHandle) {
    let Subject { cpu, model, kv_format, .. } = subject;
    let &DecoderSpec { layers, kv_heads, head_dim, .. } = &model.spec;
    let block_bytes =
        layers * KvShape { blocks: 1, kv_heads, head_dim, format: *kv_format }.bytes();
    let [kv_bytes, host_cache_bytes] = blocks.map(|blocks| (blocks * block_bytes) as u64);
    let options = RunnerOptions {
        step_tokens_max: 96,
        slots_max: 32,
        context_max: Some(256),
        kv_budget: KvBudget::Bytes(kv_bytes),
        prefix_cache_bytes: None,
        host_cache_bytes,
        kv_format: *kv_format,
    };
    let (cpu, model) = (Arc::clone(cpu), Arc::clone(model));
    let factory = move || -> Result<Box<dyn Executor>, Fault> {
        Ok(Box::new(CpuRunner::new(Arc::clone(&cpu), Arc::clone(&model), &options)?))
    };
    let scheduler = SchedulerSettings { prefill_chunk_max: 40, ..scheduler };
    let settings = EngineSettings { scheduler, ..EngineSettings::default() };
    Engine::start(factory, settings, EngineMetrics::unregistered()).expect("it starts")
}

/// Runs jobs through an engine, all at once.
fn run_all(handle: &EngineHandle, jobs: &[Job]) -> (Vec<Generated>, Vec<Usage>) {
    let streams: Vec<_> = jobs
        .iter()
        .map(|job| {
            let request = NewRequest {
                prompt: job.prompt.clone(),
                sampling: job.sampling.clone(),
                tokens_max: job.count as u32,
                service: Service::default(),
                label: "".into(),
            };
            handle.submit(request).expect("it is taken")
        })
        .collect();
    let ended = streams.into_iter().map(|mut stream| {
        let mut generated = Generated::default();
        loop {
            match stream.next_blocking().expect("a stream ends with an ending") {
                RequestEvent::Prefilled { .. } => {}
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
    ended.unzip()
}

/// Runs jobs through the engine with room for all, then with so little that it must preempt, and by hand.
fn check_scarcity(subject: &Subject) {
    let jobs = subject.jobs(24, 40);
    let through_the_engine = |blocks, prefix_cache| {
        let (engine, handle) = start_engine(subject, blocks, prefix_cache);
        let ended = run_all(&handle, &jobs);
        engine.shutdown();
        ended
    };
    let (plenty, usages) = through_the_engine(1000, true);
    assert!(usages.iter().all(|usage| usage.preemptions == 0));
    // All of them at their ends would need about 120 blocks. With the cache, who was preempted finds what is left of
    // its own work; without, it computes all of it again.
    for (prefix_cache, what) in [(true, "preempted"), (false, "preempted, all computed again")] {
        let (scarce, usages) = through_the_engine(48, prefix_cache);
        let preemptions: u32 = usages.iter().map(|usage| usage.preemptions).sum();
        assert_eq!(preemptions > 0, !subject.is_windowed(), "the pool was meant to be too small");
        subject.assert_same(&scarce, &plenty, what);
    }
    let mut by_hand = runner(&subject.cpu, &subject.model, 24, subject.kv_format);
    let want = run(&mut by_hand, &jobs, Circumstances::default());
    subject.assert_same(&plenty, &want, "through the engine");
    if !subject.has_host_tier() {
        return;
    }
    // Without a target no time is measured, and what went to the host's memory is brought back in any case.
    let scheduler = SchedulerSettings { token_latency_target: None, ..Default::default() };
    let (engine, handle) = start_engine_with(subject, [48, 300], scheduler);
    let (brought_back, usages) = run_all(&handle, &jobs);
    let stats = handle.stats();
    engine.shutdown();
    assert!(usages.iter().any(|usage| usage.preemptions > 0));
    assert!(stats.host_hit_tokens > 0, "{stats:?}");
    assert!(stats.blocks_copied[0] >= stats.blocks_copied[1], "{stats:?}");
    subject.assert_same(&brought_back, &plenty, "preempted, and brought back from the host");
}

/// Runs jobs whose prompts repeat themselves with and without guessing, with room for all and with so little that some
/// are preempted, alone and together.
fn check_speculation(subject: &Subject) {
    let mut jobs = subject.jobs(16, 40);
    for (index, job) in jobs.iter_mut().enumerate() {
        job.prompt.truncate(9);
        job.prompt = job.prompt.repeat(5);
        // Without penalties small models soon say the same again.
        if index % 4 < 2 {
            job.sampling = SamplingParams { logprobs: Some(3), ..SamplingParams::greedy() };
        }
    }
    let through_the_engine = |jobs: &[Job], blocks, draft_tokens_max| {
        // Without a target no time is measured, and guesses do not depend on it.
        let scheduler = SchedulerSettings {
            draft_tokens_max,
            token_latency_target: None,
            // Many are let in, and give way to each other.
            kv_growth_percent: 0,
            ..SchedulerSettings::default()
        };
        let (engine, handle) = start_engine_with(subject, [blocks, 0], scheduler);
        let (generated, usages) = run_all(&handle, jobs);
        let stats = handle.stats();
        engine.shutdown();
        (generated, usages, stats)
    };
    let (want, _, stats) = through_the_engine(&jobs, 1000, 0);
    assert_eq!(stats.drafted_tokens, 0);
    let (got, _, stats) = through_the_engine(&jobs, 1000, 8);
    subject.assert_same(&got, &want, "guessed");
    let (drafted, accepted) = (stats.drafted_tokens, stats.accepted_tokens);
    assert!(0 < accepted && accepted < drafted, "{accepted} of {drafted} are right");
    let (got, usages, _) = through_the_engine(&jobs, 40, 8);
    subject.assert_same(&got, &want, "guessed and preempted");
    let preemptions: u32 = usages.iter().map(|usage| usage.preemptions).sum();
    assert_eq!(preemptions > 0, !subject.is_windowed(), "the pool was meant to be too small");
    for (job, want) in jobs.iter().zip(want.chunks(1)).step_by(5) {
        let (got, _, _) = through_the_engine(std::slice::from_ref(job), 1000, 8);
        subject.assert_same(&got, want, "guessed alone");
    }
}

/// Long answers in a pool that holds no more than one of them, or a few windows: what is given back is not missed.
#[test]
fn blocks_given_back_as_they_fall_out_of_the_window_make_no_difference() {
    let _alone = all_processors();
    let ways = [(FloatFormat::F32, Compute::F32), (FloatFormat::Bf16, Compute::Native)];
    // 96 positions: less than one answer, and two windows with the blocks that they begin and end in. Layers that see
    // everything need room for one answer.
    let models = [("mistral", &[Some(20)][..], 6), ("qwen2_windows", &[Some(20), None], 14)];
    for ((name, windows, blocks), (format, compute)) in
        models.into_iter().flat_map(|model| ways.map(|way| (model, way)))
    {
        let weights = hugging_face(&tiny::named(name).config, format);
        for subject in Subject::of(name, &weights, compute, Rung::ALL) {
            let jobs = subject.jobs(6, 150);
            let mut by_hand = runner(&subject.cpu, &subject.model, 6, subject.kv_format);
            let groups = &by_hand.info().cache_groups;
            assert!(groups.iter().map(CacheGroup::window).eq(windows.iter().copied()));
            // Whose tables hold everything.
            let want = run(&mut by_hand, &jobs, Circumstances::default());
            for prefix_cache in [true, false] {
                let (engine, handle) = start_engine(&subject, blocks, prefix_cache);
                let (got, _) = run_all(&handle, &jobs);
                engine.shutdown();
                subject.assert_same(&got, &want, "in a pool of two windows");
            }
        }
    }
}

#[test]
fn guessing_makes_no_difference_to_tiny_models() {
    let _alone = all_processors();
    Subject::tiny().iter().for_each(check_speculation);
}

#[test]
fn guessing_makes_no_difference_to_the_real_model() {
    let _alone = all_processors();
    Subject::real().iter().for_each(check_speculation);
}

/// Two turns of chats, each asked twice at once and once more later, with and without a prefix cache.
fn check_prefixes(subject: &Subject) {
    let mut first: Vec<Job> = subject.jobs(8, 24);
    for job in &mut first {
        job.sampling.prompt_logprobs = None;
        // Prompts that differ in their ends only.
        let beginning =
            (0..40).map(|place| place * 7919 % subject.model.spec.vocab_size as TokenId);
        job.prompt.splice(0..0, beginning);
    }
    first.extend_from_within(..);
    let twice = |handle: &EngineHandle| {
        let (answers, _) = run_all(handle, &first);
        let mut second = first.clone();
        for (job, answer) in second.iter_mut().zip(&answers) {
            job.prompt.extend(&answer.tokens);
            job.prompt.extend([5, 3, 1]);
        }
        let (again, _) = run_all(handle, &first);
        let (seconds, usages) = run_all(handle, &second);
        ([answers, again, seconds], usages)
    };
    let (engine, handle) = start_engine(subject, 1000, true);
    let (hits, usages) = twice(&handle);
    engine.shutdown();
    for (usage, job) in usages.iter().zip(&first) {
        // The whole first turn, the answer's tokens among it, but for the last block.
        let turn = job.prompt.len() + job.count - 1;
        assert!(usage.cached_tokens as usize + 16 > turn, "{usage:?}, {turn}");
    }
    let (engine, handle) = start_engine(subject, 1000, false);
    let (misses, usages) = twice(&handle);
    engine.shutdown();
    assert!(usages.iter().all(|usage| usage.cached_tokens == 0));
    for ((hits, misses), what) in hits.iter().zip(&misses).zip(["first", "again", "second turn"]) {
        subject.assert_same(hits, misses, what);
    }
}

#[test]
fn cached_prefixes_make_no_difference_to_tiny_models() {
    let _alone = all_processors();
    Subject::tiny().iter().for_each(check_prefixes);
}

#[test]
fn cached_prefixes_make_no_difference_to_the_real_model() {
    let _alone = all_processors();
    Subject::real().iter().for_each(check_prefixes);
}

#[test]
fn scarcity_of_blocks_makes_no_difference_to_tiny_models() {
    let _alone = all_processors();
    Subject::tiny().iter().for_each(check_scarcity);
}

#[test]
fn scarcity_of_blocks_makes_no_difference_to_the_real_model() {
    let _alone = all_processors();
    Subject::real().iter().for_each(check_scarcity);
}
