//! `cargo run --release -p sim -- table`: workloads under each policy, beside first-come with a fixed chunk.
//! `cargo run --release -p sim -- soak SEEDS STEPS`: so many seeds of so many steps each, with all checks.

use std::process::ExitCode;

use sim::{
    device::Device,
    measure,
    report::{Report, Targets},
    soak,
    workload::Workload,
};

const USAGE: &str = "usage: sim table | sim soak SEEDS STEPS";
const DURATION_S: f64 = 120.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["table"] => table(),
        ["soak", seeds, steps] => match (seeds.parse(), steps.parse()) {
            (Ok(seeds), Ok(steps)) => run_soak(seeds, steps),
            _ => return usage(),
        },
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn run_soak(seeds: u64, steps: u64) {
    let total: u64 = (0..seeds).map(|seed| soak::run(seed, steps)).sum();
    println!("{total} steps over {seeds} seeds, nothing broken");
}

fn table() {
    for device in [Device::cpu(), Device::gpu()] {
        let targets = match device.name {
            "cpu" => Targets { first_token_ms: 2000.0, token_ms: 200.0 },
            _ => Targets { first_token_ms: 500.0, token_ms: 30.0 },
        };
        let Targets { first_token_ms, token_ms } = targets;
        println!("\n{}: goodput within {first_token_ms} ms and {token_ms} ms\n", device.name);
        println!(
            "| workload | policy | class | goodput/s | tokens/s | TTFT p50, p99 ms | TPOT p50, p99 ms | preempted |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
        for (workload_name, workload) in Workload::ALL {
            for (policy_name, settings) in device.contenders() {
                let (device, load) = device.under(workload);
                let jobs = workload.jobs(1, DURATION_S, 1e6 / device.prompt_us, load);
                let measured = measure::run(&device, settings, jobs, 1).expect("it can run");
                let classes: &[&str] =
                    if workload == Workload::Mixed { &["short", "long"] } else { &["all"] };
                for &class in classes {
                    let only = (class != "all").then_some(class);
                    let report = Report::of(&measured, only, targets);
                    let [ttft_50, ttft_99] = report.first_token_ms;
                    let [tpot_50, tpot_99] = report.token_ms;
                    println!(
                        "| {workload_name} | {policy_name} | {class} | {:.1} | {:.0} | {ttft_50:.0}, {ttft_99:.0} | {tpot_50:.1}, {tpot_99:.1} | {} |",
                        report.goodput_s, report.output_tokens_s, report.preemptions,
                    );
                }
            }
        }
    }
}
