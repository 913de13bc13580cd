//! Models as data. A file in `arch/` reads a checkpoint's configuration into a [`DecoderSpec`]; `lower` turns the
//! spec and the weights, once at load, into a [`Program`]: a flat list of kernel calls with their buffers planned.
//!
//! Architecture files know no device; the program knows no architecture.

mod arch;
mod checkpoint;
mod config;
mod lower;
mod names;
mod program;
mod rope;
mod spec;

pub use arch::{architectures, describe};
pub use checkpoint::Checkpoint;
pub use lower::{Compute, LoadOptions, load};
pub use names::Part;
pub use program::{
    Activation, FloatBuffer, FloatBufferId, Matrix, MatrixId, Op, Program, QuadBuffer,
    QuantizedBufferId, RoundedBufferId, RowKind, SegmentPlan, VectorId,
};
pub use rope::{RopeFrequencies, RopeScaling};
pub use spec::{DecoderSpec, RopeSpec};

use types::{DataType, Fault, FaultKind};

/// A model ready to run on a CPU.
pub struct Model {
    /// What it is.
    pub spec: DecoderSpec,
    /// What to do for a step.
    pub program: Program,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint itself is at fault.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// The configuration does not say what the model is.
    #[error("the checkpoint does not name its architecture ({looked_for})")]
    NoArchitecture {
        /// Where the name was looked for.
        looked_for: &'static str,
    },
    /// Nothing is known about the architecture.
    #[error("architecture `{name}` is not supported; supported are {supported}")]
    UnknownArchitecture {
        /// Its name.
        name: String,
        /// The names that are known.
        supported: String,
    },
    /// A field of the configuration is missing.
    #[error("the configuration has no `{field}`")]
    MissingField {
        /// The field as the checkpoint would call it.
        field: String,
    },
    /// A field of the configuration has a value that cannot be used.
    #[error("the configuration's `{field}` is {value}: {problem}")]
    Field {
        /// The field as the checkpoint calls it.
        field: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is missing.
    #[error("the checkpoint has no tensor `{name}`")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has an unexpected shape.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape, outermost first.
        found: Vec<usize>,
        /// The shape the configuration implies.
        expected: Vec<usize>,
    },
    /// A tensor is stored in a format that does not serve its purpose.
    #[error("tensor `{name}` is stored as {data_type}, which cannot be used here")]
    TensorType {
        /// Its name.
        name: String,
        /// Its format.
        data_type: DataType,
    },
    /// A matrix could not be packed.
    #[error("tensor `{name}`: {source}")]
    Pack {
        /// Its name.
        name: String,
        /// Why.
        source: quant::Error,
    },
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::new(FaultKind::Invalid, error.to_string())
    }
}
