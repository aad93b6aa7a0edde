//! What an edge without work spends on its line: keep-alives, signs of life, the time, evidence and grants, by the meters of real daemons (IP level, both
//! connections, both ways).

use crate::Row;
use anyhow::{Context, Result};
use lab::world::{EdgeOptions, GatewayOptions, World};
use std::time::Duration;

/// The beginning of a session is no idle time: handshakes, the policy, the first deal.
const SETTLE: Duration = Duration::from_secs(75);
/// All week open, so that nothing is saved by being closed.
const POLICY: &str = "zone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\n[profiles]\nfull = \"100 %\"\n[grid]\nall = \"00:00 full\"\n\
    [[quotas]]\nperiod = \"month\"\nlimit = \"40 GB\"\n";
/// IP-level bytes a minute: the promise.
const MOST: f64 = 1_000.0;

pub(crate) fn rows(quick: bool) -> Result<Vec<Row>> {
    // Evidence goes by the quarter of an hour: sixteen minutes have one.
    let time = Duration::from_secs(if quick { 120 } else { 16 * 60 });
    let plain = std::thread::spawn(move || idle(time, ""));
    let dealt = std::thread::spawn(move || idle(time, "ingress = \"100 Mbit/s\"\n"));
    let joined = |thread: std::thread::JoinHandle<Result<f64>>| {
        thread.join().map_err(|_| anyhow::anyhow!("a measurement panicked"))?
    };
    Ok(vec![
        Row::at_most("an edge without work", MOST, joined(plain)?, "bytes a minute"),
        Row::at_most("an edge without work, the gateway deals its line out", MOST, joined(dealt)?, "bytes a minute"),
    ])
}

/// Bytes a minute of one edge.
fn idle(time: Duration, gateway: &str) -> Result<f64> {
    let world = World::new()?;
    let mut gateway = world.gateway(GatewayOptions { extra: gateway.into(), ..GatewayOptions::default() })?;
    gateway.start()?;
    let mut edge = world.edge("quiet", EdgeOptions { rate: String::new(), ..EdgeOptions::default() })?;
    edge.enrol(&gateway.token("quiet")?)?;
    let file = world.path().join("policy.toml");
    std::fs::write(&file, POLICY)?;
    gateway.run("policy", &["set", "--site", "quiet", "--file", &file.to_string_lossy(), "--reason", "telemetry"])?;
    edge.start()?;
    std::thread::sleep(SETTLE);
    let mut crossed = || -> Result<f64> {
        let metrics = edge.daemon()?.metrics()?;
        metrics.value("sluice_link_ip_bytes_total", &[]).context("the edge has meters")
    };
    let before = crossed()?;
    std::thread::sleep(time);
    Ok((crossed()? - before) * 60.0 / time.as_secs_f64())
}
