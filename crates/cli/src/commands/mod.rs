//! The commands, one file each, and the command line that leads to them.

pub(crate) mod chat;
pub(crate) mod config;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod models;
pub(crate) mod pull;
pub(crate) mod replay;
pub(crate) mod serve;
pub(crate) mod simulate;

use clap::{Arg, ArgMatches, Command};

use crate::{VERSION, settings::add_flags, with_settings};

const MODEL_HELP: &str = "A GGUF file, a Hugging Face folder, a hub id (organisation/name, with \
                          @revision or :file.gguf behind it), or an alias such as smollm2";

/// The whole command line.
pub(crate) fn command() -> Command {
    Command::new("brigade")
        .version(VERSION)
        .about("Serves language models over HTTP, on CPUs, from one binary")
        .after_help("Start with: brigade serve\nThen:       brigade chat")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(
            Command::new("serve").about("Serve a model over HTTP").arg(model_argument()),
        ))
        .subcommand(with_settings(
            Command::new("chat")
                .about("Talk to a model in the terminal")
                .after_help(
                    "Uses the server at --url, or the one at --host and --port if it serves the model, or else \
                     loads the model itself.\nIn the chat: /reset, /system TEXT, /quit; Ctrl-C stops an answer.",
                )
                .arg(model_argument())
                .arg(url_argument())
                .arg(
                    Arg::new("system")
                        .long("system")
                        .value_name("TEXT")
                        .help("A system message to start with"),
                )
                .args(sampling_arguments()),
        ))
        .subcommand(with_settings(
            Command::new("generate")
                .about("Continue a text")
                .arg(
                    Arg::new("prompt")
                        .required(true)
                        .value_name("PROMPT")
                        .help("The text to continue; - reads it from standard input"),
                )
                .arg(url_argument())
                .args(sampling_arguments()),
        ))
        .subcommand(model_settings(
            Command::new("pull")
                .about("Fetch a model into the cache and print where it is")
                .arg(model_argument()),
        ))
        .subcommand(model_settings(
            Command::new("models").about("List the models in the caches and the known aliases"),
        ))
        .subcommand(add_flags(
            Command::new("inspect")
                .about("Say what a model is: architecture, tensors, quantization, memory")
                .arg(model_argument())
                .arg(switch("tensors", "List every tensor"))
                .arg(switch("program", "Print the kernel calls of a step")),
            &["model", "engine"],
        ))
        .subcommand(replay::command())
        .subcommand(simulate::command())
        .subcommand(
            Command::new("config")
                .about("Show settings")
                .subcommand_required(true)
                .subcommand(with_settings(
                    Command::new("show").about("Print every setting, its value and its source"),
                ))
                .subcommand(
                    Command::new("reference").about("Print the reference page of all settings"),
                ),
        )
}

fn model_settings(command: Command) -> Command {
    add_flags(command, &["model"])
}

fn model_argument() -> Arg {
    Arg::new("MODEL").help(MODEL_HELP)
}

fn url_argument() -> Arg {
    Arg::new("url").long("url").value_name("URL").help("Talk to the server at this address")
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).action(clap::ArgAction::SetTrue)
}

fn sampling_arguments() -> [Arg; 4] {
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("N")
            .help(help)
            .help_heading("Sampling")
            .allow_negative_numbers(true)
    };
    [
        number("max-tokens", "Most tokens of an answer").value_parser(clap::value_parser!(u32)),
        number("temperature", "0 for the most likely token at each step")
            .value_parser(clap::value_parser!(f64)),
        number("top-p", "Draw from the most likely tokens that hold this much of the probability")
            .value_parser(clap::value_parser!(f64)),
        number("seed", "Draw the same tokens each time").value_parser(clap::value_parser!(i64)),
    ]
}

/// The sampling arguments as fields of a request.
fn sampling_fields(matches: &ArgMatches) -> serde_json::Map<String, serde_json::Value> {
    let mut fields = serde_json::Map::new();
    if let Some(&value) = matches.get_one::<u32>("max-tokens") {
        fields.insert("max_tokens".into(), value.into());
    }
    for (name, field) in [("temperature", "temperature"), ("top-p", "top_p")] {
        if let Some(&value) = matches.get_one::<f64>(name) {
            fields.insert(field.into(), value.into());
        }
    }
    if let Some(&value) = matches.get_one::<i64>("seed") {
        fields.insert("seed".into(), value.into());
    }
    fields
}

/// The model that the command names.
fn model(matches: &ArgMatches) -> Option<&str> {
    matches.get_one::<String>("MODEL").map(String::as_str)
}
