//! How fast a model prefills and decodes, without the engine and HTTP:
//! `cargo run --release -p golden --example speed -- MODEL.gguf [RUNG]`.
//!
//! Every figure is the best of three rounds; the machine's other work shows in the other two.

use std::{env, path::Path, time::Instant};

use device::cpu::Rung;
use golden::{
    cpu,
    drive::{Circumstances, Job, run},
    load,
};
use kernels::attention::KvFormat;
use models::Compute;
use runner::{CpuRunner, KvBudget, RunnerOptions};
use types::SamplingParams;
use weights::Weights;

const ROUNDS: usize = 3;

fn main() {
    let file = env::args().nth(1).expect("the first argument is a model");
    let rung: Rung =
        env::args().nth(2).map_or(Rung::HIGHEST, |text| text.parse().expect("a rung's name"));
    let weights = Weights::open(Path::new(&file)).expect("the file is a model");
    let cpu = cpu(rung);
    let begun = Instant::now();
    let model = load(&weights, &cpu, Compute::Native);
    println!("{} on {} threads", cpu.isa.rung(), cpu.pool.threads());
    println!("packed {} MB in {:.0?}", model.program.weight_bytes() / 1_000_000, begun.elapsed());
    let vocab_size = model.spec.vocab_size;
    let options = RunnerOptions {
        step_tokens_max: 512,
        slots_max: 32,
        context_max: Some(1024.min(model.spec.context_max as u32)),
        kv_budget: KvBudget::Bytes(u64::MAX),
        kv_format: KvFormat::Bf16,
    };
    let mut runner = CpuRunner::new(cpu, model, &options).expect("the limits are sound");
    println!(
        "{:>7} {:>6} {:>6} {:>10} {:>12}",
        "streams", "prompt", "output", "seconds", "tokens/s"
    );
    // One output token is a prefill; many after a short prompt are a decode.
    for (streams, prompt, output) in
        [(1, 128, 1), (1, 512, 1), (1, 1, 128), (4, 1, 128), (8, 1, 64), (16, 1, 64), (32, 1, 64)]
    {
        let token = |stream: usize, place: usize| (place * 37 + stream * 101 + 10) % vocab_size;
        let job = |stream| Job {
            prompt: (0..prompt).map(|place| token(stream, place) as u32).collect(),
            count: output,
            sampling: SamplingParams::greedy(),
        };
        let jobs: Vec<Job> = (0..streams).map(job).collect();
        let seconds = (0..ROUNDS)
            .map(|_| {
                let begun = Instant::now();
                run(&mut runner, &jobs, Circumstances::default());
                begun.elapsed().as_secs_f64()
            })
            .fold(f64::MAX, f64::min);
        let tokens = (streams * prompt.max(output)) as f64 / seconds;
        println!("{streams:>7} {prompt:>6} {output:>6} {seconds:>10.3} {tokens:>12.0}");
    }
}
