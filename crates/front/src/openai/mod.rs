//! The OpenAI-compatible routes under `/v1`.

pub(crate) mod chat;
pub(crate) mod completions;
mod logprobs;
mod messages;
pub(crate) mod models;
mod parameters;
pub(crate) mod prompt;
mod request;
mod stream;
mod usage;
mod values;
