//! Files as memory. The only place of this crate where `unsafe` is.
//!
//! A mapped file must not be changed or truncated while it is open: readers would see other bytes than were checked,
//! and reading past a new end kills the process. Model files are written once, under another name, and renamed when
//! they are whole, so that this holds for everything that Brigade itself puts on a disk; an operator who replaces a
//! model must do the same.

#![allow(unsafe_code, reason = "mapping a file is unsafe, because others may change it")]

use std::{fs::File, io, ops::Deref, path::Path};

use memmap2::Mmap;

/// Bytes of a file, or bytes that stand for one.
#[derive(Debug)]
pub(crate) enum FileBytes {
    Mapped { map: Mmap, file: File },
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps a file.
    pub(crate) fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // An empty file cannot be mapped.
        if file.metadata()?.len() == 0 {
            return Ok(Self::Owned(Vec::new()));
        }
        // SAFETY: the bytes are only read, and the file stays as it is; see the module's documentation.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self::Mapped { map, file })
    }

    /// Copies the bytes from `start` on. Those of a file are read and not touched where they are mapped: for bytes that
    /// are wanted once, mapping each page takes longer than copying it.
    pub(crate) fn copy_to(&self, start: usize, target: &mut [u8]) -> io::Result<()> {
        #[cfg(unix)]
        if let Self::Mapped { file, .. } = self {
            return std::os::unix::fs::FileExt::read_exact_at(file, target, start as u64);
        }
        target.copy_from_slice(&self[start..][..target.len()]);
        Ok(())
    }

    /// Tells the system that a range will not be needed soon. Only whole pages within the range are given back.
    pub(crate) fn release(&self, start: usize, len: usize) {
        /// At least as large as any page in use, so that multiples of it are page boundaries.
        const PAGE_BYTES_MAX: usize = 64 << 10;
        let first = start.next_multiple_of(PAGE_BYTES_MAX);
        let last = (start + len) / PAGE_BYTES_MAX * PAGE_BYTES_MAX;
        #[cfg(unix)]
        if let Self::Mapped { map, .. } = self
            && first < last
        {
            // SAFETY: the mapping is of a file and never written to, so pages given back are read from it again.
            let advised = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, last - first)
            };
            // This is advice: where it cannot be taken, nothing is lost but memory.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = (first, last);
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped { map, .. } => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
