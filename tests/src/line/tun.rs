//! One emulated line between two network namespaces, by a TUN device in each: every IP packet that enters one leaves the other after the
//! link. QUIC, TCP and pings share it. No netem, no kernel modules; needs CAP_NET_ADMIN and CAP_SYS_ADMIN.

use super::link::{Fate, Link, LinkSpec, LinkStats};
use super::sys;
use anyhow::{Context, Result, ensure};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::unistd::{read, write};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest sleep: how soon a stop or a changed link is seen.
const TICK: u64 = 20_000_000;
/// The TUN device in each namespace.
pub(super) const DEVICE: &str = "wan0";

/// A line between two namespaces that exist.
#[derive(Debug, Clone)]
pub struct WanSpec {
    /// Side A's namespace; gets 10.99.0.1 and fd99::1.
    pub a: String,
    /// Side B's namespace; gets 10.99.0.2 and fd99::2.
    pub b: String,
    /// From A to B.
    pub forth: LinkSpec,
    /// From B to A.
    pub back: LinkSpec,
    /// The devices' MTU.
    pub mtu: u32,
    /// The same seed makes the same losses.
    pub seed: u64,
    /// Whether to keep one CSV line per packet.
    pub trace: bool,
}

/// A running line. It stops when dropped.
pub struct Wan {
    forth: Arc<Direction>,
    back: Arc<Direction>,
    stop: Arc<AtomicBool>,
    started: Instant,
    threads: Vec<JoinHandle<()>>,
}

struct Direction {
    name: &'static str,
    state: Mutex<State>,
}

struct State {
    link: Link<Vec<u8>>,
    /// (protocol, fate) -> packets, bytes.
    protocols: BTreeMap<(&'static str, Fate), (u64, u64)>,
    csv: Option<String>,
}

impl Wan {
    /// Opens the devices, gives them their addresses and starts to carry.
    pub fn start(spec: WanSpec) -> Result<Wan> {
        let (fd_a, fd_b) = (Arc::new(side(&spec.a, 1, spec.mtu)?), Arc::new(side(&spec.b, 2, spec.mtu)?));
        let direction = |name, link: LinkSpec, seed| {
            let csv = spec.trace.then(String::new);
            Arc::new(Direction {
                name,
                state: Mutex::new(State { link: Link::new(link, seed), protocols: BTreeMap::new(), csv }),
            })
        };
        let forth = direction("a>b", spec.forth, spec.seed * 2 + 1);
        let back = direction("b>a", spec.back, spec.seed * 2);
        let (stop, started) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let threads = [(&forth, &fd_a, &fd_b), (&back, &fd_b, &fd_a)].map(|(direction, from, to)| {
            let (direction, from, to, stop) = (direction.clone(), from.clone(), to.clone(), stop.clone());
            std::thread::spawn(move || direction.run(&from, &to, started, &stop))
        });
        Ok(Wan { forth, back, stop, started, threads: threads.into() })
    }

    /// Loses everything both ways until [`Wan::heal`], also what is on the way.
    pub fn cut(&self) {
        [&self.forth, &self.back].into_iter().for_each(|direction| direction.lock().link.cut());
    }

    /// Carries again.
    pub fn heal(&self) {
        [&self.forth, &self.back].into_iter().for_each(|direction| direction.lock().link.heal());
    }

    /// Other links from now on.
    pub fn set_links(&self, forth: LinkSpec, back: LinkSpec) {
        self.forth.lock().link.set_spec(forth);
        self.back.lock().link.set_spec(back);
    }

    /// What each direction has done: A to B, B to A.
    pub fn stats(&self) -> (LinkStats, LinkStats) {
        (self.forth.lock().link.stats().clone(), self.back.lock().link.stats().clone())
    }

    /// The statistics as JSON, by protocol and per 100 ms.
    pub fn report(&self) -> Value {
        json!({"seconds": self.started.elapsed().as_secs_f64(), "a>b": self.forth.report(), "b>a": self.back.report()})
    }

    /// One CSV line per packet, if that was asked for.
    pub fn trace(&self) -> String {
        let lines = [&self.forth, &self.back].map(|direction| direction.lock().csv.clone().unwrap_or_default());
        format!("dir,arrival_us,proto,dscp,bytes,fate,queued_us\n{}", lines.concat())
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Direction {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, from: &OwnedFd, to: &OwnedFd, started: Instant, stop: &AtomicBool) {
        // Only asks for punctual wake-ups of this thread; may fail without harm.
        let _ = nix::sys::prctl::set_timerslack(1);
        sys::prefer_this_thread();
        let clock = || started.elapsed().as_nanos() as u64;
        let mut buffer = vec![0u8; 65_536];
        while !stop.load(Relaxed) {
            let next = self.deliver(to, clock());
            let wait = next.unwrap_or(u64::MAX).saturating_sub(clock()).min(TICK);
            let mut polled = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
            let _ = ppoll(&mut polled, Some(TimeSpec::from(Duration::from_nanos(wait))), None);
            while let Ok(len @ 1..) = read(from, &mut buffer) {
                self.lock().arrive(self.name, clock(), &buffer[..len]);
            }
        }
    }

    /// Writes what is due; when the next is.
    fn deliver(&self, to: &OwnedFd, now: u64) -> Option<u64> {
        loop {
            let packet = {
                let mut state = self.lock();
                match state.link.leave(now) {
                    Some(packet) => packet,
                    None => return state.link.next_due(),
                }
            };
            // A device that is full or down loses the packet, as a real one does.
            let _ = write(to, &packet);
        }
    }

    fn report(&self) -> Value {
        let state = self.lock();
        let stats = state.link.stats();
        let mbit = |bytes: u64| bytes as f64 * 8e-5;
        let busy: Vec<u64> = stats.sent.iter().copied().skip_while(|bytes| *bytes == 0).collect();
        let mut histogram = BTreeMap::<u64, u64>::new();
        for bytes in &busy {
            *histogram.entry((mbit(*bytes) * 10.0) as u64).or_default() += 1;
        }
        let counts = state.protocols.iter().map(|((proto, fate), (packets, bytes))| {
            (format!("{proto} {}", fate_name(*fate)), json!({"packets": packets, "bytes": bytes}))
        });
        json!({
            "counts": counts.collect::<serde_json::Map<_, _>>(),
            "most_queued_ms": stats.most_queued_ns as f64 / 1e6,
            "latest_delivery_ms": stats.latest_ns as f64 / 1e6,
            "peak_mbit_100ms": busy.iter().max().map(|bytes| mbit(*bytes)),
            "histogram_mbit_100ms": histogram.iter().map(|(k, n)| json!([*k as f64 / 10.0, n])).collect::<Vec<_>>(),
            "offered_bytes_100ms": stats.offered, "sent_bytes_100ms": stats.sent,
        })
    }
}

impl State {
    fn arrive(&mut self, name: &str, now: u64, packet: &[u8]) {
        let (proto, dscp) = classify(packet);
        let (fate, queued) = self.link.arrive(now, packet.len(), packet.to_vec());
        let count = self.protocols.entry((proto, fate)).or_default();
        (count.0, count.1) = (count.0 + 1, count.1 + packet.len() as u64);
        if let Some(csv) = &mut self.csv {
            let (at, bytes, queued) = (now / 1_000, packet.len(), queued / 1_000);
            let _ = writeln!(csv, "{name},{at},{proto},{dscp},{bytes},{},{queued}", fate_name(fate));
        }
    }
}

fn fate_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Delivered => "delivered",
        Fate::QueueFull => "queue_full",
        Fate::Lost => "lost",
        Fate::Outage => "outage",
        Fate::TooLarge => "too_large",
    }
}

/// (protocol, DSCP) of an IPv4 or IPv6 packet.
fn classify(packet: &[u8]) -> (&'static str, u8) {
    let (proto, dscp) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => (packet[9], packet[1] >> 2),
        Some(6) if packet.len() >= 40 => (packet[6], (packet[0] & 0xf) << 2 | packet[1] >> 6),
        _ => (0, 0),
    };
    let name = match proto {
        1 | 58 => "icmp",
        6 => "tcp",
        17 => "udp",
        _ => "other",
    };
    (name, dscp)
}

/// Opens the device within namespace `ns` and gives it its addresses; the descriptor works from anywhere.
fn side(ns: &str, host: u8, mtu: u32) -> Result<OwnedFd> {
    let tun = within(ns, || {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let tun = open("/dev/net/tun", flags, Mode::empty()).context("open /dev/net/tun")?;
        sys::attach_tun(&tun, DEVICE).context("make the TUN device")?;
        anyhow::Ok(tun)
    })??;
    for words in [
        "link set lo up".to_owned(),
        format!("link set {DEVICE} addrgenmode none mtu {mtu} txqueuelen 2000"),
        format!("addr add 10.99.0.{host}/24 dev {DEVICE}"),
        format!("link set {DEVICE} up"),
        format!("addr add fd99::{host}/64 dev {DEVICE} nodad"),
    ] {
        ip(&format!("-n {ns} {words}"))?;
    }
    Ok(tun)
}

/// Runs the `ip` tool with these words.
pub(super) fn ip(words: &str) -> Result<String> {
    let out =
        Command::new("ip").args(words.split_whitespace()).output().context("run the ip tool (package iproute2)")?;
    ensure!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs `f` on a thread of its own within the network namespace `ns`; threads that it starts are there, too.
pub(super) fn within<R: Send>(ns: &str, f: impl FnOnce() -> R + Send) -> Result<R> {
    let path = format!("/run/netns/{ns}");
    let netns = std::fs::File::open(&path).with_context(|| format!("open the network namespace {path}"))?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter the network namespace {path}"))?;
            Ok(f())
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
