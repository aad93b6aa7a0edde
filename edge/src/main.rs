//! `sluice-edge`: the appliance at a site.

mod cli;

use anyhow::Context;
use clap::Parser;
use cli::{Arguments, Command};
use monitoring::{LogFormat, Recent};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The last lines stay in memory, for diagnostics.
    let recent = match &arguments.command {
        Command::Run { log_format, .. } => monitoring::start_log_keeping(*log_format, "info"),
        _ => monitoring::start_log_keeping(LogFormat::Text, "warn"),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sluice-edge: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(dispatch(arguments, recent));
    // A parcel that is still being coded after the drain's deadline must not hold the process: it is coded again with the next start.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        eprintln!("sluice-edge: {error:#}");
        ExitCode::FAILURE
    })
}

async fn dispatch(arguments: Arguments, recent: Recent) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Run { at, .. } => run(at.load()?, recent).await,
        other => cli::dispatch(other).await,
    }
}

/// Runs the daemon until SIGTERM or SIGINT.
async fn run(config: sluice_edge::Config, recent: Recent) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let daemon = sluice_edge::Daemon::start(config).await?;
    daemon.keep_log(recent);
    match daemon.http_address() {
        Some(http) => tracing::info!(state = %daemon.config().state.display(), %http, "ready"),
        None => tracing::info!(state = %daemon.config().state.display(), "ready"),
    }
    if let Some(page) = daemon.page_address() {
        tracing::info!(%page, "the page for people at the site; `sluice-edge page` says how to get there");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    daemon.shutdown().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
