//! Faults: the few ways in which a request can go wrong, which each protocol maps to its own status codes.

use std::fmt;

/// The kind of a fault. Every error of every crate maps to one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The request itself is wrong; sending it again will not help.
    Invalid,
    /// What the request names does not exist.
    NotFound,
    /// There is no room now; sending it again later may help.
    Overloaded,
    /// The request's time ran out.
    Deadline,
    /// The client went away or asked for the end.
    Cancelled,
    /// The server or the model is starting, draining or gone.
    Unavailable,
    /// A defect of the server.
    Internal,
}

/// A fault as a client may see it: a kind, a sentence, and what helps to act on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What kind of fault this is.
    pub kind: FaultKind,
    /// One sentence that names what is wrong.
    pub message: String,
    /// The request's field that is wrong, where there is one.
    pub field: Option<String>,
    /// When a retry is expected to be accepted.
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// A fault of `kind` with a message.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), field: None, retry_after_ms: None }
    }

    /// An invalid request: `field` is wrong because of `message`.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(FaultKind::Invalid, message) }
    }

    /// A defect of the server.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Internal, message)
    }

    /// The same fault with advice on when to come back.
    #[must_use]
    pub fn with_retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
