//! Settings as command-line flags.

use std::{io::Write, path::PathBuf};

use anyhow::{Result, bail};
use clap::{
    Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, parser::ValueSource,
};

use super::{
    Origin,
    table::{COMPATIBLE, Effect, Kind, SETTINGS, Setting},
};

/// Adds a flag for every setting of some sections.
pub(crate) fn add_flags(command: Command, sections: &[&str]) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("A TOML file with settings [env: BRIGADE_CONFIG]");
    let command = command.arg(config);
    let command = SETTINGS
        .iter()
        .filter(|setting| sections.contains(&setting.section()))
        .fold(command, |command, setting| command.arg(argument(setting)));
    COMPATIBLE.iter().fold(command, |command, compatible| {
        let argument = Arg::new(compatible.flag).long(compatible.flag).hide(true);
        command.arg(match compatible.effect {
            Effect::Switch(_) => argument.action(ArgAction::SetTrue),
            Effect::MustBeOne(_) | Effect::Value(_) => argument,
        })
    })
}

fn argument(setting: &'static Setting) -> Arg {
    let mut help = format!("{} [env: {}]", setting.help, setting.variable());
    if !setting.default.is_empty() && !matches!(setting.kind, Kind::Switch) {
        help.push_str(&format!(" [default: {}]", setting.default));
    }
    let heading = match setting.section() {
        "model" => "Model",
        "server" => "Server",
        "engine" => "Engine",
        _ => "Logs",
    };
    let argument = Arg::new(setting.key)
        .long(setting.flag())
        .visible_aliases(setting.flag_aliases.iter().copied())
        .help(help)
        .help_heading(heading);
    match setting.kind {
        Kind::Switch => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL"),
        Kind::List => argument.action(ArgAction::Append).num_args(1..).value_name("NAME,…"),
        Kind::Choice(words) => argument.value_parser(PossibleValuesParser::new(words)),
        Kind::Integer(..) | Kind::Number(..) => argument.value_name("N"),
        Kind::Bytes(_) => argument.value_name("BYTES"),
        Kind::Text => argument.value_name("TEXT"),
    }
}

/// The setting's text on the command line, if it is there.
pub(super) fn given(setting: &Setting, matches: &ArgMatches) -> Option<(String, Origin)> {
    let on_command_line = matches!(
        matches.try_contains_id(setting.key),
        Ok(true) if matches.value_source(setting.key) == Some(ValueSource::CommandLine)
    );
    let texts: Vec<String> = on_command_line
        .then(|| matches.get_many::<String>(setting.key))
        .flatten()?
        .cloned()
        .collect();
    Some((texts.join(","), Origin::Flag(setting.flag())))
}

/// Checks flags that are there only so that other servers' command lines carry over.
pub(super) fn check_compatible(matches: &ArgMatches) -> Result<()> {
    for compatible in COMPATIBLE {
        let flag = compatible.flag;
        let value = || matches.try_get_one::<String>(flag).ok().flatten();
        let ignored = match compatible.effect {
            Effect::MustBeOne(what) => match value().map(String::as_str) {
                None | Some("1") => None,
                Some(other) => bail!("--{flag} {other}: {what} is not there yet, only 1 works"),
            },
            Effect::Value(why) => value().map(|_| why),
            Effect::Switch(why) => {
                matches!(matches.try_get_one::<bool>(flag), Ok(Some(true))).then_some(why)
            }
        };
        if let Some(why) = ignored {
            // Logs are not set up yet, and a broken standard error is no reason to stop.
            let _ = writeln!(std::io::stderr(), "--{flag} changes nothing: {why}");
        }
    }
    Ok(())
}
