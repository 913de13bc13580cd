//! A journal's file, written by a thread of its own.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use crate::{
    encoding::{Output, framed},
    journal::opening,
    record::Record,
    setup::Setup,
};

/// What is collected before the thread gets it.
const CHUNK_BYTES: usize = 32 << 10;
/// Chunks that may wait for the disk; if it is slower than that, recording ends rather than to hold up steps.
const CHUNKS_MAX: usize = 256;

/// Writes a journal to a file until it is full, the disk fails or falls behind; then the file ends there and says so,
/// and the log as well. Dropping it writes the rest.
#[derive(Debug)]
pub struct JournalFile {
    chunks: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    pending: Vec<u8>,
    bytes: u64,
    bytes_max: u64,
}

impl JournalFile {
    /// Creates the file, in place of one that is there, for a journal of at most about `bytes_max` bytes.
    pub fn create(path: &Path, setup: &Setup, bytes_max: u64) -> io::Result<Self> {
        let mut file = create_private(path)?;
        file.write_all(&opening(setup))?;
        let (chunks, received) = sync_channel::<Vec<u8>>(CHUNKS_MAX);
        let shown = path.display().to_string();
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(move || {
            for chunk in received {
                if let Err(error) = file.write_all(&chunk) {
                    tracing::error!(path = shown, %error, "the journal ends here");
                    return;
                }
            }
        })?;
        let (chunks, thread) = (Some(chunks), Some(thread));
        Ok(Self { chunks, thread, pending: Vec::new(), bytes: 0, bytes_max })
    }

    pub(crate) fn push(&mut self, frame: &[u8]) {
        if self.chunks.is_none() {
            return;
        }
        self.bytes += frame.len() as u64;
        if self.bytes > self.bytes_max {
            self.end(&Record::Full);
            tracing::warn!(bytes = self.bytes_max, "the journal is full and ends here");
            return;
        }
        self.pending.extend_from_slice(frame);
        if self.pending.len() >= CHUNK_BYTES {
            self.flush();
        }
    }

    /// Writes the last record and no more.
    fn end(&mut self, record: &Record) {
        let mut encoded = Output::default();
        record.encode(&mut encoded);
        self.pending.extend(framed(&encoded.0));
        self.flush();
        self.chunks = None;
    }

    /// Hands what is collected to the thread.
    pub(crate) fn flush(&mut self) {
        let Some(chunks) = self.chunks.as_ref().filter(|_| !self.pending.is_empty()) else {
            return;
        };
        if chunks.try_send(std::mem::take(&mut self.pending)).is_err() {
            tracing::error!(
                "the journal's file cannot be written, or not fast enough: it ends here"
            );
            self.chunks = None;
        }
    }
}

/// Creates a file that its owner alone can read, in place of one that is there.
pub fn create_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let about = file.metadata()?;
    if about.is_file() {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

impl Drop for JournalFile {
    fn drop(&mut self) {
        if self.chunks.is_some() {
            self.end(&Record::End);
        }
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
