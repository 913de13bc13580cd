//! Log lines to standard error.

use std::{
    io::{self, IsTerminal},
    str::FromStr,
};

use tracing_subscriber::{EnvFilter, fmt};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("log filter `{filter}` is not valid: {source}")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The name of the format is unknown.
    #[error("log format `{given}` is not one of text, json")]
    Format {
        /// As given.
        given: String,
    },
    /// Logs were set up before.
    #[error("logs are set up already: {reason}")]
    AlreadySet {
        /// As the subscriber says it.
        reason: String,
    },
}

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self, Error> {
        match given {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Error::Format { given: given.to_owned() }),
        }
    }
}

/// Sends what `filter` lets through (`info`, `warn,engine=debug`) to standard error from now on.
pub fn init(format: LogFormat, filter: &str) -> Result<(), Error> {
    let env_filter = parse(filter)?;
    // Colours are for people; in a file they are noise.
    let colours = io::stderr().is_terminal();
    let builder = fmt().with_env_filter(env_filter).with_writer(io::stderr).with_ansi(colours);
    let outcome = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    outcome.map_err(|reason| Error::AlreadySet { reason: reason.to_string() })
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| Error::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_formats_are_checked() {
        assert!(parse("warn,engine=debug").is_ok());
        let error = parse("engine=loud").unwrap_err().to_string();
        assert!(error.contains("engine=loud"), "{error}");
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert!("yaml".parse::<LogFormat>().unwrap_err().to_string().contains("yaml"));
    }
}
