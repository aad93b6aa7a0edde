//! source-bench: what a capture costs when only changes are read, beside a full re-read of the same disk in the same run; NBD over latency; and shipped media.
//!
//! Prints a table and writes rows `{what, asked, measured, unit, holds}`. Needs qemu-img, qemu-io, qemu-nbd and nbdkit; and root for cold rows, to
//! empty the page cache.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use anyhow::{Context, Result, ensure};
use clap::Parser;
use dedupe::ByteCount;
use lab::codec::Sender;
use lab::nbd::{NbdServer, TrackedImage};
use lab::report::{Verdict, parse_size, print_verdicts, write_json};
use lab::seeds::{self, Content};
use lab::volumes::Random;
use sluice_edge::capture::How;
use sluice_edge::capture::sample::Sampling;
use sluice_edge::source::nbd::{NbdConfig, NbdSource, NbdUri};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Measures captures by changes, and over NBD.
#[derive(Parser)]
#[command(name = "source-bench")]
struct Asked {
    /// Size of the volume.
    #[arg(long, value_parser = parse_size, default_value = "2 GiB")]
    size: u64,
    /// Where volumes and stores are made.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    work: PathBuf,
    /// Only the rows of shipped media.
    #[arg(long)]
    seeds: bool,
    /// Write the rows {what, asked, measured, unit, holds} as a JSON array into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The share of bytes that change, one in so many.
const CHANGED: u64 = 100;
/// The sample is left out of what is measured, as far as it can be.
const ALMOST_NONE: Sampling = Sampling { captures: 1000, most: ByteCount(1 << 20) };
/// As many as a branch's box has cores.
const WORKERS: usize = 2;
/// The disk is filled in such pieces.
const PIECE: u64 = 4 << 20;
/// Bytes in a second over the line.
const LINE: f64 = 125e6;
/// Runs of what is compared; the fastest counts, for each side alike.
const RUNS: usize = 3;

fn main() -> Result<()> {
    let asked = Asked::parse();
    let work = tempfile::Builder::new().prefix("source-bench-").tempdir_in(&asked.work)?;
    let bench = Bench { folder: work.path(), size: asked.size };
    let mut verdicts = Vec::new();
    if !asked.seeds {
        for (name, grain, most) in [("1 MiB extents", 1 << 20, 0.03), ("scattered 4 KiB", 4096, 0.15)] {
            verdicts.extend(bench.tracked(name, grain, most)?);
        }
        verdicts.extend(bench.latency()?);
    }
    for content in [Content::Noise, Content::Half] {
        let folder = tempfile::tempdir_in(work.path())?;
        verdicts.extend(seeds::measure(folder.path(), asked.size, content)?);
    }
    print_verdicts(&verdicts);
    if let Some(file) = &asked.json {
        write_json(file, &verdicts)?;
    }
    ensure!(verdicts.iter().all(|verdict| verdict.holds != Some(false)), "not everything is as asked");
    Ok(())
}

struct Bench<'a> {
    folder: &'a Path,
    size: u64,
}

/// What a capture took, and what it did.
struct Took {
    seconds: f64,
    read: u64,
    dirty: u64,
}

impl Bench<'_> {
    /// Captures what changed and, into another lineage, everything, of the same disk: over a line of 1 Gbit/s, and from the disk here.
    fn tracked(&self, name: &str, grain: u64, most: f64) -> Result<Vec<Verdict>> {
        let folder = self.folder.join(grain.to_string());
        std::fs::create_dir(&folder)?;
        let disk = Disk::make(&folder, self.size)?;
        let lineages: Vec<Sender> = ["line", "line, all", "disk", "disk, all"]
            .iter()
            .map(|name| Sender::make(&folder.join(name), name, ByteCount(1 << 30), WORKERS))
            .collect::<Result<_>>()?;
        for (number, lineage) in lineages.iter().enumerate() {
            // A stamp belongs to its export, and the line has a socket of its own.
            let tracked = number % 2 == 0;
            let shown = if number < 2 { disk.behind_line(tracked)? } else { disk.open(tracked)? };
            let seeded = capture(lineage, &shown)?;
            ensure!(seeded.dirty > 0, "the first generation holds something");
        }
        disk.change(grain)?;
        let mut verdicts = Vec::new();
        let mut both = |how: &str, pair: &[Sender], cold: bool, line: bool| -> Result<f64> {
            let mut times = [0.0; 2];
            for (number, lineage) in pair.iter().enumerate() {
                let shown = if line { disk.behind_line(number == 0)? } else { disk.open(number == 0)? };
                if cold {
                    empty_page_cache()?;
                }
                let took = capture(lineage, &shown)?;
                ensure!(took.dirty > 0 && took.dirty <= self.size / CHANGED, "{} bytes were dirty", took.dirty);
                times[number] = took.seconds;
                let what = ["what changed", "everything"][number];
                verdicts.push(Verdict::reported(&format!("{name}, {how}: {what}"), took.seconds, "s"));
                verdicts.push(Verdict::reported(&format!("{name}, {how}: {what}, read"), took.read as f64 / 1e6, "MB"));
            }
            Ok(times[0] / times[1])
        };
        let line = both("1 Gbit/s", &lineages[..2], false, true)?;
        let is_root = empty_page_cache().is_ok();
        let cold = if is_root { Some(both("cold disk", &lineages[2..], true, false)?) } else { None };
        verdicts.push(Verdict::at_most(&format!("1 % changed, {name}, 1 Gbit/s, by a full re-read"), most, line, "x"));
        verdicts.extend(cold.map(|cold| {
            Verdict::at_most(&format!("1 % changed, {name}, cold disk, by a full re-read"), most, cold, "x")
        }));
        Ok(verdicts)
    }

    /// A full re-read at 1 Gbit/s with answers that take 20 ms, and without.
    fn latency(&self) -> Result<Vec<Verdict>> {
        let folder = self.folder.join("latency");
        std::fs::create_dir(&folder)?;
        let image = folder.join("noise.img");
        let size = self.size.min(1 << 30);
        let mut random = Random::new(5, 1);
        std::fs::write(&image, random.noise(PIECE as usize).repeat((size / PIECE) as usize))?;
        let lineage = Sender::make(&folder.join("store"), "noise", ByteCount(1 << 30), WORKERS)?;
        let text = image.display().to_string();
        let serve = |filters: &[&str], settings: &[&str]| -> Result<Shown> {
            let arguments = [&["-f", "-U", "{}"], filters, &["file", &text], settings].concat();
            let socket = folder.join("nbd.sock");
            let server = NbdServer::start(&socket, "nbdkit", &arguments)?.context("nbdkit is not installed")?;
            Ok(Shown { uri: server.uri(""), _servers: vec![server] })
        };
        capture(&lineage, &serve(&[], &[])?)?;
        let mut best = [f64::MAX; 2];
        for _ in 0..RUNS {
            for (best, delay) in best.iter_mut().zip(["delay-read=0", "delay-read=20ms"]) {
                let shown = serve(&["--filter=delay"], &[delay])?;
                let line = folder.join("line.sock");
                relay(&folder.join("nbd.sock"), &line)?;
                let shown = Shown { uri: format!("nbd+unix:///?socket={}", line.display()), ..shown };
                let took = capture(&lineage, &shown)?;
                ensure!(took.dirty == 0 && took.read == size, "everything is read, and nothing changed");
                *best = best.min(took.seconds);
            }
        }
        let throughput = best.map(|seconds| size as f64 / 1e6 / seconds);
        Ok(vec![
            Verdict::reported("NBD at 1 Gbit/s", throughput[0], "MB/s"),
            Verdict::reported("NBD at 1 Gbit/s with 20 ms", throughput[1], "MB/s"),
            Verdict::at_least("NBD at 1 Gbit/s with 20 ms, by that without", 0.6, throughput[1] / throughput[0], "x"),
        ])
    }
}

/// A disk of QEMU, an eighth of it holes, with a bitmap.
struct Disk {
    folder: PathBuf,
    image: TrackedImage,
    size: u64,
}

/// An export, for as long as its servers live.
struct Shown {
    uri: String,
    _servers: Vec<NbdServer>,
}

impl Disk {
    fn make(folder: &Path, size: u64) -> Result<Disk> {
        let path = folder.join("disk.qcow2");
        let image = TrackedImage::create(&path, size, "sluice")?.context("QEMU's tools are not installed")?;
        // The same bytes in each piece, so that stores stay small: a re-read hashes them all the same. Every eighth is left out.
        let noise = Random::new(9, 1).noise(PIECE as usize);
        image.write(&folder.join("writer.sock"), |client| {
            (0..size / PIECE).filter(|piece| piece % 8 != 7).try_for_each(|piece| client.write(piece * PIECE, &noise))
        })?;
        // What was written so far is no change.
        image.bitmap(&["--clear"])?;
        Ok(Disk { folder: folder.to_owned(), image, size })
    }

    /// Changes one byte in so many, in aligned ranges of `grain` bytes.
    fn change(&self, grain: u64) -> Result<()> {
        let (mut random, mut places) = (Random::new(11, 1), BTreeSet::new());
        while (places.len() as u64) < self.size / CHANGED / grain {
            places.insert(random.below((self.size / grain) as usize) as u64);
        }
        self.image.write(&self.folder.join("writer.sock"), |client| {
            places.iter().try_for_each(|place| client.write(place * grain, &random.noise(grain as usize)))
        })?;
        Ok(())
    }

    /// Shows it, with its bitmap or without.
    fn open(&self, tracked: bool) -> Result<Shown> {
        let server = self.image.serve(&self.folder.join("disk.sock"))?;
        let uri = server.uri(if tracked { "&bitmap=sluice" } else { "" });
        Ok(Shown { uri, _servers: vec![server] })
    }

    /// Behind a relay that lets 1 Gbit/s by.
    fn behind_line(&self, tracked: bool) -> Result<Shown> {
        let shown = self.open(tracked)?;
        let line = self.folder.join("line.sock");
        relay(&self.folder.join("disk.sock"), &line)?;
        let uri = format!("nbd+unix:///?socket={}{}", line.display(), if tracked { "&bitmap=sluice" } else { "" });
        Ok(Shown { uri, ..shown })
    }
}

fn capture(lineage: &Sender, shown: &Shown) -> Result<Took> {
    let uri = NbdUri::parse(&shown.uri).map_err(anyhow::Error::msg)?;
    let source = NbdSource::open(&uri, &NbdConfig::default())?;
    let captured = lineage.capture_from(&source, &shown.uri, ALMOST_NONE)?;
    if uri.bitmap.is_some() && captured.generation.parent.is_some() {
        ensure!(matches!(captured.how, How::Changes { .. }), "{:?}", captured.how);
    }
    Ok(Took { seconds: captured.elapsed.as_secs_f64(), read: captured.read_bytes, dirty: captured.dirty_bytes })
}

/// Listens at `line` and passes what comes on to `server`; what the server says goes back at [`LINE`], over all connections together. Ends with the process.
fn relay(server: &Path, line: &Path) -> Result<()> {
    let _ = std::fs::remove_file(line); // of the run before
    let (listener, server) = (UnixListener::bind(line)?, server.to_owned());
    let free = Arc::new(Mutex::new(Instant::now()));
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = UnixStream::connect(&server) else { break };
            let (Ok(from_near), Ok(to_near)) = (near.try_clone(), near.try_clone()) else { break };
            let (Ok(from_far), Ok(to_far)) = (far.try_clone(), far.try_clone()) else { break };
            std::thread::spawn(move || pass(from_near, to_far, None));
            let free = free.clone();
            std::thread::spawn(move || pass(from_far, to_near, Some(free)));
        }
    });
    Ok(())
}

/// Passes bytes on until either end hangs up, no faster than the line gets free.
fn pass(mut from: UnixStream, mut to: UnixStream, line: Option<Arc<Mutex<Instant>>>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        if let (Some(line), 1..) = (&line, count) {
            let mut free = line.lock().unwrap_or_else(PoisonError::into_inner);
            *free = (*free).max(Instant::now()) + Duration::from_secs_f64(count as f64 / LINE);
            let until = *free;
            drop(free);
            // Shorter sleeps than the system keeps would slow the line down.
            let wait = until.saturating_duration_since(Instant::now());
            if wait > Duration::from_millis(2) {
                std::thread::sleep(wait);
            }
        }
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn empty_page_cache() -> Result<()> {
    nix::unistd::sync();
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "3")?)
}
