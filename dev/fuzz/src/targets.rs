//! The targets, one file each.

pub mod gguf;
pub mod http_body;
pub mod safetensors;
pub mod template;

use crate::Target;

/// All targets.
pub const ALL: &[Target] =
    &[gguf::TARGET, http_body::TARGET, safetensors::TARGET, template::TARGET];
