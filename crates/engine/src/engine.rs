//! Starting and stopping an engine's thread.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use journal::{RecordedScheduler, Recorder};
use scheduler::{Limits, Scheduler};
use telemetry::EngineMetrics;
use types::{Arrivals, Executor, ExecutorInfo, Fault};

use crate::{
    EngineHandle, EngineSettings, EngineState, JournalSettings,
    clock::Clock,
    command::Command,
    executor_guard::{ExecutorGuard, Factory},
    replica::Replica,
    shared::{Numbers, Shared},
};

/// An engine's thread. Dropping it shuts the engine down.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts a thread, builds the executor in it and runs it there. Returns when the executor is built.
    ///
    /// The factory is called again when the executor fails, after the failed one was dropped. It must build the same
    /// executor each time.
    pub fn start(
        factory: impl FnMut() -> Result<Box<dyn Executor>, Fault> + Send + 'static,
        settings: EngineSettings,
        metrics: EngineMetrics,
    ) -> Result<(Self, EngineHandle), Fault> {
        let (commands, receiver) = mpsc::channel();
        let (started, ready) = mpsc::sync_channel(1);
        let factory: Factory = Box::new(factory);
        let thread = thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || match build(factory, settings, metrics) {
                Ok((shared, replica)) => {
                    if started.send(Ok(shared.clone())).is_ok() {
                        supervise(&shared, replica, &receiver);
                    }
                }
                // Nobody waits for the answer only if the thread that started this one is gone.
                Err(fault) => drop(started.send(Err(fault))),
            })
            .map_err(|error| Fault::internal(format!("no thread for the engine: {error}")))?;
        let no_answer = || Err(Fault::internal("the engine's thread ended while it started"));
        match ready.recv().unwrap_or_else(|_| no_answer()) {
            Ok(shared) => {
                let handle = EngineHandle::new(shared.clone(), commands.clone());
                Ok((Self { shared, commands, thread: Some(thread) }, handle))
            }
            Err(fault) => {
                let _ended = thread.join();
                Err(fault)
            }
        }
    }

    /// Ends every request with `Unavailable`, and the thread; waits for a step under way. To let requests finish, call
    /// [`EngineHandle::drain`] first and wait until none is left.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A thread that is gone has stopped. Who sees the state knows that the thread was told.
        let _gone = self.commands.send(Command::Shutdown);
        self.shared.set_state(EngineState::Stopped);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn build(
    factory: Factory,
    settings: EngineSettings,
    metrics: EngineMetrics,
) -> Result<(Arc<Shared>, Replica), Fault> {
    let arrivals = Arc::<Arrivals>::default();
    let mut executor = ExecutorGuard::new(factory, Arc::clone(&arrivals));
    let (info, memory) = executor.build()?;
    let scheduler = Scheduler::new(&info, settings.scheduler.clone())?;
    let recorder = recorder(&settings.journal, &info, scheduler.settings())?;
    let journal = recorder.as_ref().and_then(Recorder::memory);
    let scheduler = RecordedScheduler::new(scheduler, &info, recorder);
    let shared = Arc::new(Shared {
        arrivals,
        limits: Limits::of(&info),
        info,
        memory,
        waiting_max: scheduler.settings().waiting_max,
        metrics,
        clock: Clock::start(),
        numbers: Numbers::default(),
        forecast: Mutex::new(Arc::new(scheduler.forecast(Duration::ZERO))),
        journal,
    });
    let replica = Replica::new(scheduler, executor, shared.clone(), settings);
    Ok((shared, replica))
}

/// What records the engine's inputs.
fn recorder(
    settings: &JournalSettings,
    info: &ExecutorInfo,
    scheduler: &scheduler::Settings,
) -> Result<Option<Recorder>, Fault> {
    let JournalSettings { file, file_bytes_max, memory_bytes_max, tokens } = settings;
    if file.is_none() && *memory_bytes_max == 0 {
        return Ok(None);
    }
    let mut recorder = Recorder::new(info, scheduler, *tokens);
    if let Some(path) = file {
        recorder.write_to(path, *file_bytes_max).map_err(|error| {
            Fault::invalid("journal", format!("writing the journal {}: {error}", path.display()))
        })?;
    }
    if *memory_bytes_max > 0 {
        recorder.keep_in_memory(*memory_bytes_max).map_err(|error| {
            Fault::internal(format!("starting the thread of the journal in memory: {error}"))
        })?;
    }
    Ok(Some(recorder))
}

/// Runs the replica. Its streams are dropped with it, and each [`crate::Generation`] then says that the engine is gone:
/// also when the loop itself panics, which is a defect but no reason to leave clients waiting.
fn supervise(shared: &Shared, replica: Replica, commands: &mpsc::Receiver<Command>) {
    if catch_unwind(AssertUnwindSafe(|| replica.run(commands))).is_err() {
        tracing::error!("the engine's loop panicked");
        shared.set_state(EngineState::Failed);
    }
}
