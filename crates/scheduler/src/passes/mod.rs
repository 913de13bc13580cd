//! The passes that put a step together, in the order in which they run.
//!
//! Each walks requests in order of rank and hands out positions of the step's budget. A running request that needs one
//! position gets it before any prompt is considered, and prompts get no more than the time that is left (see
//! `pace.rs`), so prompts never hold up tokens.

mod admit;
mod decode;
mod make_way;
mod probation;
mod prompts;

pub(crate) use decode::decode;
pub(crate) use make_way::make_way;
pub(crate) use probation::{is_probation_due, probation};
pub(crate) use prompts::prompts;
