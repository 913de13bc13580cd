//! What can go wrong with a chat template.

use std::path::PathBuf;

use types::{Fault, FaultKind};

/// Why a template could not be loaded or rendered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template is not valid Jinja.
    #[error("the chat template is not valid, line {line}: {message}")]
    Syntax {
        /// Line of the template, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The template itself refused the messages, by calling `raise_exception`.
    #[error("the chat template refuses these messages: {message}")]
    Raised {
        /// What the template said.
        message: String,
    },
    /// The template could not be applied to these messages.
    #[error("the chat template failed at line {line}: {message}")]
    Render {
        /// Line of the template, from 1; 0 if unknown.
        line: usize,
        /// What went wrong there.
        message: String,
    },
    /// Rendering took more work than allowed.
    #[error("the chat template took more than {fuel} units of work")]
    OutOfFuel {
        /// The limit.
        fuel: u64,
    },
    /// The rendered prompt is longer than allowed.
    #[error("the chat template produced more than {bytes_max} bytes")]
    OutputTooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// A message carries a kind of content that the template cannot place.
    #[error("messages[{index}].content: parts of type \"{kind}\" are not supported by this model")]
    ContentPart {
        /// Which message.
        index: usize,
        /// The type of the part.
        kind: String,
    },
    /// A message does not have the shape of a message.
    #[error("messages[{index}]{path} {problem}")]
    Message {
        /// Which message.
        index: usize,
        /// Where in the message, such as `.content[0]`.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file of the model folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the model folder does not say what it should.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Read { .. } | Error::File { .. } => Self::new(FaultKind::Unavailable, message),
            Error::Syntax { .. } => Self::new(FaultKind::Invalid, message),
            Error::Raised { .. }
            | Error::Render { .. }
            | Error::OutOfFuel { .. }
            | Error::OutputTooLong { .. }
            | Error::ContentPart { .. }
            | Error::Message { .. } => Self::invalid("messages", message),
        }
    }
}
