//! The vocabulary that every part of Brigade shares: ids, data types, requests and their parameters, faults, and the
//! contract between the scheduler and whatever executes its plans.
//!
//! This crate knows no text, no wire format, no device and no clock. What a scheduler remembers is serializable, for
//! the state that a journal begins with, and nothing is for a protocol: each has its own wire types in `front`.

mod arrivals;
mod data_type;
mod executor;
mod fault;
mod ids;
pub mod planted;
mod request;
mod sampling;
mod step;

pub use arrivals::Arrivals;
pub use data_type::DataType;
pub use executor::{CacheContent, CacheGroup, Executor, ExecutorInfo, MemoryReport};
pub use fault::{Fault, FaultKind};
pub use ids::{BlockId, HostSlot, RequestId, SlotId, StepId, TokenId};
pub use request::{FinishReason, Request, RequestEvent, Service, Usage};
pub use sampling::{SamplingParams, TokenLogprobs};
pub use step::{
    BlockCopy, CopyDirection, SampledToken, SlotAdmission, StateCopy, StepOutcome, StepPlan,
    WorkItem,
};
