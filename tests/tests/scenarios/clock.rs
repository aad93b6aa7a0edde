//! A wrong clock at either end.

use super::branch::{Branch, Setup};
use anyhow::Result;
use lab::world::{EdgeOptions, GatewayOptions};
use std::process::{Command, Stdio};

/// A program that gives the daemon another time; `None`, and the test is skipped, where there is none.
fn shifted(by: &str) -> Option<Vec<String>> {
    let there = Command::new("faketime").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        lab::skip("faketime is not installed");
        return None;
    }
    // The monotonic clock stays true, as it does on a machine whose battery is empty.
    let args = ["env", "DONT_FAKE_MONOTONIC=1", "faketime", "-f", by];
    Some(args.into_iter().map(str::to_owned).collect())
}

fn replicates(edge: Option<Vec<String>>, gateway: Option<Vec<String>>) -> Result<()> {
    let usual = Setup::default();
    let setup = Setup {
        edge: EdgeOptions { wrapper: edge.unwrap_or_default(), ..usual.edge },
        gateway: GatewayOptions { wrapper: gateway.unwrap_or_default(), ..usual.gateway },
        size: 16 << 20,
        ..Setup::default()
    };
    let mut branch = Branch::with(setup)?;
    branch.replicate()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn an_edge_whose_clock_stands_in_the_past_replicates() -> Result<()> {
    let Some(edge) = shifted("-20y") else { return Ok(()) };
    replicates(Some(edge), None)
}

#[test]
fn an_edge_whose_clock_is_some_days_ahead_replicates() -> Result<()> {
    let Some(edge) = shifted("+5d") else { return Ok(()) };
    replicates(Some(edge), None)
}

#[test]
fn a_gateway_whose_clock_stands_in_the_past_serves() -> Result<()> {
    let Some(gateway) = shifted("-20y") else { return Ok(()) };
    replicates(None, Some(gateway))
}
