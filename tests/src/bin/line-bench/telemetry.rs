//! What an edge with three volumes spends on its line to be known about: keep-alives, signs of life with telemetry, the time, evidence and grants, by the
//! meters of real daemons (IP level, both connections, both ways).

use crate::Row;
use anyhow::{Context, Result};
use lab::world::{EdgeOptions, GatewayOptions, World};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The beginning of a session is no idle time: handshakes, the policy, the first deal, the first word about everything.
const SETTLE: Duration = Duration::from_secs(75);
/// All week open, so that nothing is saved by being closed.
const OPEN: &str = "full";
/// All week closed: what changes is captured and told of, and nothing of it travels.
const CLOSED: &str = "closed";
/// IP-level bytes a minute: the promise.
const MOST: f64 = 1_000.0;
/// Volumes of the edge.
const VOLUMES: [&str; 3] = ["core-db", "files", "mail"];
/// Bytes of each.
const SIZE: u64 = 8 << 20;
/// How often something of each changes, where they change; they are captured as often.
const CHANGE_EVERY: Duration = Duration::from_secs(20);

pub(crate) fn rows(quick: bool) -> Result<Vec<Row>> {
    // Evidence goes by the quarter of an hour: sixteen minutes have one.
    let time = Duration::from_secs(if quick { 180 } else { 16 * 60 });
    let still = std::thread::spawn(move || idle(time, "", OPEN));
    let dealt = std::thread::spawn(move || idle(time, "ingress = \"100 Mbit/s\"\n", OPEN));
    let changing = std::thread::spawn(move || idle(time, "", CLOSED));
    let joined = |thread: std::thread::JoinHandle<Result<f64>>| {
        thread.join().map_err(|_| anyhow::anyhow!("a measurement panicked"))?
    };
    let minute = "bytes a minute";
    Ok(vec![
        Row::at_most("an edge with three volumes without work", MOST, joined(still)?, minute),
        Row::at_most("the same, the gateway deals its line out", MOST, joined(dealt)?, minute),
        Row::at_most(
            "an edge with three volumes that change and wait for their window",
            MOST,
            joined(changing)?,
            minute,
        ),
    ])
}

/// Bytes a minute of one edge. Where its line is closed its volumes change.
fn idle(time: Duration, gateway: &str, profile: &str) -> Result<f64> {
    let world = World::new()?;
    let mut gateway = world.gateway(GatewayOptions { extra: gateway.into(), ..GatewayOptions::default() })?;
    gateway.start()?;
    let mut options = EdgeOptions { rate: String::new(), ..EdgeOptions::default() };
    if profile == CLOSED {
        options.capture = format!("interval = \"{} s\"", CHANGE_EVERY.as_secs());
    }
    let mut edge = world.edge("quiet", options)?;
    edge.enrol(&gateway.token("quiet")?)?;
    let file = world.path().join("policy.toml");
    let policy = format!(
        "zone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\n[profiles]\nfull = \"100 %\"\n[grid]\nall = \"00:00 {profile}\"\n\
         [[quotas]]\nperiod = \"month\"\nlimit = \"40 GB\"\n"
    );
    std::fs::write(&file, policy)?;
    gateway.run("policy", &["set", "--site", "quiet", "--file", &file.to_string_lossy(), "--reason", "telemetry"])?;
    edge.start()?;
    let images: Vec<PathBuf> = VOLUMES.iter().map(|name| world.path().join(format!("{name}.img"))).collect();
    for (name, image) in VOLUMES.iter().zip(&images) {
        std::fs::File::create(image)?.set_len(SIZE)?;
        edge.add_volume(name, image)?;
        if profile == OPEN {
            edge.capture(name)?;
        }
    }
    let mut turn = 0;
    let mut wait = |time: Duration| -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            turn += 1;
            for image in images.iter().filter(|_| profile == CLOSED) {
                scribble(image, turn)?;
            }
            std::thread::sleep(CHANGE_EVERY.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    };
    wait(SETTLE)?;
    let mut crossed = || -> Result<f64> {
        let metrics = edge.daemon()?.metrics()?;
        metrics.value("sluice_link_ip_bytes_total", &[]).context("the edge has meters")
    };
    let before = crossed()?;
    wait(time)?;
    Ok((crossed()? - before) * 60.0 / time.as_secs_f64())
}

/// Changes some blocks, more each time and elsewhere, so that every figure about the volume moves.
fn scribble(image: &std::path::Path, turn: u64) -> Result<()> {
    let file = std::fs::File::options().write(true).open(image)?;
    let bytes: Vec<u8> = (0..4096 * (1 + turn % 7)).map(|at| (at * turn * 7 % 251) as u8).collect();
    file.write_all_at(&bytes, turn * 123_457 % (SIZE - bytes.len() as u64))?;
    Ok(())
}
