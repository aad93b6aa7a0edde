//! The demo: a branch's volume goes to the centre over a thin line, changes for a day, follows, and is rebuilt and proved.
//!
//! Everything is real except the line: the gateway and the edge are processes of their own, with their certificates, stores and
//! sockets; between them an emulated line drops, delays and queues packets as a leased line does.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

mod screen;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use lab::images::{copy_sparse, dirty_bytes, same_bytes, used_bytes};
use lab::line::{Fate, LinkSpec, Rate, Relay};
use lab::report::{bytes, parse_size, table, time};
use lab::volumes::{Sample, disturb};
use lab::wan::blake3_of;
use lab::world::{Binaries, Captured, Edge, EdgeOptions, Gateway, GatewayOptions, World, free_tcp, free_udp};
use screen::Screen;
use sluice_edge::admin::{self, Outcome, Request};
use tokio::runtime::Runtime;

/// Sends a sample volume, and then a busy day's changes, over an emulated thin line, and proves the copy.
#[derive(Parser)]
#[command(name = "demo")]
struct Asked {
    /// Send a copy of this file or image instead of the sample (the file itself is only read).
    #[arg(long, value_name = "FILE")]
    volume: Option<PathBuf>,
    /// Size of the sample volume; a little over half of it is in use.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "256M")]
    size: u64,
    /// The line's rate in Mbit/s.
    #[arg(long, value_name = "MBIT", default_value_t = 10.0)]
    line: f64,
    /// Leave gateway and edge running at the end, to be looked at in a browser, until Enter is pressed.
    #[arg(long)]
    stay: bool,
}

const STEPS: usize = 7;
const SITE: &str = "branch-17";
const VOLUME: &str = "disk";
/// Share of the line that replication is allowed here: nobody else is on it, and the queue should stay empty.
const SHARE: f64 = 0.96;
/// The thinnest line that Sluice is made for, in bits per second.
const THINNEST: f64 = 2e6;
/// How often progress is drawn.
const TICK: Duration = Duration::from_millis(200);
/// The sample's seed: everybody sees the same demo.
const SEED: u64 = 17;

fn main() -> Result<()> {
    let asked = Asked::parse();
    ensure!(asked.line >= 0.1, "--line {}: give the rate in Mbit/s, at least 0.1", asked.line);
    let mut screen = Screen::new(STEPS);
    screen.say(&screen.bold("\nSluice: a volume of a branch, replicated to the centre over a thin line, and proved"));
    screen.say(&format!(
        "The line is emulated on this machine: {} Mbit/s, 80 ms round trip, 0.1 % loss. All else is real.",
        asked.line
    ));
    let binaries = build(&mut screen)?;
    let world = World::with(binaries, &std::env::temp_dir())?;
    let mut sample = Source::make(&mut screen, world.path(), &asked)?;
    let mut site = Site::connect(&mut screen, &world, &sample.path, asked.line)?;

    screen.begin("First generation: the whole volume");
    let first = site.replicate(&mut screen)?;
    screen.begin("A busy day at the branch");
    let before = world.path().join("before.img");
    copy_sparse(&sample.path, &before)?;
    sample.busy_day(&mut screen)?;
    let dirty = dirty_bytes(&before, &sample.path)?;
    screen.found("blocks that changed", &bytes(dirty));
    screen.begin("Second generation: what changed");
    let second = site.replicate(&mut screen)?;

    screen.begin("Rebuilding both generations at the centre");
    let used = used_bytes(&before)?;
    let generations = [
        Proof::of(&mut screen, &site, &world, "1", &first, &before, used)?,
        Proof::of(&mut screen, &site, &world, "2", &second, &sample.path, dirty)?,
    ];
    screen.say(&format!("\n{}", summary(&generations, asked.line)));
    if asked.stay {
        site.stay(&mut screen)?;
    }
    site.close()?;
    ensure!(generations.iter().all(|proof| proof.equal), "a rebuilt volume differs from its source");
    screen
        .say(&screen.bold("Both generations were rebuilt at the centre and are, byte for byte, the branch's volume."));
    Ok(())
}

/// Builds the two daemons where this runs under cargo; otherwise they lie beside this program.
fn build(screen: &mut Screen) -> Result<Binaries> {
    screen.begin("Building the two daemons");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        command.args(["build", "--release", "-p", "sluice-edge", "-p", "sluice-gateway", "--bins"]);
        command.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
        let status = command.status().context("starting cargo to build the daemons")?;
        ensure!(status.success(), "the daemons do not build; what cargo printed above says why");
    }
    let binaries = Binaries::find()?;
    screen.found("gateway and edge", "built");
    Ok(binaries)
}

/// The volume that is replicated: a sample that changes as a branch's does, or a copy of what was named.
struct Source {
    path: PathBuf,
    sample: Option<Sample>,
}

impl Source {
    fn make(screen: &mut Screen, folder: &Path, asked: &Asked) -> Result<Self> {
        screen.begin("A volume to replicate");
        let path = folder.join("volume.img");
        let source = match &asked.volume {
            Some(file) => {
                copy_sparse(file, &path).with_context(|| format!("copying {}", file.display()))?;
                Self { path, sample: None }
            }
            None => {
                let sample = Sample::create(&path, asked.size, SEED)?;
                screen.found("made from", "a file tree, programs, logs, a database with its log");
                Self { path, sample: Some(sample) }
            }
        };
        let size = std::fs::metadata(&source.path)?.len();
        screen.found("size, and of it in use", &format!("{}, {}", bytes(size), bytes(used_bytes(&source.path)?)));
        Ok(source)
    }

    fn busy_day(&mut self, screen: &mut Screen) -> Result<()> {
        let Some(sample) = &mut self.sample else {
            let changed = disturb(&self.path, SEED)?;
            screen.found("blocks edited, moved and zeroed in a copy", &bytes(changed));
            return Ok(());
        };
        let day = sample.busy_day()?;
        screen.found("database pages updated", &format!("{}, logged in {}", day.pages, bytes(day.database_log)));
        screen.found("log files grew by", &bytes(day.logged));
        screen.found(
            "files edited, moved, new, removed",
            &format!("{}, {}, {}, {}", day.edited, day.moved, day.added, day.removed),
        );
        screen.found("zeroed or given back", &bytes(day.zeroed));
        Ok(())
    }
}

/// Both daemons and the line between them.
struct Site {
    gateway: Gateway,
    edge: Edge,
    relay: Relay,
    runtime: Runtime,
    seen: u64,
    pages: std::net::SocketAddr,
}

/// What it took to replicate one generation.
struct Replicated {
    captured: Captured,
    wire: u64,
    seconds: f64,
}

impl Site {
    fn connect(screen: &mut Screen, world: &World, volume: &Path, line: f64) -> Result<Self> {
        screen.begin("A gateway at the centre, an edge at the branch, a line between them");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let address = free_udp()?;
        let mut link = LinkSpec::branch(Rate::mbit(line));
        link.loss.share = 0.001;
        let relay = runtime.block_on(Relay::start(address, link.clone(), link))?;
        let announced = Some(vec![relay.addr().to_string()]);
        let pages = free_tcp()?;
        let web = Some(format!("listen = \"{pages}\"\ntls = \"off\""));
        let mut gateway =
            world.gateway(GatewayOptions { address: Some(address), announced, web, ..GatewayOptions::default() })?;
        gateway.start()?;
        screen.found("gateway", &format!("runs, process {}", gateway.daemon()?.pid()));
        let rate = format!("{:.0} kbit/s", line * 1000.0 * SHARE);
        let mut edge = world.edge(SITE, EdgeOptions { rate: rate.clone(), ..EdgeOptions::default() })?;
        edge.enrol(&gateway.token(SITE)?)?;
        screen.found("edge", "enrolled with a one-time token, its key was made here");
        edge.start()?;
        edge.add_volume(VOLUME, volume)?;
        screen.found("", &format!("runs, process {}, allowed {rate} of the line", edge.daemon()?.pid()));
        Ok(Self { gateway, edge, relay, runtime, seen: 0, pages })
    }

    /// Captures the volume and waits until its generation is sealed at the gateway.
    fn replicate(&mut self, screen: &mut Screen) -> Result<Replicated> {
        let started = Instant::now();
        let captured = self.watch(screen)?;
        let seconds = started.elapsed().as_secs_f64();
        let total = self.wire()?;
        let wire = total - self.seen;
        self.seen = total;
        screen.found("captured", &format!("{} changed, in {}", bytes(captured.dirty_bytes), time(captured.capture_s)));
        screen.found("sent, everything counted", &format!("{} in {}", bytes(wire), time(seconds)));
        Ok(Replicated { captured, wire, seconds })
    }

    /// Asks for a capture as `sluice-edge capture --wait` does, and shows what it says together with what the line carries.
    fn watch(&mut self, screen: &mut Screen) -> Result<Captured> {
        let (state, text) = (self.edge.state(), Arc::new(Mutex::new(String::new())));
        let said = Arc::clone(&text);
        let mut asked = self.runtime.spawn(async move {
            let request = Request::Capture { volume: Some(VOLUME.into()), wait: true };
            admin::ask(&state, &request, |line| {
                line.clone_into(&mut said.lock().unwrap_or_else(PoisonError::into_inner))
            })
            .await
        });
        let mut carried = Carried::default();
        let outcome = loop {
            let waited = self.runtime.block_on(async { tokio::time::timeout(TICK, &mut asked).await });
            if let Ok(done) = waited {
                break done??;
            }
            let total = self.relay.reading().up.of(Fate::Delivered).bytes;
            let said = text.lock().unwrap_or_else(PoisonError::into_inner).clone();
            screen.live(&format!("{} | {said}", carried.show(total)));
        };
        let Outcome::Captured(reports) = outcome else { bail!("the edge answered something else than a capture") };
        reports.into_iter().next().context("the edge captured nothing")
    }

    /// IP-level bytes both ways since the edge's start, handshakes and acknowledgements included.
    fn wire(&mut self) -> Result<u64> {
        Ok(self.edge.daemon()?.metrics()?.count("sluice_link_ip_bytes_total", &[]))
    }

    /// Says where everything is, and waits for Enter or the end of the input.
    fn stay(&self, screen: &mut Screen) -> Result<()> {
        let password = self.gateway.run("user", &["add", "demo", "--role", "administrator"])?;
        screen.say(&format!(
            "\nGateway and edge run on. Pages: http://{}, account `demo`, first password {}",
            self.pages,
            password.trim()
        ));
        screen.say(&format!("To watch them: monitoring/up --gateway {}", self.gateway.http()));
        screen.say("Enter ends them.");
        std::io::stdin().read_line(&mut String::new()).context("waiting for Enter")?;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.edge.stop()?;
        self.gateway.stop()?;
        Ok(())
    }
}

/// What the line carries now: the rate over the last ticks.
#[derive(Default)]
struct Carried {
    history: Vec<(Option<Instant>, u64)>,
}

impl Carried {
    fn show(&mut self, total: u64) -> String {
        let now = Instant::now();
        self.history.push((Some(now), total));
        let first = self.history[self.history.len().saturating_sub(10)];
        let seconds = first.0.map_or(0.0, |then| now.duration_since(then).as_secs_f64());
        let rate = if seconds > 0.0 { (total - first.1) as f64 * 8e-6 / seconds } else { 0.0 };
        let since = total - self.history[0].1;
        format!("line: {rate:5.2} Mbit/s, {} so far", bytes(since))
    }
}

/// One generation, rebuilt at the centre and compared.
struct Proof {
    dirty: u64,
    wire: u64,
    seconds: f64,
    root: String,
    equal: bool,
}

impl Proof {
    fn of(
        screen: &mut Screen,
        site: &Site,
        world: &World,
        number: &str,
        sent: &Replicated,
        source: &Path,
        dirty: u64,
    ) -> Result<Self> {
        let started = Instant::now();
        let rebuilt = world.path().join("rebuilt.img");
        site.gateway.rehydrate(&format!("{SITE}/{VOLUME}"), number, &rebuilt)?;
        let seconds = started.elapsed().as_secs_f64();
        let root = blake3_of(&rebuilt)?;
        let equal = same_bytes(source, &rebuilt)? && root == sent.captured.root && root == blake3_of(source)?;
        let verdict = if equal { "every byte equal, roots equal" } else { "DIFFERENT" };
        screen.found(&format!("generation {number}, rebuilt in {}", time(seconds)), verdict);
        Ok(Self { dirty, wire: sent.wire, seconds: sent.seconds, root, equal })
    }
}

fn summary(generations: &[Proof], line: f64) -> String {
    let row = |what: &str, cell: &dyn Fn(&Proof) -> String| {
        [what.to_owned()].into_iter().chain(generations.iter().map(cell)).collect::<Vec<_>>()
    };
    let here = format!("time here, at {line} Mbit/s");
    let rows = [
        row("bytes dirty", &|proof| bytes(proof.dirty)),
        row("bytes on the wire, both ways", &|proof| bytes(proof.wire)),
        row("ratio", &|proof| format!("{:.1} : 1", proof.dirty as f64 / proof.wire as f64)),
        row(&here, &|proof| time(proof.seconds)),
        row("time at 2 Mbit/s", &|proof| time(proof.wire as f64 * 8.0 / THINNEST)),
        row("root", &|proof| format!("{}…", &proof.root[..12])),
        row("roots and bytes equal", &|proof| if proof.equal { "yes".into() } else { "NO".into() }),
    ];
    table(&["", "first generation", "busy day"], &rows)
}
