//! A wrong clock at either end.

use super::branch::{Branch, RECOVERY, Setup};
use anyhow::{Context, Result, ensure};
use lab::world::{EdgeOptions, GatewayOptions, PATIENCE};
use std::time::{Duration, Instant};

/// What gives a daemon another time; `None`, and the test is skipped, where there is none. The library itself, not the `faketime`
/// program, which would stand between the test and the process that it must end. The monotonic clock stays true, as it does on a
/// machine whose battery is empty.
fn shifted(by: &str) -> Option<Vec<(String, String)>> {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    if !std::path::Path::new(&library).exists() {
        lab::skip(&format!("{library} is not there: install the package faketime"));
        return None;
    }
    let env = [("LD_PRELOAD", library.as_str()), ("FAKETIME", by), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    Some(env.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
}

type Env = Option<Vec<(String, String)>>;

/// A branch whose daemons have these environments.
fn branch(edge: Env, gateway: Env) -> Result<Branch> {
    let usual = Setup::default();
    let setup = Setup {
        edge: EdgeOptions { env: edge.unwrap_or_default(), ..usual.edge },
        gateway: GatewayOptions { env: gateway.unwrap_or_default(), ..usual.gateway },
        size: 16 << 20,
        ..Setup::default()
    };
    Branch::with(setup)
}

fn replicates(mut branch: Branch) -> Result<()> {
    branch.replicate()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}

/// The year that a daemon writes before its log lines: whether it really lives in another time.
fn year(daemon: &lab::world::Daemon) -> Result<i32> {
    let line = daemon.wait_line("20", PATIENCE)?;
    line.get(..4).and_then(|year| year.parse().ok()).with_context(|| format!("no year begins the line {line}"))
}

#[test]
fn an_edge_whose_clock_stands_in_the_past_replicates() -> Result<()> {
    let Some(edge) = shifted("-20y") else { return Ok(()) };
    let mut branch = branch(Some(edge), None)?;
    let (edge, gateway) = (year(branch.edge.daemon()?)?, year(branch.gateway.daemon()?)?);
    ensure!(gateway - edge >= 19, "the edge lives in {edge}, the gateway in {gateway}");
    replicates(branch)
}

#[test]
fn an_edge_whose_clock_is_some_days_ahead_replicates() -> Result<()> {
    let Some(edge) = shifted("+5d") else { return Ok(()) };
    replicates(branch(Some(edge), None)?)
}

#[test]
fn an_edge_whose_clock_is_many_years_ahead_says_that_the_clocks_differ_and_loses_nothing() -> Result<()> {
    let Some(edge) = shifted("+60y") else { return Ok(()) };
    let mut branch = branch(None, None)?;
    branch.replicate()?;
    branch.edge.stop()?;
    branch.edge.options().env = edge;
    branch.edge.start()?;
    let deadline = Instant::now() + RECOVERY;
    loop {
        let status = branch.edge.run("status", &[])?;
        if status.contains("clock") {
            break;
        }
        ensure!(Instant::now() < deadline, "the status never spoke of the clock: {status}");
        std::thread::sleep(Duration::from_millis(200));
    }
    branch.edge.stop()?;
    branch.edge.options().env.clear();
    branch.edge.start()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn a_gateway_whose_clock_stands_in_the_past_serves() -> Result<()> {
    let Some(gateway) = shifted("-20y") else { return Ok(()) };
    replicates(branch(None, Some(gateway))?)
}
