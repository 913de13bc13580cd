//! Metrics and logs: every metric name is defined here, once, and nowhere else.
//!
//! A part of the program gets a struct with one method per thing that can happen to it, and never sees a name, a label
//! or a registry. [`Metrics`] is built once at start; adding a part means a file like `engine.rs` and a field there.

pub mod engine;
mod http;
pub mod logs;
mod metrics;

pub use engine::{Ending, EngineMetrics, Rejection};
pub use http::HttpMetrics;
pub use metrics::{CONTENT_TYPE, Metrics};
