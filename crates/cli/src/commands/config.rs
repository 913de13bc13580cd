//! `brigade config`: settings with their sources.

use anyhow::Result;
use clap::ArgMatches;

use crate::settings::{Settings, Value, reference_page};

/// Shows settings.
pub(crate) fn run(
    matches: &ArgMatches,
    gather: impl Fn(&ArgMatches) -> Result<Settings>,
) -> Result<()> {
    match matches.subcommand() {
        Some(("show", matches)) => {
            let settings = gather(matches)?;
            for (key, value, origin) in settings.iter() {
                let shown = match value {
                    // Keys are secrets; how many there are is not.
                    Value::List(list) if key.ends_with("_key") => format!("({} set)", list.len()),
                    value => value.to_string(),
                };
                println!("{key:<30} {shown:<20} {origin}");
            }
        }
        _ => print!("{}", reference_page()),
    }
    Ok(())
}
