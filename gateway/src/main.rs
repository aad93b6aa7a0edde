//! `sluice-gateway`: the service at the centre, and the commands of its operators.

mod cli;

use anyhow::{Context, Result};
use clap::Parser;
use cli::{Cli, Command};
use monitoring::LogFormat;
use sluice_gateway::{Config, Daemon};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Of the daemon what happens, of commands only what is wrong.
    match &cli.command {
        Command::Run { log_format } => monitoring::start_log(*log_format, "info"),
        _ => monitoring::start_log(LogFormat::Text, "error"),
    }
    let done = match cli.command {
        Command::Run { .. } => cli.place.config().map_err(Into::into).and_then(run),
        _ => cli::run(cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}`: what was attempted and why it failed, on one line.
            eprintln!("sluice-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The daemon, from its start to its end.
fn run(config: Config) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let done = runtime.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let daemon = Daemon::start(config).await?;
        announce(&daemon);
        tokio::select! {
            _ = term.recv() => tracing::info!("asked to stop (SIGTERM)"),
            _ = int.recv() => tracing::info!("asked to stop (SIGINT)"),
        }
        daemon.shutdown().await;
        tracing::info!("stopped");
        Ok(())
    });
    // What is still being decoded after the drain's deadline must not hold the process: it is done again after the next start.
    runtime.shutdown_background();
    done
}

fn announce(daemon: &Daemon) {
    for address in daemon.addresses() {
        tracing::info!(%address, "listening for edges");
    }
    if let Some(address) = daemon.http() {
        tracing::info!(%address, "serving /metrics and /health");
    }
    if let Some(address) = daemon.pages() {
        tracing::info!(address, "serving pages and API");
    }
    if daemon.announced().is_empty() {
        tracing::warn!(
            "no address is known under which edges reach this gateway: set `addresses` in the configuration"
        );
    }
}
