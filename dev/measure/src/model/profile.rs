//! Where the time of a step goes.

use anyhow::Result;
use kernels::attention::KvFormat;
use runner::{Profile, Work};
use serde_json::{Map, Value, json};
use types::SamplingParams;

use super::{
    load::runner,
    speed::{Bench, LEFT_OUT_S},
    streams::{Streams, prompt},
};
use crate::report::Table;

const PROMPT: usize = 512;
const STEPS: usize = 16;
const STREAMS: usize = 32;

/// Steps that are looked at, and how many of them.
struct Case {
    name: &'static str,
    streams: usize,
    prompt: usize,
    sampling: SamplingParams,
}

/// Profiles steps of prompts, which are computed at so many tokens per second, and of decoding.
pub(crate) fn run(bench: &Bench, prefill_tokens_s: f64) -> Result<Value> {
    let drawn = SamplingParams { temperature: 0.8, top_p: 0.95, ..SamplingParams::default() };
    let case = |name, streams, prompt, sampling| Case { name, streams, prompt, sampling };
    let greedy = SamplingParams::greedy();
    let cases = [
        case("prefill 512", 1, PROMPT, greedy.clone()),
        case("decode 1", 1, 0, greedy.clone()),
        case("decode 32", STREAMS, 0, greedy),
        case("32, top-p", STREAMS, 0, drawn),
    ];
    let is_short = |case: &&Case| {
        case.prompt < bench.model.spec.context_max
            && case.prompt as f64 / prefill_tokens_s < LEFT_OUT_S
    };
    let mut profiles = Vec::new();
    for case in cases.iter().filter(is_short) {
        profiles.push((case.name, profile(bench, case)?));
    }
    Ok(report(&profiles))
}

fn profile(bench: &Bench, case: &Case) -> Result<Profile> {
    let context = case.prompt.max(2 * STEPS + 16) + 1;
    let mut runner = runner(&bench.cpu, &bench.model, (case.streams, context), KvFormat::Bf16)?;
    if case.prompt > 0 {
        // Once to warm up, once to look.
        let mut last = Profile::default();
        for _ in 0..2 {
            let prompts = vec![prompt(bench.model.spec.vocab_size, 0, case.prompt)];
            let mut streams = Streams::new(&mut runner, prompts, &case.sampling);
            streams.runner().start_profile();
            streams.finish_prompts()?;
            last = streams.runner().finish_profile();
            streams.end()?;
        }
        return Ok(last);
    }
    let mut streams = Streams::new(&mut runner, bench.short_prompts(case.streams), &case.sampling);
    streams.finish_prompts()?;
    for _ in 0..STEPS {
        streams.step()?;
    }
    streams.runner().start_profile();
    for _ in 0..STEPS {
        streams.step()?;
    }
    Ok(streams.runner().finish_profile())
}

/// Prints all profiles side by side: milliseconds a step, and percent.
fn report(profiles: &[(&str, Profile)]) -> Value {
    println!("where the time of a step goes, milliseconds");
    let mut columns = vec![("", 14)];
    columns.extend(profiles.iter().map(|(name, _)| (*name, 14)));
    let table = Table::start(&columns);
    let mut kinds: Vec<Work> = Vec::new();
    for (work, _) in profiles.iter().flat_map(|(_, profile)| &profile.by_work) {
        if !kinds.contains(work) {
            kinds.push(*work);
        }
    }
    let mut figures = Map::new();
    let mut row = |name: String, milliseconds: &dyn Fn(&Profile) -> f64| {
        let mut cells = vec![name.clone()];
        let mut values = Map::new();
        for (case, profile) in profiles {
            let (ms, whole) = (milliseconds(profile), step_ms(profile));
            cells.push(format!("{ms:.3} {:>3.0} %", 100.0 * ms / whole.max(f64::MIN_POSITIVE)));
            values.insert((*case).to_owned(), json!(ms));
        }
        table.row(&cells);
        figures.insert(name, values.into());
    };
    for work in kinds {
        row(name_of(work), &|profile| work_ms(profile, |other| other == work));
    }
    row("other".to_owned(), &|profile| step_ms(profile) - work_ms(profile, |_| true));
    row("step".to_owned(), &step_ms);
    println!();
    figures.into()
}

fn step_ms(profile: &Profile) -> f64 {
    1e3 * profile.total.as_secs_f64() / f64::from(profile.steps.max(1))
}

fn work_ms(profile: &Profile, counts: impl Fn(Work) -> bool) -> f64 {
    let counted = profile.by_work.iter().filter(|(work, _)| counts(*work));
    let seconds: f64 = counted.map(|(_, duration)| duration.as_secs_f64()).sum();
    1e3 * seconds / f64::from(profile.steps.max(1))
}

/// What a kind of work is called in tables; products by their matrices.
fn name_of(work: Work) -> String {
    match work {
        Work::Linear("attended") => "linear o".to_owned(),
        Work::Linear("gated") => "linear down".to_owned(),
        Work::Linear(buffer) => format!("linear {buffer}"),
        Work::Embed => "embed".to_owned(),
        Work::RmsNorm => "rmsnorm".to_owned(),
        Work::HeadNorm => "head norm".to_owned(),
        Work::Rope => "rope, store".to_owned(),
        Work::Attention => "attention".to_owned(),
        Work::SiluMul => "silu_mul".to_owned(),
        Work::Select => "select".to_owned(),
        Work::Sampling => "sampling".to_owned(),
        Work::Copies => "copies".to_owned(),
    }
}
