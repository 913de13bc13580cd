//! `brigade generate`: continues a text.

use std::io::{Read, Write};

use anyhow::Result;
use clap::ArgMatches;

use crate::{
    client::{Client, Piece},
    settings::Settings,
};

/// Tokens where the command names no number: a paragraph or two.
const TOKENS_DEFAULT: u32 = 256;

/// Prints the continuation of a text as it comes.
pub(crate) fn run(settings: &Settings, matches: &ArgMatches) -> Result<()> {
    telemetry::logs::init(telemetry::logs::LogFormat::Text, "warn")?;
    let mut prompt = matches.get_one::<String>("prompt").cloned().unwrap_or_default();
    if prompt == "-" {
        prompt.clear();
        std::io::stdin().read_to_string(&mut prompt)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let url = matches.get_one::<String>("url").map(String::as_str);
    // A model that the settings name counts only where it was named: any other server's model will do.
    let named = settings.named("model.model");
    let client = Client::connect(&runtime, settings, url, named)?;
    let mut fields = super::sampling_fields(matches);
    fields.entry("max_tokens").or_insert(TOKENS_DEFAULT.into());
    let mut pieces = client.complete(&prompt, &fields);
    let mut out = std::io::stdout();
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Text(text)) => {
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
            Some(Piece::End) | None => break,
            Some(Piece::Failed(error)) => return Err(error),
        }
    }
    writeln!(out)?;
    Ok(())
}
