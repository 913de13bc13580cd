//! The program `brigade`: parses the command line, builds the parts and wires them. Nothing else knows all of them.

mod backend;
mod client;
mod commands;
mod load;
mod progress;
mod settings;

use std::{io::Write, process::ExitCode};

use clap::{ArgMatches, Command};

use settings::Settings;

fn main() -> ExitCode {
    let matches = commands::command().get_matches();
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A broken standard error changes nothing about the outcome.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let (name, matches) = matches.subcommand().expect("clap demands a command");
    let gather = |matches: &ArgMatches| Settings::gather(matches, |name| std::env::var(name).ok());
    match name {
        "serve" => commands::serve::run(&gather(matches)?, matches),
        "chat" => commands::chat::run(&gather(matches)?, matches),
        "generate" => commands::generate::run(&gather(matches)?, matches),
        "pull" => commands::pull::run(&gather(matches)?, matches),
        "models" => commands::models::run(&gather(matches)?),
        "inspect" => commands::inspect::run(&gather(matches)?, matches),
        "replay" => commands::replay::run(matches),
        "simulate" => commands::simulate::run_command(matches),
        "config" => commands::config::run(matches, gather),
        other => unreachable!("clap knows no command {other}"),
    }
}

/// The program's own version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Shorthand for a subcommand with all settings as flags.
fn with_settings(command: Command) -> Command {
    settings::add_flags(command, &["model", "server", "engine", "log"])
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::commands::command().debug_assert();
    }
}
