//! What is in the caches.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::Alias;
use crate::Error;

/// Files in one folder of the cache are counted up to this many.
const FILES_MAX: usize = 10_000;

/// A model in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedModel {
    /// The name that leads to it.
    pub name: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Bytes it takes.
    pub bytes: u64,
}

/// Lists the models of both caches, in the order of names.
pub(super) fn list(
    cache_dir: &Path,
    aliases: &[Alias],
    hub_cache_dir: &Path,
) -> Result<Vec<CachedModel>, Error> {
    let mut models = Vec::new();
    for alias in aliases {
        let path = alias.place(cache_dir);
        if let Ok(metadata) = fs::metadata(&path) {
            models.push(CachedModel { name: alias.name.clone(), path, bytes: metadata.len() });
        }
    }
    for repository in entries(hub_cache_dir)? {
        let folder = repository.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(name) = folder.strip_prefix("models--") else { continue };
        let name = name.replacen("--", "/", 1);
        for snapshot in entries(&repository.join("snapshots"))? {
            list_snapshot(&name, &snapshot, &mut models)?;
        }
    }
    models.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    Ok(models)
}

/// Adds what a snapshot of a repository has: a folder with safetensors as one model, each GGUF file as one.
fn list_snapshot(name: &str, snapshot: &Path, models: &mut Vec<CachedModel>) -> Result<(), Error> {
    // Dangling links are files that are not here.
    let files: Vec<(PathBuf, u64)> = entries(snapshot)?
        .into_iter()
        .filter_map(|path| {
            fs::metadata(&path).ok().filter(fs::Metadata::is_file).map(|m| (path, m.len()))
        })
        .collect();
    let has_extension =
        |path: &Path, extension: &str| path.extension().is_some_and(|e| e == extension);
    for (path, bytes) in files.iter().filter(|(path, _)| has_extension(path, "gguf")) {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        models.push(CachedModel {
            name: format!("{name}:{file}"),
            path: path.clone(),
            bytes: *bytes,
        });
    }
    let is_folder = files.iter().any(|(path, _)| path.ends_with("config.json"))
        && files.iter().any(|(path, _)| has_extension(path, "safetensors"));
    if is_folder {
        let bytes = files.iter().map(|(_, bytes)| bytes).sum();
        models.push(CachedModel { name: name.to_owned(), path: snapshot.to_owned(), bytes });
    }
    Ok(())
}

/// The entries of a folder; none if there is no such folder.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Io { action: "list", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let paths = entries.take(FILES_MAX).map(|entry| Ok(entry.map_err(failed)?.path()));
    paths.collect()
}
