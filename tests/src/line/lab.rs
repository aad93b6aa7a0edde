//! Two network namespaces, a branch and a centre, with an emulated line between them.

use super::link::LinkSpec;
use super::tun::{Wan, WanSpec, ip, within};
use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The branch's address on the line.
pub const BRANCH_ADDR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The centre's address on the line.
pub const CENTRE_ADDR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// Begins the names of all namespaces made here; the process id and a number follow.
const PREFIX: &str = "sluice-lab";

/// Why a lab cannot be made on this machine, for the message of a skipped test.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no network namespaces with TUN devices here: {0}")]
pub struct Unavailable(String);

/// A branch and a centre with a line in between; dereferences to the line. All of it goes when this is dropped.
pub struct Lab {
    // Dropped before the namespaces: its devices live in them.
    wan: Wan,
    branch: Namespace,
    centre: Namespace,
}

impl Lab {
    /// Makes a line that behaves like `up` from the branch to the centre and like `down` back.
    pub fn start(up: LinkSpec, down: LinkSpec) -> Result<Lab> {
        Self::with(up, down, 1_500, 1)
    }

    /// The same with an MTU of the devices and a seed of the losses.
    pub fn with(up: LinkSpec, down: LinkSpec, mtu: u32, seed: u64) -> Result<Lab> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        remove_orphans();
        let number = LABS.fetch_add(1, Relaxed);
        let named = |side| Namespace::make(format!("{PREFIX}-{}-{number}-{side}", std::process::id()));
        let (branch, centre) = (named("branch")?, named("centre")?);
        let (a, b) = (branch.0.clone(), centre.0.clone());
        let wan = Wan::start(WanSpec { a, b, forth: up, back: down, mtu, seed, trace: false })?;
        Ok(Lab { wan, branch, centre })
    }

    /// Whether a lab can be made here; tried by making and removing one namespace with a device.
    pub fn available() -> Result<(), Unavailable> {
        let tried = || {
            let namespace = Namespace::make(format!("{PREFIX}-{}-probe", std::process::id()))?;
            within(&namespace.0, || ()).context("enter it")?;
            anyhow::ensure!(Path::new("/dev/net/tun").exists(), "there is no /dev/net/tun");
            Ok(())
        };
        tried().map_err(|error: anyhow::Error| Unavailable(format!("{error:#}")))
    }

    /// A command that runs `program` at the branch.
    pub fn branch_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.branch.command(program)
    }

    /// A command that runs `program` at the centre.
    pub fn centre_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.centre.command(program)
    }

    /// Runs `f` on a thread of its own at the branch; a runtime that it builds is there, too.
    pub fn in_branch<R: Send>(&self, f: impl FnOnce() -> R + Send) -> Result<R> {
        within(&self.branch.0, f)
    }

    /// Runs `f` on a thread of its own at the centre.
    pub fn in_centre<R: Send>(&self, f: impl FnOnce() -> R + Send) -> Result<R> {
        within(&self.centre.0, f)
    }
}

impl Deref for Lab {
    type Target = Wan;
    fn deref(&self) -> &Wan {
        &self.wan
    }
}

/// A named network namespace, removed when dropped. Processes in it live on, but lose the line.
struct Namespace(String);

impl Namespace {
    fn make(name: String) -> Result<Namespace> {
        ip(&format!("netns add {name}"))?;
        Ok(Namespace(name))
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns delete {}", self.0)) {
            eprintln!("{error:#}");
        }
    }
}

/// Removes the namespaces of labs whose process was killed before it could.
fn remove_orphans() {
    let names = ip("netns list").unwrap_or_default();
    for name in names.lines().filter_map(|line| line.split_whitespace().next()) {
        let made_by = name.strip_prefix(PREFIX).and_then(|rest| rest.trim_start_matches('-').split('-').next());
        if made_by.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::{Fate, Rate, Span};

    /// Waits for an event, at most half a minute.
    fn until(event: impl Fn() -> bool) -> Result<()> {
        let started = std::time::Instant::now();
        while !event() {
            anyhow::ensure!(started.elapsed().as_secs() < 30, "it did not happen");
            std::thread::yield_now();
        }
        Ok(())
    }

    #[test]
    fn a_lab_carries_pings_and_leaves_nothing_behind() -> Result<()> {
        if let Err(why) = Lab::available() {
            eprintln!("skipped: {why}");
            return Ok(());
        }
        let link = LinkSpec { rate: Rate::mbit(2.0), delay: Span(20_000_000), ..LinkSpec::default() };
        let lab = Lab::start(link.clone(), link)?;
        let reached = |lab: &Lab| {
            lab.in_branch(|| {
                let socket = std::net::UdpSocket::bind((BRANCH_ADDR, 0))?;
                socket.send_to(&[7; 100], (CENTRE_ADDR, 9))
            })
        };
        reached(&lab)??;
        until(|| lab.stats().0.of(Fate::Delivered).packets > 0)?;
        lab.cut();
        reached(&lab)??;
        until(|| lab.stats().0.of(Fate::Outage).packets > 0)?;
        let name = lab.branch.0.clone();
        assert!(Path::new(&format!("/run/netns/{name}")).exists());
        drop(lab);
        assert!(!Path::new(&format!("/run/netns/{name}")).exists());
        Ok(())
    }
}
