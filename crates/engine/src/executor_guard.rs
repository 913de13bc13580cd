//! An executor that may fail in any way, and the means to build it again.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use types::{
    Arrivals, Executor, ExecutorInfo, Fault, FaultKind, MemoryReport, StepOutcome, StepPlan,
};

pub(crate) type Factory = Box<dyn FnMut() -> Result<Box<dyn Executor>, Fault> + Send>;

/// Holds an executor, if there is one that works. Panics end here: they become faults, and whatever panicked is
/// dropped, so no broken state is ever looked at again.
pub(crate) struct ExecutorGuard {
    factory: Factory,
    executor: Option<Box<dyn Executor>>,
    arrivals: Arc<Arrivals>,
}

impl ExecutorGuard {
    pub(crate) fn new(factory: Factory, arrivals: Arc<Arrivals>) -> Self {
        Self { factory, executor: None, arrivals }
    }

    /// Builds the executor. The one before is dropped first: there may not be memory for two.
    pub(crate) fn build(&mut self) -> Result<(ExecutorInfo, MemoryReport), Fault> {
        self.discard();
        let mut executor = caught("building the executor", || (self.factory)())?;
        executor.watch(Arc::clone(&self.arrivals));
        let seen = (executor.info().clone(), executor.memory());
        self.executor = Some(executor);
        Ok(seen)
    }

    /// Starts a step.
    pub(crate) fn submit(&mut self, plan: StepPlan) -> Result<(), Fault> {
        self.with("a step", |executor| executor.submit(plan))
    }

    /// Waits for the oldest step under way.
    pub(crate) fn wait(&mut self) -> Result<StepOutcome, Fault> {
        self.with("a step", |executor| executor.wait())
    }

    fn with<T>(
        &mut self,
        what: &str,
        work: impl FnOnce(&mut dyn Executor) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match &mut self.executor {
            Some(executor) => caught(what, || work(executor.as_mut())),
            None => Err(Fault::new(FaultKind::Unavailable, "there is no executor")),
        }
    }

    /// Drops the executor, with what is under way.
    pub(crate) fn discard(&mut self) {
        let executor = self.executor.take();
        let dropped = caught("dropping the executor", || {
            drop(executor);
            Ok(())
        });
        if let Err(fault) = dropped {
            tracing::error!(%fault, "the executor did not go quietly");
        }
    }
}

impl fmt::Debug for ExecutorGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutorGuard").field("works", &self.executor.is_some()).finish()
    }
}

/// What `work` returns, or a fault if it panics.
fn caught<T>(what: &str, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Fault::internal(format!("{what} panicked: {}", message_of(panic.as_ref()))))
    })
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
