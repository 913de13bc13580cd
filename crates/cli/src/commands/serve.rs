//! `brigade serve`: a model behind the front door.

use std::{io::Write, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::ArgMatches;
use engine::EngineHandle;
use front::{FrontSettings, FrontState};
use telemetry::Metrics;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    VERSION,
    load::{Loaded, load},
    settings::Settings,
};

/// Serves until told to stop.
pub(crate) fn run(settings: &Settings, matches: &ArgMatches) -> Result<()> {
    let log_format = settings.text("log.log_format").unwrap_or("text").parse()?;
    telemetry::logs::init(log_format, settings.text("log.log_filter").unwrap_or("info"))?;
    // A port that is taken is noticed before minutes go into loading a model.
    let (host, port) = address(settings);
    let listener = std::net::TcpListener::bind((host, port))
        .with_context(|| format!("listening on {host}:{port}"))?;
    listener.set_nonblocking(true).context("the listening socket")?;
    let metrics = Arc::new(Metrics::new());
    let Loaded { served, engine, description } = load(settings, super::model(matches), &metrics)?;
    let (name, handle) = (served.names[0].clone(), served.engine.clone());
    let state = FrontState::new(vec![served], metrics, front_settings(settings));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        greet(&description, &name, &listener)?;
        tokio::spawn(write_journals(signal(SignalKind::user_defined1())?, handle));
        front::serve(listener, state, stop_signal()?).await.context("serving")
    })?;
    engine.shutdown();
    tracing::info!("stopped");
    Ok(())
}

/// Where to listen.
pub(crate) fn address(settings: &Settings) -> (&str, u16) {
    let port = settings.integer("server.port").and_then(|port| u16::try_from(port).ok());
    (
        settings.text("server.host").unwrap_or("127.0.0.1"),
        port.expect("ports have a default and a range"),
    )
}

/// The front door's settings.
pub(crate) fn front_settings(settings: &Settings) -> FrontSettings {
    let seconds = |key| Duration::from_secs_f64(settings.number(key));
    FrontSettings {
        body_bytes_max: settings.integer("server.body_bytes_max").unwrap_or(0) as usize,
        requests_max: settings.count("server.requests_max") as usize,
        connections_max: settings.count("server.connections_max") as usize,
        choices_max: settings.count("server.choices_max"),
        write_timeout: seconds("server.write_timeout_s"),
        keep_alive_interval: seconds("server.keep_alive_interval_s"),
        drain_timeout: seconds("server.drain_timeout_s"),
        api_keys: settings.list("server.api_key").to_vec(),
        admin_keys: settings.list("server.admin_key").to_vec(),
        cors: settings.switch("server.cors"),
        ..FrontSettings::default()
    }
}

/// Says what is served and how to try it.
fn greet(description: &str, name: &str, listener: &TcpListener) -> Result<()> {
    let address = listener.local_addr()?;
    let message = r#"{"role":"user","content":"Say hello."}"#;
    let mut out = std::io::stdout().lock();
    writeln!(out, "Brigade {VERSION}, {description}")?;
    writeln!(out, "listening on http://{address}\n")?;
    writeln!(
        out,
        "  curl http://{address}/v1/chat/completions -H 'content-type: application/json' \\"
    )?;
    writeln!(out, "    -d '{{\"model\":\"{name}\",\"stream\":true,\"messages\":[{message}]}}'\n")?;
    out.flush()?;
    Ok(())
}

/// At each SIGUSR1, writes what the journal in memory holds to a file.
async fn write_journals(mut wanted: Signal, engine: EngineHandle) {
    while wanted.recv().await.is_some() {
        let engine = engine.clone();
        // Many megabytes, with the scheduler's state: nothing for a thread that serves.
        if let Err(error) = tokio::task::spawn_blocking(move || write_journal(&engine)).await {
            tracing::error!(%error, "writing the journal");
        }
    }
}

fn write_journal(engine: &EngineHandle) {
    let Some(bytes) = engine.journal() else {
        tracing::warn!("no journal is kept in memory");
        return;
    };
    let path = std::env::temp_dir().join(format!("brigade-{}.journal", std::process::id()));
    let written = journal::create_private(&path).and_then(|mut file| file.write_all(&bytes));
    match written {
        Ok(()) => tracing::info!(path = %path.display(), "wrote the journal in memory"),
        Err(error) => tracing::error!(path = %path.display(), %error, "writing the journal"),
    }
}

/// Resolves at SIGTERM or Ctrl-C; a second one ends the process at once.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("told to stop twice: stopping at once");
            std::process::exit(1);
        });
    })
}
