//! From a listening socket to routed requests, and the way down at shutdown.
//!
//! HTTP/1.1 only: without TLS no client of note speaks HTTP/2, and its flow control would hide a client that has
//! stopped reading from [`StallGuard`].

use std::{io, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use types::{Fault, FaultKind};

use crate::{router, stall::StallGuard, state::FrontState};

/// After a failed accept (too many open files, say) the listener rests for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Answers that are complete have this long to reach their clients before connections are cut.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until `shutdown` resolves, then lets requests under way finish up to the drain limit, ends the rest with a
/// fault, closes the connections and returns. No task it started outlives it.
pub async fn serve(
    listener: TcpListener,
    state: FrontState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut connections = Connections::new(&state);
    let listening = connections.accept_until(&listener, async {
        shutdown.await;
        tracing::info!("shutting down: no new requests");
        state.drain();
        drain(&state).await;
    });
    listening.await;
    drop(listener);
    connections.close().await;
    Ok(())
}

/// Waits until no request is under way, and after the limit sees to it.
async fn drain(state: &FrontState) {
    let limit = state.settings().drain_timeout;
    if timeout(limit, state.idle()).await.is_ok() {
        return;
    }
    tracing::warn!(limit_s = limit.as_secs(), "ending the requests that are still under way");
    let fault = Fault::new(
        FaultKind::Unavailable,
        "the server was shut down before the answer was complete",
    );
    for model in state.models() {
        model.engine.end_all(fault.clone());
    }
    // A client that does not read keeps its request; it is cut off with its connection.
    if timeout(CLOSE_TIMEOUT, state.idle()).await.is_err() {
        tracing::warn!("some clients did not take the end of their answers");
    }
}

/// The open connections, each a task.
struct Connections {
    state: FrontState,
    service: TowerToHyperService<axum::Router>,
    server: http1::Builder,
    room: Arc<Semaphore>,
    tasks: JoinSet<()>,
    graceful: GracefulShutdown,
}

impl Connections {
    fn new(state: &FrontState) -> Self {
        let settings = state.settings();
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(settings.header_timeout);
        Self {
            state: state.clone(),
            service: TowerToHyperService::new(router(state.clone())),
            server,
            room: Arc::new(Semaphore::new(settings.connections_max)),
            tasks: JoinSet::new(),
            graceful: GracefulShutdown::new(),
        }
    }

    /// Takes connections in until `end`. With all places taken, new ones wait in the system's own queue.
    async fn accept_until(&mut self, listener: &TcpListener, end: impl Future<Output = ()>) {
        tokio::pin!(end);
        loop {
            let room = Arc::clone(&self.room);
            let next = async {
                let place = room.acquire_owned().await.expect("the semaphore is never closed");
                (listener.accept().await, place)
            };
            tokio::select! {
                () = &mut end => return,
                Some(_ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                (accepted, place) = next => match accepted {
                    Ok((socket, _address)) => self.start(socket, place),
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection failed");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn start(&mut self, socket: TcpStream, place: OwnedSemaphorePermit) {
        // A token is a small packet, and it is wanted now.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it began");
            return;
        }
        let socket = StallGuard::new(socket, self.state.settings().write_timeout);
        let service = self.service.clone();
        let connection = self.server.serve_connection(TokioIo::new(socket), service);
        let watcher: Watcher = self.graceful.watcher();
        self.tasks.spawn(async move {
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(place);
        });
    }

    /// Lets complete answers out and ends everything else.
    async fn close(self) {
        let Self { mut tasks, graceful, .. } = self;
        if timeout(CLOSE_TIMEOUT, graceful.shutdown()).await.is_err() {
            tracing::warn!("cutting connections that are still open");
        }
        tasks.shutdown().await;
    }
}
