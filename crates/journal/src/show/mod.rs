//! A replay, shown.

mod text;
mod timeline;

pub use text::{listing, text};
pub use timeline::timeline;
