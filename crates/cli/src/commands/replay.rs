//! `brigade replay`: a journal's decisions, made again and shown.

use std::{fs, io::Write, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Command, value_parser};
use journal::{Error, Journal, replay, show};

use super::switch;

/// The command line.
pub(super) fn command() -> Command {
    let seconds = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("S").value_parser(value_parser!(f64)).help(help)
    };
    Command::new("replay")
        .about("Make the decisions of a journal again, compare them, and show them")
        .after_help(
            "Journals come of `brigade serve --journal FILE`, and of SIGUSR1 to a server: that one begins some time ago \
             and not at the start. Fails if a plan differs from the recorded one: another version of the program may \
             decide differently.",
        )
        .arg(
            Arg::new("JOURNAL")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The journal's file"),
        )
        .arg(switch("steps", "Print every step's plan"))
        .arg(
            Arg::new("svg")
                .long("svg")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Draw a timeline: requests, positions of steps, blocks in use"),
        )
        .arg(seconds("from-s", "The timeline begins here"))
        .arg(seconds("to-s", "The timeline ends here"))
}

/// Replays a journal.
pub(crate) fn run(matches: &ArgMatches) -> Result<()> {
    let path = matches.get_one::<PathBuf>("JOURNAL").expect("clap demands it");
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let journal = Journal::read(&bytes).with_context(|| path.display().to_string())?;
    let mut out = std::io::stdout().lock();
    let written = &journal.setup.version;
    if written != crate::VERSION {
        writeln!(out, "written by version {written}, replayed by {}", crate::VERSION)?;
    }
    let replay = match replay(&journal, matches.get_flag("steps")) {
        Ok(replay) => replay,
        Err(error @ (Error::BeginningLost { .. } | Error::StateVersion { .. })) => {
            out.write_all(show::listing(&journal).as_bytes())?;
            return Err(error).with_context(|| path.display().to_string());
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    out.write_all(show::text(&replay, journal.damage.as_ref()).as_bytes())?;
    if let Some(picture) = matches.get_one::<PathBuf>("svg") {
        fs::write(picture, show::timeline(&replay, stretch(matches)?))
            .with_context(|| format!("writing {}", picture.display()))?;
    }
    if replay.divergence.is_some() {
        bail!("{}: the replay differs from what was recorded", path.display());
    }
    Ok(())
}

fn stretch(matches: &ArgMatches) -> Result<Option<std::ops::Range<Duration>>> {
    let second = |name: &str| {
        let Some(&seconds) = matches.get_one::<f64>(name) else { return Ok(None) };
        let time = Duration::try_from_secs_f64(seconds);
        time.map(Some).with_context(|| format!("--{name} {seconds}"))
    };
    let (from, to) = (second("from-s")?, second("to-s")?);
    if from.is_none() && to.is_none() {
        return Ok(None);
    }
    let stretch = from.unwrap_or_default()..to.unwrap_or(Duration::from_secs(u32::MAX.into()));
    if stretch.is_empty() {
        bail!("--to-s is not after --from-s");
    }
    Ok(Some(stretch))
}
