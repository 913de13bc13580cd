//! Putting files in their place: whole, checked, and by one program at a time.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::Progress;
use crate::Error;

const CHUNK_BYTES: usize = 256 << 10;

/// Held while files of one model are being fetched. Dropping it lets the next program go on.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Waits until no other program holds the lock called `name`, and takes it.
pub(super) fn lock(locks_dir: &Path, name: &str) -> Result<Lock, Error> {
    let path = locks_dir.join(format!("{}.lock", name.replace('/', "--")));
    let failed = |source| Error::Io { action: "lock", path: path.clone(), source };
    fs::create_dir_all(locks_dir).map_err(failed)?;
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(Lock { _file: file })
}

/// Copies `from` to `place`, which appears only when all of it is there and has this checksum.
pub(super) fn put_checked(
    from: &mut dyn Read,
    place: &Path,
    sha256: &str,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let failed = |action| move |source| Error::Io { action, path: place.to_owned(), source };
    let dir = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(failed("create the folder of"))?;
    // In the same folder, so that renaming is atomic; removed when dropped.
    let mut file = tempfile::Builder::new()
        .prefix(".part-")
        .tempfile_in(dir)
        .map_err(failed("create a file beside"))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let len = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("fetch")(error)),
        };
        hash.update(&chunk[..len]);
        file.write_all(&chunk[..len]).map_err(failed("write"))?;
        progress.advance(len as u64);
    }
    check(place, sha256, hash)?;
    file.as_file().sync_all().map_err(failed("write"))?;
    make_readable(file.as_file()).map_err(failed("set the permissions of"))?;
    file.persist(place).map_err(|error| failed("rename a file to")(error.error))?;
    // The name itself must survive a crash, too. Where folders cannot be synchronised, this is the best there is.
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
    Ok(())
}

/// Temporary files are for their owner's eyes only; a cache may be shared.
fn make_readable(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

/// Checks a file's checksum.
pub(super) fn check_file(path: &Path, sha256: &str) -> Result<(), Error> {
    let failed = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).map_err(failed)?;
    check(path, sha256, hash)
}

fn check(what: &Path, expected: &str, hash: Sha256) -> Result<(), Error> {
    let found = format!("{:x}", hash.finalize());
    if found == expected {
        return Ok(());
    }
    Err(Error::Checksum { what: what.display().to_string(), expected: expected.to_owned(), found })
}
