//! What the simulator must show, with fixed seeds: nothing breaks, planted defects are found, and policies keep what
//! they promise. Times here are simulated, so they are the same on every machine.

#[cfg(feature = "planted")]
mod planted;
mod soaks;

use scheduler::Settings;
use sim::{
    host,
    waits::{self, Load, Waits},
    workload::{Workload, load_of},
};
use simulate::{
    Device, contenders,
    report::{Report, Targets},
    run::{Fleet, Measured},
};

const TARGETS: Targets = Targets { first_token_ms: 500.0, token_ms: 30.0 };

fn settings(device: &Device, name: &str) -> Settings {
    let unbounded = Settings { waiting_max: 1 << 20, ..device.settings() };
    let mut contenders = contenders(&unbounded).into_iter();
    contenders.find(|(known, _)| *known == name).expect("it is one of them").1
}

fn run(device: &Device, workload: Workload, name: &str, load: f64) -> Measured {
    let jobs = workload.jobs(7, 60.0, device, load);
    simulate::run(&workload.on(device), settings(device, name), jobs, Fleet::ONE, 7)
        .expect("it can run")
}

fn cpu() -> Device {
    Device::named("cpu").expect("it is built in")
}

fn gpu() -> Device {
    Device::named("h200").expect("it is built in")
}

#[test]
fn short_requests_do_not_wait_for_long_ones() {
    let device = gpu();
    let [plain, fair] = ["plain first-come", "fair"].map(|name| {
        let measured = run(&device, Workload::Mixed, name, load_of(&device));
        let short = Report::of(&measured, Some("short"), TARGETS);
        (short, Report::of(&measured, None, TARGETS).output_tokens_s)
    });
    let [plain_ms, fair_ms] = [plain.0, fair.0].map(|short| short.first_token_ms[1]);
    assert!(fair_ms * 5.0 < plain_ms, "{fair_ms} ms, {plain_ms} ms with plain first-come");
    assert!(fair.1 > 0.95 * plain.1, "{} tokens/s, {} with plain first-come", fair.1, plain.1);
    assert!(fair.0.token_ms[1] < TARGETS.token_ms, "{:?}", fair.0);
}

#[test]
fn throughput_does_not_collapse_when_blocks_run_out() {
    for device in [cpu(), gpu()] {
        let tokens_s = |load| {
            let measured = run(&device, Workload::Starved, "fair", load * load_of(&device));
            (measured.output_tokens_s(20.0..60.0, None), measured.preemptions)
        };
        let (most, _) = tokens_s(1.0);
        // The offer is proportional to the load, and at 1 more than all of it.
        let mut load = 1.0;
        while tokens_s(load).0 > 0.9 * most {
            load *= 0.9;
        }
        let ((near, _), (far, preemptions)) = (tokens_s(load), tokens_s(3.0 * load / 0.9));
        assert!(far > 0.9 * near, "{}: {near} tokens/s, {far} with too much to do", device.name);
        assert!(preemptions < 400, "{}: {preemptions}", device.name);
    }
}

#[test]
fn tenants_share_whatever_they_ask_for() {
    let device = gpu();
    let load = 2.0 * load_of(&device);
    let measured = run(&device, Workload::Tenants, "fair", load);
    let [often, rare] = ["", "rare"].map(|name| measured.output_tokens_s(10.0..50.0, Some(name)));
    let share = rare / (often + rare);
    assert!((share / 0.5 - 1.0).abs() < 0.2, "{often} and {rare} tokens/s");
    let measured = run(&device, Workload::Tenants, "first-come", load);
    let [often, rare] = ["", "rare"].map(|name| measured.output_tokens_s(10.0..50.0, Some(name)));
    assert!(often > 5.0 * rare, "{often} and {rare} tokens/s: not by itself");
}

#[test]
fn waits_come_as_they_were_predicted() {
    let device = gpu();
    let jobs = Load::Steady(150).jobs(&device, 120.0, 1);
    let found = Waits::of(&waits::measure(&device, settings(&device, "fair"), jobs));
    assert!(found.counted > 10_000, "{found:?}");
    assert!((found.predicted_s / found.actual_s - 1.0).abs() < 0.05, "{found:?}");
    assert!(found.within_a_fifth > 0.95, "{found:?}");
}

#[test]
fn a_history_that_made_room_comes_back_from_the_host() {
    for device in [cpu(), gpu()] {
        let [without, with] = [0, 8].map(|times| {
            let jobs = host::jobs(&device, 60.0, 7);
            let device = host::device(&device, times);
            let measured = simulate::run(&device, settings(&device, "fair"), jobs, Fleet::ONE, 7)
                .expect("it can run");
            Report::of(&measured, Some("later"), TARGETS)
        });
        let [without_ms, with_ms] = [&without, &with].map(|report| report.first_token_ms[0]);
        assert!(with_ms * 2.0 < without_ms, "{}: {with_ms} ms, {without_ms}", device.name);
        assert!(with.cached > 0.8 && without.cached < 0.5, "{with:?}, {without:?}");
    }
}

#[test]
fn a_simulation_is_a_function_of_its_seed() {
    let device = cpu();
    let [one, other] = [(); 2].map(|()| run(&device, Workload::Mixed, "fair", load_of(&device)));
    assert_eq!((one.steps, one.end_s), (other.steps, other.end_s));
    assert_eq!(one.served.len(), other.served.len());
}
