//! The engine's thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64},
        mpsc,
    },
    thread::JoinHandle,
};

use telemetry::EngineMetrics;
use tokio::sync::mpsc::Sender;
use types::{Executor, Fault, FaultKind, Request, RequestEvent, RequestId};

use crate::{EngineHandle, EngineSettings, EngineState, handle::Shared};

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Submit { request: Request, events: Sender<RequestEvent> },
    Abort(RequestId),
    EndAll(Fault),
    Shutdown,
}

/// An engine. Shut down when dropped.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Builds an executor and starts the thread that runs it. The factory is called again when the executor fails.
    pub fn start(
        mut factory: impl FnMut() -> Result<Box<dyn Executor>, Fault> + Send + 'static,
        _settings: EngineSettings,
        _metrics: EngineMetrics,
    ) -> Result<(Self, EngineHandle), Fault> {
        let executor = factory()?;
        let shared = Arc::new(Shared {
            info: executor.info().clone(),
            memory: executor.memory(),
            state: AtomicU8::new(EngineState::Running as u8),
            next_id: AtomicU64::new(0),
        });
        let (commands, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || run(&receiver))
            .map_err(|error| {
                Fault::internal(format!("the engine's thread did not start: {error}"))
            })?;
        let handle = EngineHandle::new(shared.clone(), commands.clone());
        Ok((Self { shared, commands, thread: Some(thread) }, handle))
    }

    /// Ends every request and the thread.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.set_state(EngineState::Stopped);
        let _gone = self.commands.send(Command::Shutdown);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn run(commands: &mpsc::Receiver<Command>) {
    while let Ok(command) = commands.recv() {
        match command {
            Command::Submit { request: Request { id, .. }, events } => {
                let fault =
                    Fault::new(FaultKind::Unavailable, format!("{id} has no scheduler yet"));
                let _gone = events.try_send(RequestEvent::Failed(fault));
            }
            Command::Abort(_) | Command::EndAll(_) => {}
            Command::Shutdown => break,
        }
    }
}
