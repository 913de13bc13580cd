//! Traces, devices, and runs whose outcome is known.

use crate::{
    Device, Job, contenders,
    generate::Traffic,
    plot::plot,
    report::{Report, Targets},
    run,
    run::{Fleet, Measured, Router},
    trace::{self, Prefix},
};

#[test]
fn each_device_comes_near_to_what_it_was_fitted_to() {
    for name in Device::names() {
        let device = Device::named(name).unwrap();
        assert!(device.measured.len() >= 7, "{name}");
        for measured in &device.measured {
            let ms = device.modelled_ms(measured.load);
            let off = ms / measured.took_ms - 1.0;
            assert!(off.abs() < 0.15, "{name}, {}: {ms} ms, {:+.0} %", measured.what, 100.0 * off);
        }
    }
}

#[test]
fn a_device_file_that_is_wrong_says_where() {
    let text = include_str!("../devices/cpu.toml");
    assert_eq!(Device::parse(text), Ok(Device::named("cpu").unwrap()));
    let error =
        |from: &str, to: &str| Device::parse(&text.replace(from, to)).unwrap_err().to_string();
    assert_eq!(error("step_us = 1600.0", ""), "`step_us` is missing, or no number");
    assert_eq!(
        error("step_us = 1600.0", "step_us = -1.0"),
        "`step_us` is -1: times are not negative"
    );
    assert_eq!(error("blocks = 8192", "blocks = -3"), "`blocks` is missing, or no whole number");
    assert_eq!(error("blocks = 8192", "bloks = 1"), "`bloks` is nothing that a device has");
    assert!(error("step_us = 1600.0", "step_us =").contains("line 6"));
}

#[test]
fn a_trace_is_read_from_both_forms_and_errors_name_the_line() {
    let csv = "at_s,prompt_tokens,output_tokens,tenant,prefix,prefix_tokens,due_ms\n\
               2.5,10,20,a,chat 1,,300\n\n0.5,30,40,,system,16,\n";
    let jobs = trace::read(csv).unwrap();
    let prefix = |id: &str, tokens| Some(Prefix { id: id.into(), tokens });
    let first = Job { prefix: prefix("system", Some(16)), ..Job::new(0.5, 30, 40) };
    let second = Job {
        tenant: "a".into(),
        prefix: prefix("chat 1", None),
        due_ms: Some(300),
        ..Job::new(2.5, 10, 20)
    };
    assert_eq!(jobs, [first, second]);
    assert_eq!(trace::read(&trace::write(&jobs)), Ok(jobs));
    let generated = Traffic::Mixed.jobs(60.0, 2.0, 1);
    assert_eq!(trace::read(&trace::write(&generated)).unwrap().len(), generated.len());
    let error = |text: &str| trace::read(text).unwrap_err().to_string();
    assert!(error("at_s,wat\n1,2").starts_with("line 1: there is no field `wat`; there are at_s,"));
    assert_eq!(error("at_s,prompt_tokens\n1"), "line 2: 1 values under 2 names");
    let header = "at_s,prompt_tokens,output_tokens,prefix_tokens\n";
    assert_eq!(
        error(&format!("{header}1,0,5,")),
        "line 2: `prompt_tokens` is 0: at least one is needed"
    );
    assert_eq!(error(&format!("{header}x,1,5,")), "line 2: `at_s` is \"x\", which is no number");
    assert_eq!(error(&format!("{header}1,1,5,2")), "line 2: `prefix_tokens` without a `prefix`");
    assert_eq!(error("{\"at_s\": 1, \"prompt_tokens\": 3}"), "line 1: `output_tokens` is missing");
    assert!(error("{\"at_s\": ").starts_with("line 1: "));
    assert_eq!(trace::read(""), Ok(Vec::new()));
}

fn on_gpu(jobs: Vec<Job>, fleet: Fleet) -> Measured {
    let device = Device::named("h200").unwrap();
    run(&device, device.settings(), jobs, fleet, 1).unwrap()
}

const TARGETS: Targets = Targets { first_token_ms: 500.0, token_ms: 30.0 };

#[test]
fn one_request_takes_what_its_steps_take() {
    let device = Device::named("h200").unwrap();
    let measured = on_gpu(vec![Job::new(1.0, 1000, 11)], Fleet::ONE);
    let served = &measured.served[0];
    assert_eq!(served.tokens_s.len(), 11);
    let first_ms = 1e3 * served.first_token_s().unwrap();
    let expected_ms = device.modelled_ms(crate::device::Load::Prompt(1000, 2048));
    assert!((first_ms / expected_ms - 1.0).abs() < 0.05, "{first_ms} and {expected_ms} ms");
    let token_ms = 1e3 * served.token_s().unwrap();
    let expected_ms = device.modelled_ms(crate::device::Load::Step(1, 1005));
    assert!((token_ms / expected_ms - 1.0).abs() < 0.05, "{token_ms} and {expected_ms} ms");
    assert!(measured.kv_used[1] > 0.0 && measured.kv_used[1] < 0.01, "{:?}", measured.kv_used);
}

#[test]
fn conversations_find_their_answers_and_shared_prompts_their_beginning() {
    let with = |prefix: &str, tokens, job: Job| Job {
        prefix: Some(Prefix { id: prefix.into(), tokens }),
        ..job
    };
    let measured = on_gpu(
        vec![
            with("chat", None, Job::new(0.0, 160, 100)),
            with("system", Some(320), Job::new(0.0, 500, 10)),
            with("chat", None, Job::new(10.0, 300, 10)),
            with("system", Some(320), Job::new(10.0, 700, 10)),
            with("other chat", None, Job::new(10.0, 300, 10)),
        ],
        Fleet::ONE,
    );
    let cached: Vec<u32> = measured.served.iter().map(|served| served.cached_tokens).collect();
    // Of 160 + 100 tokens all but the last were computed: 16 blocks of 16.
    assert_eq!(cached, [0, 0, 256, 320, 0]);
}

#[test]
fn replicas_share_the_load_and_a_router_can_keep_conversations_together() {
    let jobs = Traffic::Chat.jobs(20.0, 20.0, 3);
    let one = on_gpu(jobs.clone(), Fleet::ONE);
    let four = |router| on_gpu(jobs.clone(), Fleet { replicas: 4, router });
    let (apart, together) = (four(Router::LeastLoaded), four(Router::Prefix));
    let report = |measured: &Measured| Report::of(measured, None, TARGETS);
    assert!(apart.kv_used[0] < one.kv_used[0]);
    assert!(report(&together).cached > report(&apart).cached + 0.2);
    assert_eq!(report(&together).requests, jobs.len());
}

#[test]
fn generated_traffic_is_what_its_name_says() {
    for (name, traffic) in Traffic::NAMES {
        let jobs = traffic.jobs(300.0, 2.0, 5);
        assert!(jobs.windows(2).all(|two| two[0].at_s <= two[1].at_s), "{name}");
        assert_eq!(jobs, traffic.jobs(300.0, 2.0, 5));
        let classes: std::collections::BTreeSet<_> = jobs.iter().map(|job| &*job.class).collect();
        assert_eq!(classes.len(), if name == "mixed" { 3 } else { 1 }, "{classes:?}");
    }
    let mean = |traffic: Traffic| {
        let jobs = traffic.jobs(300.0, 2.0, 5);
        jobs.iter().map(|job| f64::from(job.prompt_tokens)).sum::<f64>() / jobs.len() as f64
    };
    assert!(mean(Traffic::Chat) < mean(Traffic::Retrieval));
    assert!(mean(Traffic::Retrieval) < mean(Traffic::Agents));
}

#[test]
fn policies_are_compared_on_one_trace() {
    let device = Device::named("h200").unwrap();
    let jobs = Traffic::Mixed.jobs(10.0, 8.0, 2);
    let runs: Vec<(String, Measured)> = contenders(&device.settings())
        .into_iter()
        .map(|(name, settings)| {
            (name.to_owned(), run(&device, settings, jobs.clone(), Fleet::ONE, 1).unwrap())
        })
        .collect();
    assert_eq!(runs.len(), 6);
    for (name, measured) in &runs {
        let report = Report::of(measured, None, TARGETS);
        assert_eq!((report.requests, report.refused), (jobs.len(), 0), "{name}");
        assert_eq!(report.row().matches('|').count(), Report::HEADER[0].matches('|').count());
    }
    let named: Vec<(String, &Measured)> =
        runs.iter().map(|(name, measured)| (name.clone(), measured)).collect();
    let picture = plot("a < b", &named);
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    assert_eq!(picture.matches("<polyline").count(), 12);
    assert!(picture.contains("a &lt; b") && picture.contains("plain first-come"));
}
