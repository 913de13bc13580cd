//! The passes that put a step together, in the order in which they run.
//!
//! Each walks requests in order of rank and hands out positions of the step's budget. A running request that needs one
//! position gets it before any prompt is considered, so prompts never hold up tokens.

mod admit;
mod decode;
mod prefill;
mod probation;

pub(crate) use admit::admit;
pub(crate) use decode::decode;
pub(crate) use prefill::prefill;
pub(crate) use probation::{is_probation_due, probation};
