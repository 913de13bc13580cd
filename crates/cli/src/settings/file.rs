//! Settings as a TOML file: a table a section, a key a setting.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{
    Origin,
    table::{SETTINGS, Setting},
};

/// A file that was read.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    table: toml::Table,
}

/// Reads a file; a key that no setting has is an error.
pub(super) fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the settings file {}", path.display()))?;
    let table: toml::Table =
        text.parse().with_context(|| format!("the settings file {}", path.display()))?;
    for (section, content) in &table {
        let Some(content) = content.as_table() else {
            bail!("{}: `{section}` stands outside of a section such as [server]", path.display());
        };
        for name in content.keys() {
            let key = format!("{section}.{name}");
            if !SETTINGS.iter().any(|setting| setting.key == key) {
                bail!("{}: there is no setting `{key}`", path.display());
            }
        }
    }
    Ok(File { path: path.to_owned(), table })
}

impl File {
    /// A setting's value as the text that a flag would have.
    pub(super) fn get(&self, setting: &Setting) -> Option<(String, Origin)> {
        let value = self.table.get(setting.section())?.get(setting.name())?;
        let text = match value {
            toml::Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(","),
            other => plain(other),
        };
        Some((text, Origin::File(self.path.clone())))
    }
}

fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
