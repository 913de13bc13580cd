//! Where the time of a step goes on the GPU, by kind of kernel call. Off unless asked for; then it costs an event a
//! call.

use std::time::Duration;

use cuda::{Event, Stream};

use crate::Error;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name is the whole description")]
pub enum Family {
    Copies,
    Upload,
    Embedding,
    Norm,
    Qkv,
    Rope,
    Attention,
    Output,
    GateUp,
    Gate,
    Down,
    Logits,
    Sampling,
}

/// What some steps took on the GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CudaProfile {
    /// Steps.
    pub steps: u32,
    /// The time of each kind of call, in the order in which kinds first came.
    pub by_family: Vec<(Family, Duration)>,
}

/// Takes times while it is on. Calls that would overlap do not while it is.
#[derive(Default)]
pub(super) struct Profiler {
    state: Option<State>,
}

#[derive(Default)]
struct State {
    profile: CudaProfile,
    begun: Option<Event>,
    marks: Vec<(Family, Event)>,
}

impl Profiler {
    pub(super) fn start(&mut self) {
        self.state = Some(State::default());
    }

    pub(super) fn finish(&mut self) -> CudaProfile {
        self.state.take().unwrap_or_default().profile
    }

    pub(super) fn is_on(&self) -> bool {
        self.state.is_some()
    }

    /// A step begins.
    pub(super) fn begin(&mut self, stream: &Stream) -> Result<(), Error> {
        if let Some(state) = &mut self.state {
            let event = Event::timed(stream.gpu())?;
            event.record(stream)?;
            state.begun = Some(event);
        }
        Ok(())
    }

    /// What was put into the stream since the last mark is of this kind.
    pub(super) fn mark(&mut self, stream: &Stream, family: Family) -> Result<(), Error> {
        if let Some(state) = &mut self.state {
            let event = Event::timed(stream.gpu())?;
            event.record(stream)?;
            state.marks.push((family, event));
        }
        Ok(())
    }

    /// The step has ended: adds its times.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        let Some(state) = &mut self.state else { return Ok(()) };
        let Some(mut before) = state.begun.take() else { return Ok(()) };
        state.profile.steps += 1;
        for (family, event) in state.marks.drain(..) {
            event.wait()?;
            let elapsed =
                Duration::from_secs_f64(f64::from(event.milliseconds_since(&before)?) / 1e3);
            let by_family = &mut state.profile.by_family;
            match by_family.iter_mut().find(|(known, _)| *known == family) {
                Some((_, sum)) => *sum += elapsed,
                None => by_family.push((family, elapsed)),
            }
            before = event;
        }
        Ok(())
    }
}
