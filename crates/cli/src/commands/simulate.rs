//! `brigade simulate`: a trace on a model of a device, in virtual time.

use std::{collections::BTreeSet, fs, io::Write, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};
use simulate::{
    Device, contenders,
    generate::Traffic,
    plot::plot,
    report::{Report, Targets},
    run,
    run::{Fleet, Measured, Router},
    trace,
};

/// The name that stands for every policy.
const ALL: &str = "all";

/// The command line.
pub(super) fn command() -> Command {
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("N").default_value(default).help(help)
    };
    let times = |name, default, help| number(name, default, help).value_parser(value_parser!(f64));
    let counts = |name, default, help| number(name, default, help).value_parser(value_parser!(u64));
    let path = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    Command::new("simulate")
        .about("Serve a trace in virtual time: what would each policy give on which device?")
        .after_help(
            "A trace is CSV with a header line, or JSON lines, with the fields at_s, prompt_tokens, output_tokens and \
             optionally class, tenant, prefix, prefix_tokens, priority, due_ms. Prompts with one prefix begin with \
             the same prefix_tokens tokens; without a number they are turns of one conversation.\n\nExample:\n  \
             brigade simulate --generate mixed --sessions-s 4 > trace.jsonl\n  brigade simulate --trace trace.jsonl \
             --device h200 --policy all --plot policies.svg",
        )
        .arg(path("trace", "The requests").required_unless_present("generate"))
        .arg(
            Arg::new("generate")
                .long("generate")
                .value_parser(PossibleValuesParser::new(Traffic::NAMES.map(|(name, _)| name)))
                .conflicts_with("trace")
                .help("Print a synthetic trace instead, as JSON lines"),
        )
        .arg(times("duration-s", "300", "With --generate: sessions begin for this long"))
        .arg(times("sessions-s", "2", "With --generate: sessions that begin in a second"))
        .arg(counts("seed", "1", "What is random is drawn from this"))
        .arg(
            Arg::new("device").long("device").value_name("NAME|FILE").default_value("cpu").help(
                "A device: cpu, h200, or a file such as those in crates/simulate/devices of the sources",
            ),
        )
        .arg(counts("host-blocks", "0", "Blocks that the host's memory holds besides the device's"))
        .arg(
            Arg::new("policy")
                .long("policy")
                .action(ArgAction::Append)
                .default_value(ALL)
                .help("A policy of the server, `plain first-come`, or all; may be repeated"),
        )
        .arg(counts("replicas", "1", "Engines behind a router, each on a device of its own"))
        .arg(
            Arg::new("router")
                .long("router")
                .default_value("least-loaded")
                .value_parser(PossibleValuesParser::new(Router::NAMES.map(|(name, _)| name)))
                .help("Who of them gets a request; prefix keeps those with one prefix together"),
        )
        .arg(times("ttft-ms", "500", "A good answer has its first token within this"))
        .arg(times("tpot-ms", "30", "and this between tokens, on average"))
        .arg(path("plot", "Draw the distributions of both times, policies side by side, as SVG"))
}

/// Prints a trace or a table.
pub(crate) fn run_command(matches: &ArgMatches) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let seed = count(matches, "seed");
    if let Some(kind) = matches.get_one::<String>("generate") {
        let (duration_s, sessions_s) = (time(matches, "duration-s")?, time(matches, "sessions-s")?);
        let mut kinds = Traffic::NAMES.into_iter();
        let (_, traffic) = kinds.find(|(name, _)| name == kind).expect("clap checked it");
        out.write_all(trace::write(&traffic.jobs(duration_s, sessions_s, seed)).as_bytes())?;
        return Ok(());
    }
    let path = matches.get_one::<PathBuf>("trace").expect("clap demands it");
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let jobs = trace::read(&text).with_context(|| path.display().to_string())?;
    let device = device(matches.get_one::<String>("device").expect("it has a default"))?;
    let device = device.with_host_blocks(u32::try_from(count(matches, "host-blocks"))?);
    let policies = policies(matches, &device)?;
    let fleet = Fleet {
        replicas: usize::try_from(count(matches, "replicas").max(1))?,
        router: router(matches),
    };
    let targets =
        Targets { first_token_ms: time(matches, "ttft-ms")?, token_ms: time(matches, "tpot-ms")? };
    writeln!(
        out,
        "{} requests on {} x {} ({}; fitted to {}); good within {} and {} ms\n",
        jobs.len(),
        fleet.replicas,
        device.name,
        device.description,
        device.fitted_to,
        targets.first_token_ms,
        targets.token_ms,
    )?;
    writeln!(out, "| policy | class | {}\n| --- | --- | {}", Report::HEADER[0], Report::HEADER[1])?;
    let classes: BTreeSet<String> = jobs.iter().map(|job| job.class.to_string()).collect();
    let mut runs: Vec<(String, Measured)> = Vec::new();
    for (name, settings) in policies {
        let measured = run(&device, settings, jobs.clone(), fleet, seed)?;
        let whole = std::iter::once(None).filter(|_| classes.len() != 1);
        for class in whole.chain(classes.iter().map(Some)) {
            let report = Report::of(&measured, class.map(String::as_str), targets);
            let class = class.map_or("all of them", String::as_str);
            writeln!(out, "| {name} | {class} | {}", report.row())?;
        }
        runs.push((name.to_owned(), measured));
    }
    if let Some(refused) = runs.iter().flat_map(|(_, m)| &m.served).find_map(|s| s.refused.as_ref())
    {
        writeln!(out, "\nrefused, the first of them: {refused}")?;
    }
    if let Some(picture) = matches.get_one::<PathBuf>("plot") {
        let named: Vec<(String, &Measured)> =
            runs.iter().map(|(name, measured)| (name.clone(), measured)).collect();
        let title = format!("{} on {} x {}", path.display(), fleet.replicas, device.name);
        fs::write(picture, plot(&title, &named))
            .with_context(|| format!("writing {}", picture.display()))?;
    }
    Ok(())
}

fn count(matches: &ArgMatches, name: &str) -> u64 {
    *matches.get_one(name).expect("it has a default")
}

fn time(matches: &ArgMatches, name: &str) -> Result<f64> {
    let time = *matches.get_one::<f64>(name).expect("it has a default");
    if time.is_finite() && time > 0.0 { Ok(time) } else { bail!("--{name} {time}: not above 0") }
}

fn router(matches: &ArgMatches) -> Router {
    let name = matches.get_one::<String>("router").expect("it has a default");
    let mut routers = Router::NAMES.into_iter();
    routers.find(|(known, _)| known == name).expect("clap checked it").1
}

fn device(name: &str) -> Result<Device> {
    if let Some(device) = Device::named(name) {
        return Ok(device);
    }
    let names = Device::names().collect::<Vec<_>>().join(", ");
    let text = fs::read_to_string(name).with_context(|| {
        format!("device `{name}` is none of {names}, and no file that can be read")
    })?;
    Device::parse(&text).with_context(|| format!("the device {name}"))
}

fn policies(
    matches: &ArgMatches,
    device: &Device,
) -> Result<Vec<(&'static str, simulate::device::Settings)>> {
    let known = contenders(&device.settings());
    let wanted: Vec<&String> = matches.get_many("policy").expect("it has a default").collect();
    for name in &wanted {
        if *name != ALL && !known.iter().any(|(other, _)| other == name) {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            bail!("there is no policy `{name}`; there are {ALL}, {}", names.join(", "));
        }
    }
    let is_wanted = |name: &str| wanted.iter().any(|other| *other == ALL || *other == name);
    Ok(known.into_iter().filter(|(name, _)| is_wanted(name)).collect())
}
