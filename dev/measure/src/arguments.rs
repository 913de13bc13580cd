//! The command line.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use device::cpu::{Cpu, Rung};
use weights::resolve::{HubSettings, Resolver, Silent};

use crate::generate::{FileFormat, shape_named};

/// The model that everybody runs first.
const MODEL_DEFAULT: &str = "smollm2";
/// Names the folder in which models are kept that are not files; `cargo xtask bench` sets it.
const CACHE_VARIABLE: &str = "BRIGADE_CACHE";

/// The whole command line.
pub(crate) fn command() -> Command {
    Command::new("measure")
        .about("Measures kernels and models against what this machine could do at best")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("kernels")
                .about("Times every kernel family at the shapes of real models")
                .args(cpu_arguments())
                .arg(Arg::new("filter").long("filter").value_name("TEXT").help(
                    "Only lines that contain each of these words, such as \"linear q4_0 rows 1\"",
                )),
        )
        .subcommand(
            Command::new("model")
                .about(
                    "Times a model: loading, prefill, decode, the engine, and where the time goes",
                )
                .args(cpu_arguments())
                .arg(model_argument())
                .arg(
                    Arg::new("json")
                        .long("json")
                        .value_name("FILE")
                        .value_parser(value_parser!(PathBuf))
                        .help("Write all figures to this file as well"),
                ),
        )
        .subcommand(
            Command::new("gpu")
                .about("Times a model on the first GPU, beside what the GPU would allow")
                .arg(model_argument())
                .arg(switch("dummy", "Random weights: the model's file needs no tensors"))
                .arg(switch(
                    "no-target",
                    "Steps take as long as they take, as for work that nobody waits for",
                ))
                .arg(switch("steps", "Only steps of several numbers of streams, without an engine"))
                .arg(switch("profile", "Where the time of a step goes, by kernel family")),
        )
        .subcommand(
            Command::new("perplexity")
                .about("How well a model predicts a text, on each rung, beside the same in float32")
                .args(cpu_arguments())
                .arg(model_argument()),
        )
        .subcommand(
            Command::new("sharing")
                .about("What requests do to one another: a long prompt, a second turn, tenants")
                .args(cpu_arguments())
                .arg(model_argument())
                .arg(
                    Arg::new("turns")
                        .long("turns")
                        .value_name("NUMBER")
                        .value_parser(value_parser!(u16).range(1..))
                        .help(
                            "Only a long prompt among short ones, so many times without and with",
                        ),
                ),
        )
        .subcommand(
            Command::new("speculation")
                .about(
                    "What guessing next tokens saves or costs, for answers that repeat and others",
                )
                .args(cpu_arguments())
                .arg(model_argument()),
        )
        .subcommand(gen_model())
}

fn gen_model() -> Command {
    let required = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).required(true).help(help)
    };
    Command::new("gen-model")
        .about("Writes a GGUF file with the shape of a real model and random weights")
        .arg(
            required("shape", "SHAPE", "smollm2-135m, llama-1b, llama-8b or qwen-0.5b")
                .value_parser(shape_named),
        )
        .arg(
            required(
                "quant",
                "FORMAT",
                "q4_0, q4_1, q5_0, q5_1, q8_0, q4_k_m, q5_k_m, q6_k, bf16, f16 or f32",
            )
            .value_parser(|text: &str| text.parse::<FileFormat>()),
        )
        .arg(required("output", "FILE", "Where to write it").value_parser(value_parser!(PathBuf)))
        .arg(switch("no-weights", "Leave the tensors out, for --load-format dummy"))
        .arg(
            Arg::new("seed")
                .long("seed")
                .value_name("NUMBER")
                .value_parser(value_parser!(u64))
                .help("Another number, other weights; 0 if absent"),
        )
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn model_argument() -> Arg {
    Arg::new("model")
        .value_name("MODEL")
        .default_value(MODEL_DEFAULT)
        .help("A GGUF file, a Hugging Face folder, a hub id or an alias")
}

fn cpu_arguments() -> [Arg; 2] {
    [
        Arg::new("rung")
            .long("rung")
            .value_name("RUNG")
            .value_parser(|text: &str| text.parse::<Rung>())
            .help("The widest instruction set to use; otherwise the widest there is"),
        Arg::new("threads")
            .long("threads")
            .value_name("NUMBER")
            .value_parser(value_parser!(u16).range(1..))
            .help("How many threads compute; otherwise one for each processor"),
    ]
}

/// The CPU as the command line wants it used. A rung that was named and is not there is an error: figures of another
/// one would be taken for its.
pub(crate) fn cpu(matches: &ArgMatches) -> Result<Arc<Cpu>> {
    let rung = matches.get_one::<Rung>("rung").copied();
    let threads = matches.get_one::<u16>("threads").copied();
    let threads = threads.map_or_else(Cpu::default_threads, usize::from);
    let widest = Rung::ALL[Rung::ALL.len() - 1];
    let cpu = Cpu::new(rung.unwrap_or(widest), threads);
    if let Some(rung) = rung.filter(|rung| *rung != cpu.isa.rung()) {
        anyhow::bail!("this CPU has no {rung}: its widest instruction set is {}", cpu.isa.rung());
    }
    Ok(Arc::new(cpu))
}

/// The file or folder of the model that the command line names, fetched if need be.
pub(crate) fn model_path(matches: &ArgMatches) -> Result<PathBuf> {
    let model = matches.get_one::<String>("model").map_or(MODEL_DEFAULT, String::as_str);
    let path = PathBuf::from(model);
    if path.exists() {
        return Ok(path);
    }
    let cache = std::env::var_os(CACHE_VARIABLE).with_context(|| {
        format!("`{model}` is no file, and {CACHE_VARIABLE} does not say where models are kept")
    })?;
    let hub = HubSettings::from_env(|name| std::env::var(name).ok());
    let resolved = Resolver::new(cache.into(), hub).resolve(model, &Silent);
    Ok(resolved.with_context(|| format!("model `{model}`"))?.path)
}
