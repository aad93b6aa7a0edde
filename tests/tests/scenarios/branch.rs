//! A branch and its centre, as most scenarios begin: a gateway, one edge behind a line that can be cut, a sample volume.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::images::{copy_sparse, same_bytes};
use lab::line::{Fate, LinkSpec, Relay};
use lab::volumes::Sample;
use lab::wan::blake3_of;
use lab::world::{Captured, Edge, EdgeOptions, Gateway, GatewayOptions, HURRY, World, free_udp};
use tokio::runtime::Runtime;

/// The site's name.
pub(crate) const SITE: &str = "branch-17";
/// The volume's name.
pub(crate) const VOLUME: &str = "disk";
/// How long a branch may take to be in order again after anything: longer than every time-out of ours.
pub(crate) const RECOVERY: Duration = Duration::from_secs(300);
/// Small enough to be quick, large enough for several parcels at the least memory.
const SIZE: u64 = 96 << 20;

/// How a branch differs from the usual one.
pub(crate) struct Setup {
    pub(crate) size: u64,
    pub(crate) seed: u64,
    pub(crate) link: LinkSpec,
    pub(crate) gateway: GatewayOptions,
    pub(crate) edge: EdgeOptions,
}

impl Default for Setup {
    fn default() -> Self {
        let extra = format!("memory = \"384 MiB\"\n{HURRY}"); // parcels of 16 MiB, so that there are several
        Self {
            size: SIZE,
            seed: 1,
            link: LinkSpec::default(),
            gateway: GatewayOptions::default(),
            edge: EdgeOptions { extra, ..EdgeOptions::default() },
        }
    }
}

/// Everything of one scenario. Fields are dropped in order: daemons, line, folder.
pub(crate) struct Branch {
    pub(crate) edge: Edge,
    pub(crate) gateway: Gateway,
    pub(crate) line: Line,
    pub(crate) sample: Sample,
    pub(crate) world: World,
}

/// A relay with the runtime that it lives in.
pub(crate) struct Line {
    relay: Relay,
    runtime: Runtime,
}

impl Line {
    pub(crate) fn to(target: std::net::SocketAddr, link: &LinkSpec) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let relay = runtime.block_on(Relay::start(target, link.clone(), link.clone()))?;
        Ok(Self { relay, runtime })
    }

    /// IP bytes from the branch that came out at the centre.
    pub(crate) fn carried_up(&self) -> u64 {
        self.relay.reading().up.of(Fate::Delivered).bytes
    }

    /// Waits until this many more bytes came out at the centre.
    pub(crate) fn wait_carried(&self, more: u64) -> Result<()> {
        let (from, deadline) = (self.carried_up(), std::time::Instant::now() + RECOVERY);
        while self.carried_up() < from + more {
            ensure!(std::time::Instant::now() < deadline, "the line carried nothing for {} s", RECOVERY.as_secs());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Another line on another port, to the same or another target; the old one stays.
    pub(crate) fn beside(&self, target: std::net::SocketAddr) -> Result<Relay> {
        self.runtime.block_on(Relay::start(target, LinkSpec::default(), LinkSpec::default()))
    }
}

impl std::ops::Deref for Line {
    type Target = Relay;
    fn deref(&self) -> &Relay {
        &self.relay
    }
}

impl Branch {
    /// With everything as usual, both daemons running, nothing replicated yet.
    pub(crate) fn new() -> Result<Self> {
        Self::with(Setup::default())
    }

    /// As [`Branch::new`], with the first generation replicated and proved.
    pub(crate) fn seeded() -> Result<Self> {
        let mut branch = Self::new()?;
        branch.replicate()?;
        Ok(branch)
    }

    pub(crate) fn with(mut setup: Setup) -> Result<Self> {
        let world = World::new()?;
        let sample = Sample::create(&world.path().join("volume.img"), setup.size, setup.seed)?;
        let address = free_udp()?;
        let line = Line::to(address, &setup.link)?;
        setup.gateway.address = Some(address);
        setup.gateway.announced.get_or_insert_with(|| vec![line.addr().to_string()]);
        let mut gateway = world.gateway(setup.gateway)?;
        gateway.start()?;
        let mut edge = world.edge(SITE, setup.edge)?;
        edge.enrol(&gateway.token(SITE)?)?;
        edge.start()?;
        edge.add_volume(VOLUME, sample.path())?;
        Ok(Self { edge, gateway, line, sample, world })
    }

    /// Captures the volume, waits until it is sealed at the centre, rebuilds it there and compares.
    pub(crate) fn replicate(&mut self) -> Result<Captured> {
        let captured = self.edge.capture(VOLUME)?;
        self.prove(&captured, self.sample.path())?;
        Ok(captured)
    }

    /// Rebuilds the newest generation and compares it with `source`, bytes and root.
    pub(crate) fn prove(&self, captured: &Captured, source: &Path) -> Result<()> {
        let rebuilt = self.rebuilt();
        self.gateway.rehydrate(&self.volume(), "latest", &rebuilt)?;
        ensure!(same_bytes(source, &rebuilt)?, "the rebuilt volume differs from {}", source.display());
        ensure!(blake3_of(&rebuilt)? == captured.root, "the rebuilt volume has another root than the capture");
        Ok(())
    }

    pub(crate) fn rebuilt(&self) -> PathBuf {
        self.world.path().join("rebuilt.img")
    }

    /// `site/volume`.
    pub(crate) fn volume(&self) -> String {
        format!("{SITE}/{VOLUME}")
    }

    /// A copy of the volume as it is now.
    pub(crate) fn keep_copy(&self, name: &str) -> Result<PathBuf> {
        let copy = self.world.path().join(name);
        copy_sparse(self.sample.path(), &copy)?;
        Ok(copy)
    }

    /// `capture --wait` as a process of its own, while the scenario does something.
    pub(crate) fn begin_capture(&self) -> Result<Running> {
        let mut command = self.edge.capture_in_background(VOLUME);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Running::new(command.spawn().context("starting a capture")?))
    }
}

/// A capture that runs. Dropping it kills it.
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Takes over a capture that was started.
    pub(crate) fn new(capture: Child) -> Self {
        Running(Some(capture))
    }

    /// Waits for the end of something that prints no capture; an error where it failed.
    pub(crate) fn wait(mut self) -> Result<()> {
        let child = self.0.take().context("it is finished once only")?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "it ended with {}: {said}", output.status);
        Ok(())
    }

    /// Waits for its end; an error where it failed, as it does when its daemon was killed.
    pub(crate) fn finish(mut self) -> Result<Captured> {
        let child = self.0.take().context("it is finished once only")?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "the capture ended with {}: {said}", output.status);
        let last = said.lines().rev().find(|line| line.starts_with('{')).context("the capture gave no result")?;
        serde_json::from_str(last).with_context(|| format!("reading {last}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill(); // fails only when it has ended already
            let _ = child.wait();
        }
    }
}
