//! The real queue, scheduler and KV manager on a virtual clock.
//!
//! A simulation is a function of its seed. [`measure`] runs a workload on a device whose steps take what a model of it
//! says, and tells what each class of requests got. [`soak`] drives random requests through random settings, with
//! aborts, lost executors and too few blocks, against a model that knows every token in advance, and checks the
//! invariants after every call.

pub mod device;
pub mod measure;
mod random;
pub mod report;
pub mod soak;
pub mod workload;
