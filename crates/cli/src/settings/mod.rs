//! Settings: one table, four sources. A flag wins over the environment, which wins over the file, which wins over the
//! default; `brigade config show` prints where each value came from.

mod file;
mod flags;
mod reference;
mod table;
mod value;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use anyhow::{Context, Result};
use clap::ArgMatches;

pub(crate) use flags::add_flags;
pub(crate) use reference::reference_page;
use table::{SETTINGS, Setting};
pub(crate) use value::Value;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File(PathBuf),
    Variable(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "${name}"),
            Self::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// All settings with their values.
pub(crate) struct Settings(BTreeMap<&'static str, (Value, Origin)>);

impl Settings {
    /// Gathers all sources. `variable` looks an environment variable up.
    pub(crate) fn gather(
        matches: &ArgMatches,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        flags::check_compatible(matches)?;
        let path = matches
            .get_one::<PathBuf>("config")
            .cloned()
            .or_else(|| variable("BRIGADE_CONFIG").map(PathBuf::from));
        let file = path.as_deref().map(file::read).transpose()?;
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let found = flags::given(setting, matches)
                .or_else(|| in_environment(setting, &variable))
                .or_else(|| file.as_ref().and_then(|file| file.get(setting)));
            let resolved = match found {
                Some((text, origin)) => {
                    let value = Value::parse(setting.kind, &text)
                        .with_context(|| format!("{} = `{text}` (from {origin})", setting.key))?;
                    (value, origin)
                }
                None if setting.default.is_empty() => (Value::Absent, Origin::Default),
                None => (Value::parse(setting.kind, setting.default)?, Origin::Default),
            };
            values.insert(setting.key, resolved);
        }
        Ok(Self(values))
    }

    /// Keys, values and where they came from, in the table's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &Value, &Origin)> {
        SETTINGS.iter().map(|setting| {
            let (value, origin) = &self.0[setting.key];
            (setting.key, value, origin)
        })
    }

    /// A text that was given, not the default.
    pub(crate) fn named(&self, key: &str) -> Option<&str> {
        let given = self.0.get(key).is_some_and(|(_, origin)| *origin != Origin::Default);
        given.then(|| self.text(key)).flatten()
    }

    fn value(&self, key: &str) -> &Value {
        &self.0.get(key).unwrap_or_else(|| panic!("no setting is called {key}")).0
    }

    /// A text, if there is one.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Value::Text(text) => Some(text),
            Value::Absent => None,
            other => panic!("{key} is no text: {other:?}"),
        }
    }

    /// A whole number or a size, if there is one.
    pub(crate) fn integer(&self, key: &str) -> Option<u64> {
        match self.value(key) {
            Value::Integer(value) => Some(*value),
            Value::Absent => None,
            other => panic!("{key} is no integer: {other:?}"),
        }
    }

    /// A whole number that has a default and whose range fits 32 bits.
    pub(crate) fn count(&self, key: &str) -> u32 {
        let value = self.integer(key).expect("counts have defaults");
        u32::try_from(value).expect("the range of a count fits 32 bits")
    }

    /// A number that has a default.
    pub(crate) fn number(&self, key: &str) -> f64 {
        match self.value(key) {
            Value::Number(value) => *value,
            other => panic!("{key} is no number: {other:?}"),
        }
    }

    /// A switch.
    pub(crate) fn switch(&self, key: &str) -> bool {
        match self.value(key) {
            Value::Switch(value) => *value,
            other => panic!("{key} is no switch: {other:?}"),
        }
    }

    /// A list, empty if absent.
    pub(crate) fn list(&self, key: &str) -> &[String] {
        match self.value(key) {
            Value::List(list) => list,
            Value::Absent => &[],
            other => panic!("{key} is no list: {other:?}"),
        }
    }
}

fn in_environment(
    setting: &Setting,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<(String, Origin)> {
    let own = setting.variable();
    std::iter::once(own.as_str())
        .chain(setting.env_aliases.iter().copied())
        .find_map(|name| variable(name).map(|text| (text, Origin::Variable(name.to_owned()))))
}

#[cfg(test)]
mod tests;
