//! Where the time of steps goes, by kind of kernel call. Off unless asked for; then it costs two looks at the clock a
//! call.

use std::time::{Duration, Instant};

use models::{Op, Program};

/// A kind of work within a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name is the whole description")]
pub enum Work {
    Embed,
    RmsNorm,
    /// A product, by the buffer that tells it from others: its source where it adds to the residual stream, its target
    /// otherwise.
    Linear(&'static str),
    HeadNorm,
    /// Angles, turning, and storing keys and values.
    Rope,
    Attention,
    SiluMul,
    Select,
    Sampling,
    /// Blocks copied to the host's memory and back.
    Copies,
}

impl Work {
    pub(super) fn of(op: &Op, program: &Program) -> Self {
        match op {
            Op::Embed { .. } => Self::Embed,
            Op::RmsNorm { .. } => Self::RmsNorm,
            Op::Linear { input, output, accumulate, .. } => {
                let telling = if *accumulate { input.floats } else { *output };
                Self::Linear(program.float_buffers[telling.0].name)
            }
            Op::HeadNorm { .. } => Self::HeadNorm,
            Op::RopeStore { .. } => Self::Rope,
            Op::Attention { .. } => Self::Attention,
            Op::SiluMul { .. } => Self::SiluMul,
            Op::Select { .. } => Self::Select,
        }
    }
}

/// What some steps took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Steps.
    pub steps: u32,
    /// The time of all steps.
    pub total: Duration,
    /// The part of it that went into each kind of work, in the order in which kinds first came. What is left went into
    /// packing batches and folding results.
    pub by_work: Vec<(Work, Duration)>,
}

/// Takes times while it is on.
#[derive(Default)]
pub(super) struct Profiler {
    profile: Option<Profile>,
}

impl Profiler {
    pub(super) fn start(&mut self) {
        self.profile = Some(Profile::default());
    }

    pub(super) fn finish(&mut self) -> Profile {
        self.profile.take().unwrap_or_default()
    }

    /// The time now, if anybody wants to know.
    pub(super) fn now(&self) -> Option<Instant> {
        self.profile.as_ref().map(|_| Instant::now())
    }

    /// Counts the time since `begun` as `work`.
    pub(super) fn count(&mut self, begun: Option<Instant>, work: impl FnOnce() -> Work) {
        let (Some(profile), Some(begun)) = (&mut self.profile, begun) else { return };
        let (elapsed, work) = (begun.elapsed(), work());
        match profile.by_work.iter_mut().find(|(known, _)| *known == work) {
            Some((_, duration)) => *duration += elapsed,
            None => profile.by_work.push((work, elapsed)),
        }
    }

    /// Counts the time since `begun` as a step.
    pub(super) fn count_step(&mut self, begun: Option<Instant>) {
        if let (Some(profile), Some(begun)) = (&mut self.profile, begun) {
            profile.steps += 1;
            profile.total += begun.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_by_work_while_it_is_on() {
        let mut profiler = Profiler::default();
        assert!(profiler.now().is_none());
        profiler.count(Some(Instant::now()), || unreachable!("it is off"));
        assert_eq!(profiler.finish(), Profile::default());
        profiler.start();
        let begun = profiler.now();
        for work in [Work::Linear("qkv"), Work::Attention, Work::Linear("qkv")] {
            profiler.count(begun, || work);
        }
        profiler.count_step(begun);
        let profile = profiler.finish();
        assert_eq!(profile.steps, 1);
        let kinds: Vec<Work> = profile.by_work.iter().map(|(work, _)| *work).collect();
        assert_eq!(kinds, [Work::Linear("qkv"), Work::Attention]);
        assert!(profiler.now().is_none());
    }
}
