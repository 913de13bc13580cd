//! The OpenAI-compatible routes under `/v1`.

pub(crate) mod chat;
pub(crate) mod completions;
mod logprobs;
mod messages;
pub(crate) mod models;
mod parameters;
mod stream;
mod usage;
