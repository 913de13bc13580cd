//! The state of a scheduler as bytes: what a journal begins with whose beginning was dropped.

use std::{panic, time::Duration};

use scheduler::Scheduler;

use crate::{
    Error,
    encoding::{Input, Output, Read},
    setup::Setup,
};

/// What the state is made of and how it is written. To be counted up with every change of either: `serde` writes down
/// the fields of `Scheduler` and of all that is in it, in their order and without their names.
pub(crate) const VERSION: u32 = 2;

/// The kind of the record that holds it.
pub(crate) const KIND: u8 = b'B';

/// A scheduler's state between two calls, as it is written in a journal. Its tokens and names are those of the
/// journal's records, and so as hidden as there.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    /// The version of its layout.
    pub version: u32,
    /// The time of the last call before it.
    pub now: Duration,
    pub(crate) bytes: Vec<u8>,
}

impl State {
    pub(crate) fn of(scheduler: &Scheduler, now: Duration) -> Self {
        let bytes = postcard::to_allocvec(scheduler).expect("memory is all that writing it takes");
        Self { version: VERSION, now, bytes }
    }

    pub(crate) fn encode(&self, out: &mut Output) {
        out.0.push(KIND);
        out.number(self.version);
        out.time(self.now);
        out.0.extend_from_slice(&self.bytes);
    }

    /// Reads what follows the kind.
    pub(crate) fn decode(bytes: &[u8]) -> Read<Self> {
        let mut input = Input(bytes);
        let (version, now) = (input.number()?, input.time()?);
        Ok(Self { version, now, bytes: input.0.to_vec() })
    }

    /// The scheduler, which is to have been made of `setup`.
    pub(crate) fn scheduler(&self, setup: &Setup) -> Result<Scheduler, Error> {
        if self.version != VERSION {
            return Err(Error::StateVersion { found: self.version, known: VERSION });
        }
        let malformed = |what: &str| Error::State(what.to_owned());
        let (scheduler, rest): (Scheduler, _) = postcard::take_from_bytes(&self.bytes)
            .map_err(|error| malformed(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("it goes on behind its end"));
        }
        let fresh = Scheduler::new(&setup.info_of_record(), setup.settings.clone())?;
        if scheduler.settings() != fresh.settings() || scheduler.limits() != fresh.limits() {
            return Err(malformed("it is of other settings"));
        }
        // What its check sum and version let through, and what is yet no state, is a defect; the panic says which.
        panic::catch_unwind(panic::AssertUnwindSafe(|| scheduler.invariants()))
            .map_err(|_| malformed("it breaks what must always hold"))?;
        Ok(scheduler)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { version, now, bytes } = self;
        f.debug_struct("State")
            .field("version", version)
            .field("now", now)
            .field("bytes", &bytes.len())
            .finish()
    }
}
