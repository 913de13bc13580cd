//! Chat templates: from a list of messages to the text of a prompt, as the model's own Jinja template says.
//!
//! A [`ChatTemplate`] behaves as the template does in Python's `transformers`: the same whitespace rules, the same
//! functions, the same JSON. Its inputs are client data, so rendering is bounded in work, memory and output.
//!
//! Pure: no clock (the time is part of [`RenderOptions`]), no I/O but reading a model folder.

mod assigned;
mod content;
mod error;
mod json;
mod prepare;
mod template;

pub use error::Error;
pub use template::{ChatTemplate, RenderOptions};
