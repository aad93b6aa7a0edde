//! Many branches at once: light edges, each with an identity, a store and a thin line of its own, against one real gateway.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use dedupe::{ByteCount, LineageId};
use lab::images::same_bytes;
use lab::line::{LinkSpec, Rate, Relay};
use lab::report::{Verdict, bytes, parse_size, print_verdicts, time, write_json};
use lab::volumes::Sample;
use lab::world::{Binaries, Gateway, GatewayOptions, PATIENCE, World};
use sluice_edge::capture::OnReadError;
use sluice_edge::source::SourceSpec;
use sluice_edge::volumes::VolumeEntry;
use sluice_edge::{Config, Daemon};
use tokio::task::JoinSet;
use wire::token::Token;

/// Replicates a small volume of each of many branches at the same time, and says what that costs the gateway.
#[derive(Parser)]
#[command(name = "fleet")]
struct Asked {
    /// How many branches.
    #[arg(long, default_value_t = 62)]
    edges: usize,
    /// Each branch's line, Mbit/s.
    #[arg(long, default_value_t = 2.0)]
    line: f64,
    /// Size of each branch's volume; a little over half of it is in use.
    #[arg(long, value_parser = parse_size, default_value = "16M")]
    size: u64,
    /// Write the rows {what, asked, measured, unit, holds} as a JSON array into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What the allowed rate is of the line.
const SHARE: f64 = 0.96;
/// Gateway memory that an idle edge may cost.
const IDLE_MIB: f64 = 4.0;
const VOLUME: &str = "disk";

fn main() -> Result<()> {
    let asked = Asked::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let verdicts = runtime.block_on(run(&asked))?;
    print_verdicts(&verdicts);
    if let Some(file) = &asked.json {
        write_json(file, &verdicts)?;
    }
    ensure!(verdicts.iter().all(|verdict| verdict.holds != Some(false)), "not everything is as asked");
    Ok(())
}

async fn run(asked: &Asked) -> Result<Vec<Verdict>> {
    let world = World::with(Binaries::find()?, &std::env::temp_dir())?;
    let mut gateway = world.gateway(GatewayOptions::default())?;
    gateway.start()?;
    let empty = gateway.daemon()?.rss()?;
    println!("{} branches on {} Mbit/s each, volumes of {}", asked.edges, asked.line, bytes(asked.size));
    let mut branches = Vec::new();
    for number in 0..asked.edges {
        branches.push(Branch::open(&world, &gateway, number, asked).await?);
    }
    wait_connected(&mut gateway, asked.edges)?;
    let idle = gateway.daemon()?.rss()?;
    println!("all are connected; the gateway has {} for them", bytes(idle.saturating_sub(empty)));

    gateway.daemon()?.reset_peak()?;
    let (cpu, started) = (gateway.daemon()?.cpu_seconds()?, Instant::now());
    let coded = replicate_all(&branches).await?;
    let (cpu, seconds) = (gateway.daemon()?.cpu_seconds()? - cpu, started.elapsed().as_secs_f64());
    let (peak, after) = (gateway.daemon()?.peak_rss()?, gateway.daemon()?.rss()?);
    println!("all are sealed after {}", time(seconds));

    let verified = branches.iter().filter(|branch| branch.is_rebuilt(&gateway, world.path()).unwrap_or(false)).count();
    for branch in branches {
        branch.daemon.shutdown().await;
    }
    gateway.stop()?;
    let edges = asked.edges as f64;
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    Ok(vec![
        Verdict::at_least("edges that finished, rebuilt and compared", edges, verified as f64, "edges"),
        Verdict::at_most("gateway memory per idle edge", IDLE_MIB, mib(idle.saturating_sub(empty)) / edges, "MiB"),
        Verdict::reported(
            "gateway memory per edge afterwards, caches included",
            mib(after.saturating_sub(empty)) / edges,
            "MiB",
        ),
        Verdict::reported("gateway peak while all send", mib(peak), "MiB"),
        Verdict::reported("gateway CPU per edge", cpu / edges, "s"),
        Verdict::reported("gateway CPU", cpu / seconds, "cores"),
        Verdict::reported("coded bytes per edge", coded as f64 / edges / 1e6, "MB"),
        Verdict::reported("line used, of all lines", coded as f64 * 8e-6 / seconds / (asked.line * edges), "share"),
    ])
}

/// One branch: its daemon, its line, its volume.
struct Branch {
    site: String,
    daemon: Daemon,
    sample: Sample,
    _line: Relay,
}

impl Branch {
    async fn open(world: &World, gateway: &Gateway, number: usize, asked: &Asked) -> Result<Self> {
        let site = format!("branch-{:02}", number + 1);
        let folder = world.path().join(&site);
        std::fs::create_dir_all(&folder)?;
        let sample = Sample::create(&folder.join("volume.img"), asked.size, number as u64 + 1)?;
        let line = line_to(gateway.address(), asked.line, number).await?;
        let mut token: Token = gateway.token(&site)?.parse().context("reading a token")?;
        token.addresses = vec![line.addr().to_string()]; // each branch has a line of its own to the same gateway
        let config = config(&folder, asked.line)?;
        sluice_edge::enrol(&config, &token).await.with_context(|| format!("enrolling {site}"))?;
        let daemon = Daemon::start(config).await.with_context(|| format!("starting {site}"))?;
        let source: SourceSpec = format!("file:{}", sample.path().display()).parse().context("naming the source")?;
        let entry = VolumeEntry {
            name: VOLUME.into(),
            lineage: LineageId::random(),
            source,
            on_read_error: OnReadError::Stop,
            freeze: None,
        };
        daemon.add_volume(entry).await?;
        Ok(Self { site, daemon, sample, _line: line })
    }

    fn is_rebuilt(&self, gateway: &Gateway, folder: &Path) -> Result<bool> {
        let rebuilt = folder.join(format!("{}.img", self.site));
        gateway.rehydrate(&format!("{}/{VOLUME}", self.site), "latest", &rebuilt)?;
        let equal = same_bytes(self.sample.path(), &rebuilt)?;
        std::fs::remove_file(&rebuilt)?;
        Ok(equal)
    }
}

/// A line of its own from an address of its own: the gateway limits attempts to enrol by where they come from.
async fn line_to(gateway: SocketAddr, mbit: f64, number: usize) -> Result<Relay> {
    let link = LinkSpec::branch(Rate::mbit(mbit));
    let source = Ipv4Addr::new(127, 17, (number / 250) as u8, (number % 250) as u8 + 1);
    Relay::from(source, gateway, link.clone(), link, number as u64 + 1).await
}

/// As small as an edge can be: all of them are in this process.
fn config(folder: &Path, mbit: f64) -> Result<Config> {
    let mut config = Config::new(folder.join("state"));
    let rate: shaping::Rate = format!("{:.0} kbit/s", mbit * 1000.0 * SHARE).parse().context("the rate of an edge")?;
    config.rate = Some(rate);
    config.memory = ByteCount(384 << 20);
    config.cache = ByteCount(1 << 30);
    config.capture.workers = 1;
    config.http = None;
    config.page = None;
    Ok(config)
}

fn wait_connected(gateway: &mut Gateway, edges: usize) -> Result<()> {
    gateway.daemon()?.wait_until("all edges being connected", PATIENCE, |daemon| {
        let connected = daemon.metrics()?.count("sluice_gateway_sites_connected", &[]);
        Ok((connected >= edges as u64).then_some(()))
    })?;
    Ok(())
}

/// Captures everywhere at once and waits until all are sealed; gives the coded bytes of all.
async fn replicate_all(branches: &[Branch]) -> Result<u64> {
    let done = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut running = JoinSet::new();
    for branch in branches {
        let (daemon, site, done) = (branch.daemon.clone(), branch.site.clone(), Arc::clone(&done));
        let all = branches.len();
        running.spawn(async move {
            let report = daemon.replicate(VOLUME).await.with_context(|| format!("replicating {site}"))?;
            let number = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            println!("{number:3} of {all}: {site} sealed, {}", bytes(report.coded_bytes));
            anyhow::Ok(report.coded_bytes)
        });
    }
    let mut coded = 0;
    while let Some(report) = running.join_next().await {
        coded += report??;
    }
    Ok(coded)
}
