//! How fetching is shown to people.

/// Told what is being fetched, and how far it is. The methods do nothing unless implemented.
pub trait Progress: Send + Sync {
    /// Something worth a line, such as which source is tried.
    fn note(&self, message: &str) {
        let _ = message;
    }

    /// A file begins; its size, if known.
    fn begin(&self, file: &str, bytes_total: Option<u64>) {
        let _ = (file, bytes_total);
    }

    /// This many more bytes of it are here.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The file is complete, or given up.
    fn end(&self) {}
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
