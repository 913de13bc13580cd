//! `brigade pull`: fetches a model.

use anyhow::Result;
use clap::ArgMatches;

use crate::{load::resolve, settings::Settings};

/// Fetches a model and prints where it is.
pub(crate) fn run(settings: &Settings, matches: &ArgMatches) -> Result<()> {
    let resolved = resolve(settings, super::model(matches))?;
    println!("{}", resolved.path.display());
    Ok(())
}
