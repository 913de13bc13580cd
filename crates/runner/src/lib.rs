//! Runs plans on a device: packs them into batches, owns the bytes of the KV cache, walks the model's program and draws
//! tokens. The engine above sees only `types::Executor`; the models below see no request.

mod cpu;
mod cuda;
mod limits;
mod sampling;
mod slot;

pub use cpu::{CpuRunner, KvBudget, Profile, RunnerOptions, Work};
pub use cuda::{
    CudaLoadOptions, CudaModel, CudaOptions, CudaProfile, CudaRunner, Family, GpuBudget,
};

use types::{Fault, FaultKind};

/// Why a runner cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is out of range.
    #[error("{setting} is {value}: {problem}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The KV cache would hold no block.
    #[error(
        "the KV cache gets {budget_bytes} bytes, but one block of {block_tokens} tokens takes {block_bytes}"
    )]
    KvBudget {
        /// Bytes given.
        budget_bytes: u64,
        /// Bytes of a block.
        block_bytes: u64,
        /// Positions in a block.
        block_tokens: u32,
    },
    /// The GPU cannot be used, or failed.
    #[error(transparent)]
    Cuda(#[from] ::cuda::Error),
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Model(#[from] models::Error),
    /// The model has something that the kernels for GPUs have not.
    #[error("models of the architecture {architecture} with {what} do not run on a GPU yet")]
    Unsupported {
        /// Its architecture.
        architecture: &'static str,
        /// What it has.
        what: &'static str,
    },
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Cuda(_) => FaultKind::Unavailable,
            _ => FaultKind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}
