//! Names of models on the hub.

use std::{fmt, path::Path};

/// A model on the hub, `organisation/name[@revision][:file.gguf]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelName {
    pub(super) repository: String,
    pub(super) revision: Option<String>,
    pub(super) file: Option<String>,
}

impl ModelName {
    /// Reads a name; `None` if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if looks_like_path(text) {
            return None;
        }
        let (text, file) = match text.split_once(':') {
            Some((text, file)) => (text, Some(file)),
            None => (text, None),
        };
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        let (organisation, name) = repository.split_once('/')?;
        let good = is_word(organisation)
            && is_word(name)
            && revision.is_none_or(is_relative_path)
            && file.is_none_or(|file| file.ends_with(".gguf") && is_relative_path(file));
        good.then(|| Self {
            repository: repository.to_owned(),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        Ok(())
    }
}

/// Whether a text is meant as a path, even if nothing is there.
pub(super) fn looks_like_path(text: &str) -> bool {
    text.starts_with(['/', '.', '~', '\\'])
        || text.ends_with('/')
        || (text.ends_with(".gguf") && !text.contains(':'))
}

/// What to call the model at a path: the file's or folder's own name.
pub(super) fn of_path(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if full.is_dir() { full.file_name() } else { full.file_stem() };
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|| "model".to_owned())
}

fn is_word(text: &str) -> bool {
    // A name must not begin with a dot, so that it is never "..".
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(is_word_byte)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn is_relative_path(text: &str) -> bool {
    text.split('/').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let name = ModelName::parse("org/name@refs/pr/3:sub/file.Q4_1.gguf").unwrap();
        assert_eq!(name.repository, "org/name");
        assert_eq!(name.revision.as_deref(), Some("refs/pr/3"));
        assert_eq!(name.file.as_deref(), Some("sub/file.Q4_1.gguf"));
        assert_eq!(name.to_string(), "org/name@refs/pr/3:sub/file.Q4_1.gguf");
        assert_eq!(ModelName::parse("a/b").unwrap().to_string(), "a/b");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "name",
            "a/b/c",
            "a/",
            "/a",
            "a/..",
            "../a",
            "./a",
            "~/a",
            "a/b:c",
            "a/b:../c.gguf",
            "a/b@",
            "a/b@..",
            "a b/c",
            "models/file.gguf",
            "a/b:",
            "a/b:/etc/x.gguf",
            "a/b?x=1",
            "a/b@x\r\ny",
        ] {
            assert_eq!(ModelName::parse(text), None, "{text:?}");
        }
    }
}
