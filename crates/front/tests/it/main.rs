//! The front door as its clients see it, over an engine with an executor whose answers are known.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod answers;
mod errors;
mod explain;
mod lifetime;
mod malformed;
mod operations;
mod parrot;
mod sockets;
mod support;
mod text;
mod tokens;
mod wire;
