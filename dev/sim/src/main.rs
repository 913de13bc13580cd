//! `cargo run --release -p sim -- table`: workloads under each policy, beside first-come with a fixed chunk.
//! `cargo run --release -p sim -- waits FIRST LAST`: the waits that are predicted beside those that come.
//! `cargo run --release -p sim -- host`: conversations on a device with few blocks, with and without a host tier.
//! `cargo run --release -p sim -- day`: a day of simulated time, and what the process holds in memory after each hour.
//! `cargo run --release -p sim -- soak SEEDS STEPS`: so many seeds of so many steps each, with all checks.

use std::{ops::RangeInclusive, process::ExitCode};

use scheduler::Settings;
use sim::{
    day, host,
    soak::{self, Action, Script},
    waits::{self, Load, Wait, Waits},
    workload::{Workload, load_of},
};
use simulate::{
    Device, contenders,
    report::{Report, Targets},
    run,
    run::Fleet,
};

const USAGE: &str =
    "usage: sim table | sim waits FIRST LAST | sim host | sim day | sim soak SEEDS STEPS";
const DURATION_S: f64 = 120.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["table"] => table(),
        ["waits", first, last] => match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => waits_table(first..=last),
            _ => return usage(),
        },
        ["host"] => host_table(),
        ["day"] => run_day(),
        ["soak", seeds, steps] => match (seeds.parse(), steps.parse()) {
            (Ok(seeds), Ok(steps)) => return run_soak(seeds, steps),
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

/// Runs seeds until one fails; that one is made smaller and printed.
fn run_soak(seeds: u64, steps: u64) -> ExitCode {
    let mut total = 0;
    for seed in 0..seeds {
        let script = Script::random(seed, steps);
        let Some(what) = soak::failure(&script, None) else {
            total += script.actions.iter().filter(|a| matches!(a, Action::Step(_))).count();
            continue;
        };
        println!("seed {seed} of {steps} steps fails: {what}\n");
        let small = soak::shrink(&script, |script| soak::failure(script, None).is_some());
        let what = soak::failure(&small, None).unwrap_or_default();
        println!("{}", what.lines().map(|line| format!("# {line}\n")).collect::<String>());
        println!("{small}\nkept as a file in dev/sim/tests/kept, the lines from `#` on are a test");
        return ExitCode::FAILURE;
    }
    println!("{total} steps over {seeds} seeds, nothing broken");
    ExitCode::SUCCESS
}

fn run_day() {
    let device = Device::named("cpu").expect("it is built in");
    day::run(&device, |hour, steps, kib| println!("hour {hour}: {steps} steps, {kib} KiB"));
}

fn table() {
    for name in Device::names() {
        let device = Device::named(name).expect("it is built in");
        let targets = match name {
            "cpu" => Targets { first_token_ms: 2000.0, token_ms: 200.0 },
            _ => Targets { first_token_ms: 500.0, token_ms: 30.0 },
        };
        let Targets { first_token_ms, token_ms } = targets;
        println!("\n{name}: goodput within {first_token_ms} ms and {token_ms} ms\n");
        println!("| workload | policy | class | {}", Report::HEADER[0]);
        println!("| --- | --- | --- | {}", Report::HEADER[1]);
        for (workload_name, workload) in Workload::ALL {
            for (policy_name, settings) in contenders(&unbounded(&device)) {
                let jobs = workload.jobs(1, DURATION_S, &device, load_of(&device));
                let measured =
                    run(&workload.on(&device), settings, jobs, Fleet::ONE, 1).expect("it can run");
                let classes: &[&str] =
                    if workload == Workload::Mixed { &["short", "long"] } else { &["all"] };
                for &class in classes {
                    let only = (class != "all").then_some(class);
                    let report = Report::of(&measured, only, targets);
                    println!("| {workload_name} | {policy_name} | {class} | {}", report.row());
                }
            }
        }
    }
}

fn host_table() {
    println!(
        "| device | blocks, and in the host's memory | turns | TTFT p50, p99 ms | cached | tokens brought back | preempted | tokens/s |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    for name in Device::names() {
        let device = Device::named(name).expect("it is built in");
        for times in host::SIZES {
            let jobs = host::jobs(&device, DURATION_S, 1);
            let device = host::device(&device, times);
            let group = &device.info.cache_groups[0];
            let measured =
                run(&device, unbounded(&device), jobs, Fleet::ONE, 1).expect("it can run");
            for class in ["first", "later"] {
                let targets = Targets { first_token_ms: 500.0, token_ms: 30.0 };
                let report = Report::of(&measured, Some(class), targets);
                let [median_ms, most_ms] = report.first_token_ms;
                println!(
                    "| {name} | {}, {} | {class} | {median_ms:.0}, {most_ms:.0} | {:.0} % | {} | {} | {:.0} |",
                    group.blocks,
                    group.host_blocks,
                    100.0 * report.cached,
                    measured.host_hit_tokens,
                    measured.preemptions,
                    report.output_tokens_s,
                );
            }
        }
    }
}

/// The server's defaults, and a queue that takes all.
fn unbounded(device: &Device) -> Settings {
    Settings { waiting_max: 1 << 20, ..device.settings() }
}

/// Each load with each of these seeds: the waits of all of them, and how far off the means of single seeds are.
fn waits_table(seeds: RangeInclusive<u64>) {
    println!(
        "| device | policy | load | waits counted | mean wait, s | predicted, s | of each seed | within 20 % | off by, median and 90 in 100 |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for name in Device::names() {
        let device = Device::named(name).expect("it is built in");
        for (policy, settings) in contenders(&unbounded(&device)) {
            for (load_name, load) in Load::ALL {
                let device = load.on(&device);
                let of_seed = |seed| {
                    let jobs = load.jobs(&device, DURATION_S, seed);
                    waits::measure(&device, settings.clone(), jobs)
                };
                let of_seeds: Vec<Vec<Wait>> = seeds.clone().map(of_seed).collect();
                let off = of_seeds.iter().map(|waits| {
                    let Waits { actual_s, predicted_s, .. } = Waits::of(waits);
                    100.0 * (predicted_s / actual_s - 1.0)
                });
                let least = off.clone().fold(f64::INFINITY, f64::min);
                let most = off.fold(f64::NEG_INFINITY, f64::max);
                let waits = Waits::of(&of_seeds.concat());
                let [median, ninety] = waits.off.map(|off| 100.0 * off);
                println!(
                    "| {name} | {policy} | {load_name} | {} | {:.1} | {:.1} | {least:+.0} to {most:+.0} % | {:.0} % | {median:.0} %, {ninety:.0} % |",
                    waits.counted,
                    waits.actual_s,
                    waits.predicted_s,
                    100.0 * waits.within_a_fifth,
                );
            }
        }
    }
}
