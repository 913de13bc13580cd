//! Values of settings, parsed from text and checked.

use std::fmt;

use anyhow::{Result, bail};

use super::table::Kind;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Absent,
    Text(String),
    Integer(u64),
    Number(f64),
    Switch(bool),
    List(Vec<String>),
}

impl Value {
    /// Reads a value of a kind; the error says what is expected.
    pub(crate) fn parse(kind: Kind, text: &str) -> Result<Self> {
        let text = text.trim();
        Ok(match kind {
            Kind::Text if text.is_empty() => Self::Absent,
            Kind::Text => Self::Text(text.to_owned()),
            Kind::Integer(min, max) => match text.parse() {
                Ok(value) if (min..=max).contains(&value) => Self::Integer(value),
                _ => bail!("expected a whole number from {min} to {max}"),
            },
            Kind::Number(min, max) => match text.parse() {
                Ok(value) if (min..=max).contains(&value) => Self::Number(value),
                _ => bail!("expected a number from {min} to {max}"),
            },
            Kind::Bytes(least) => match parse_bytes(text)? {
                0 if least > 0 => {
                    bail!("expected a size above zero, such as 1048576, 512MiB or 4GB")
                }
                bytes => Self::Integer(bytes),
            },
            Kind::Choice(words) if words.contains(&text) => Self::Text(text.to_owned()),
            Kind::Choice(words) => bail!("expected one of {}", words.join(", ")),
            Kind::Switch => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Self::Switch(true),
                "false" | "0" | "no" | "off" | "" => Self::Switch(false),
                _ => bail!("expected true or false"),
            },
            Kind::List => Self::List(
                text.split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .map(str::to_owned)
                    .collect(),
            ),
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("(none)"),
            Self::Text(text) => f.write_str(text),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Switch(value) => write!(f, "{value}"),
            Self::List(list) => f.write_str(&list.join(",")),
        }
    }
}

/// `4096`, `8MiB`, `1.5GB`.
fn parse_bytes(text: &str) -> Result<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("G", 1 << 30),
        ("M", 1 << 20),
    ];
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number.trim(), *unit)))
        .unwrap_or((text, 1));
    match number.parse::<f64>() {
        Ok(value) if value >= 0.0 && value * (unit as f64) < 1e18 => {
            Ok((value * unit as f64) as u64)
        }
        _ => bail!("expected a size, such as 1048576, 512MiB or 4GB"),
    }
}
