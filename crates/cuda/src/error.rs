//! What can go wrong with a GPU.

use std::path::PathBuf;

use cudarc::{cublaslt::result::CublasError, driver::result::DriverError};

/// Why a GPU cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A library is not on this machine.
    #[error("{library} was not found; looked for {names} {places}")]
    Library {
        /// What it is.
        library: &'static str,
        /// The file names tried.
        names: String,
        /// Where.
        places: String,
    },
    /// There is no such GPU.
    #[error("there is no GPU number {ordinal}: this machine shows {count}")]
    NoDevice {
        /// The number asked for.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// The GPU is too old.
    #[error("{name} has compute capability {major}.{minor}; 8.0 or higher is needed")]
    TooOld {
        /// The GPU's name.
        name: String,
        /// Its compute capability.
        major: u32,
        /// The part after the dot.
        minor: u32,
    },
    /// A call of the driver failed. Most such errors leave the GPU unusable for this process.
    #[error("{doing}: {}", describe(source))]
    Driver {
        /// What was being done, with the kernel's name and launch shape where there is one.
        doing: String,
        /// What the driver said.
        source: DriverError,
    },
    /// Memory does not suffice.
    #[error("{purpose} needs {bytes} bytes of GPU memory, but only {free} are free")]
    Memory {
        /// What for.
        purpose: &'static str,
        /// Bytes wanted.
        bytes: u64,
        /// Bytes free.
        free: u64,
    },
    /// A kernel's source does not compile.
    #[error("compiling {unit} for sm_{architecture} failed: {log}")]
    Compile {
        /// Which source.
        unit: String,
        /// For which architecture.
        architecture: String,
        /// What the compiler said.
        log: String,
    },
    /// cuBLASLt failed.
    #[error("{doing}: cuBLASLt says {source:?}")]
    Blas {
        /// What was being done.
        doing: String,
        /// Its status.
        source: CublasError,
    },
    /// The cache of compiled kernels cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn describe(error: &DriverError) -> String {
    let text = |found: Result<&std::ffi::CStr, DriverError>| {
        found.map_or_else(|_| "?".to_owned(), |text| text.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

/// Adds what was being done to a driver's error.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, DriverError> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Driver { doing: what(), source })
    }
}

impl<T> Doing<T> for Result<T, CublasError> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Blas { doing: what(), source })
    }
}
