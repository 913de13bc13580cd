//! The front door: HTTP in, HTTP out, one folder a protocol, wire types beside their routes.
//!
//! A request is read within limits, checked field by field, turned from text into tokens and given to an
//! [`engine::EngineHandle`]; what comes back is turned into text and written as the protocol wants it. Nothing here
//! knows how tokens are made. Work that is long for a CPU is done on threads for it, and whatever a request holds is
//! given back when its client goes away, because it is all owned by the future or the body that hyper then drops.
//!
//! Every error is a row of the table in [`fault`](Error). What a client sees, byte for byte, is in `tests/it`.
//!
//! Not here yet: parsing tool calls out of answers, structured output, and the protocols of other servers.

mod access;
mod admin;
mod body;
mod caller;
mod explain;
mod fault;
mod generate;
mod json;
mod openai;
mod record;
mod router;
mod serve;
mod source;
mod stall;
mod state;
mod tokens;

pub use fault::Error;
pub use router::{check_body, router};
pub use serve::serve;
pub use source::Source;
pub use state::{FrontSettings, FrontState, SamplingDefaults, ServedModel};
