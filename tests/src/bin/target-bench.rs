//! target-bench: what a rehydration and an export cost, beside what dd, qemu-img and qemu-nbd need for the same bytes in the same run.
//!
//! The volume is captured straight into the gateway's store; an export is served by a gateway that is a process of its own. Prints a table and writes rows
//! `{what, asked, measured, unit, holds}`. Needs root to empty the page cache; without, the cold rows are left out.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use dedupe::{ByteCount, GenerationId, Kind, Lineage, LineageId, NewGeneration, SLAB, SlabNumber, Store};
use lab::report::{Verdict, parse_size, print_verdicts, write_json};
use lab::volumes::Random;
use lab::world::{Binaries, Gateway, GatewayOptions, World};
use nbd::Client;
use nbd::client::{Address, Options};
use sluice_gateway::admin::{Admin, Answer, Request};
use sluice_gateway::rehydrate::{Done, Proof, Where};
use sluice_gateway::state::State;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wire::clock::machine_time;

/// Measures targets and exports of a gateway.
#[derive(Parser)]
#[command(name = "target-bench")]
struct Asked {
    /// Size of the volume.
    #[arg(long, value_parser = parse_size, default_value = "1 GiB")]
    size: u64,
    /// Where volume, store and targets are made.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    work: PathBuf,
    /// Write the rows {what, asked, measured, unit, holds} as a JSON array into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The share of blocks that change between the two generations, one in so many.
const CHANGED: u64 = 100;
/// Runs of each copy; the fastest counts, for each side alike.
const RUNS: usize = 3;
/// How long random reads go on.
const READING: Duration = Duration::from_secs(5);
/// Threads that read at random at the same time.
const READERS: usize = 4;

fn main() -> Result<()> {
    let asked = Asked::parse();
    let world = World::with(Binaries::find()?, &asked.work)?;
    let gateway = world.gateway(GatewayOptions::default())?;
    let bench = Bench::prepare(&world, gateway, asked.size)?;
    let mut verdicts = bench.copies()?;
    verdicts.extend(bench.exports()?);
    print_verdicts(&verdicts);
    if let Some(file) = &asked.json {
        write_json(file, &verdicts)?;
    }
    ensure!(verdicts.iter().all(|verdict| verdict.holds != Some(false)), "not everything is as asked");
    Ok(())
}

struct Bench {
    folder: PathBuf,
    gateway: Gateway,
    image: PathBuf,
    size: u64,
    changed: u64,
}

impl Bench {
    /// Two generations in the gateway's store, and the second one as a raw image.
    fn prepare(world: &World, gateway: Gateway, size: u64) -> Result<Bench> {
        let folder = world.path().join("bench");
        std::fs::create_dir_all(&folder)?;
        let image = folder.join("image.raw");
        let mut bytes = content(size as usize);
        let state = State::open(&sluice_gateway::Config::load(&gateway.config())?)?;
        let tenant = state.catalogue.tenant("bank", state.now())?;
        let (site, _) = state.catalogue.add_site(&tenant, "branch", state.now())?;
        let store = state.tenant(tenant.id)?;
        let lineage = LineageId::random();
        store.store.put_lineage(&Lineage {
            id: lineage,
            kind: Kind::Volume,
            name: "disk".into(),
            site: Some(site.id),
            fork_of: None,
        })?;
        let first = capture(&store.store, lineage, None, &bytes)?;
        let mut random = Random::new(7, 1);
        let blocks = size / 4096;
        let mut touched = std::collections::BTreeSet::new();
        while (touched.len() as u64) < blocks / CHANGED {
            touched.insert(random.below(blocks as usize));
        }
        for block in &touched {
            bytes[block * 4096..][..4096].copy_from_slice(&random.noise(4096));
        }
        capture(&store.store, lineage, Some(first), &bytes)?;
        std::fs::write(&image, &bytes)?;
        Ok(Bench { folder, gateway, image, size, changed: 4096 * touched.len() as u64 })
    }

    fn rehydrate(&self, generation: &str, to: &Path, proof: Proof) -> Result<(Done, Duration)> {
        let state = State::open(&sluice_gateway::Config::load(&self.gateway.config())?)?;
        let request = Request::Rehydrate {
            volume: "branch/disk".into(),
            generation: generation.into(),
            to: Where::Path(to.to_owned()),
            proof: Some(proof),
            plan: false,
        };
        // The phase of writing ends when everything is durable.
        let (began, mut writing) = (Instant::now(), None);
        let mut written_in = None;
        let answer = Admin::alone(state).handle(request, &mut |report| {
            match report.phase.as_str() {
                "writing" => writing = writing.or(Some(began.elapsed())),
                "reading back" => written_in = written_in.or(Some(began.elapsed())),
                _ => {}
            }
            true
        })?;
        let Answer::Rehydrated { done } = answer else { bail!("not rehydrated") };
        Ok((done, written_in.unwrap_or(began.elapsed()) - writing.unwrap_or_default()))
    }

    // ---- raw files

    fn copies(&self) -> Result<Vec<Verdict>> {
        let to = self.folder.join("target.raw");
        let other = self.folder.join("copy.raw");
        let (mut ours, mut dd, mut convert) = (Duration::MAX, Duration::MAX, Duration::MAX);
        for _ in 0..RUNS {
            for path in [&to, &to.with_added_extension("sluice.json"), &other] {
                let _not_there = std::fs::remove_file(path);
            }
            ours = ours.min(self.rehydrate("1", &to, Proof::Changed)?.1);
            let mut copy = Command::new("dd");
            copy.arg(format!("if={}", self.image.display())).arg(format!("of={}", other.display()));
            dd = dd.min(timed(copy.args(["bs=1M", "conv=fsync"]))?);
            std::fs::remove_file(&other)?;
            let mut copy = Command::new("qemu-img");
            copy.args(["convert", "-f", "raw", "-O", "raw"]).arg(&self.image).arg(&other);
            let took = timed(&mut copy)?;
            convert = convert.min(took + synced(&other)?);
        }
        let rate = |time: Duration| self.size as f64 / 1e6 / time.as_secs_f64();
        let (done, delta) = self.rehydrate("2", &to, Proof::Changed)?;
        ensure!(done.plan.from == Some(1), "the second generation is brought on top of the first");
        let (proved, _) = self.rehydrate("2", &to, Proof::All)?;
        ensure!(!proved.repaired, "it reads back whole");
        let fastest = dd.min(convert);
        Ok(vec![
            Verdict::reported("full copy by dd, synced", rate(dd), "MB/s"),
            Verdict::reported("full copy by qemu-img convert, synced", rate(convert), "MB/s"),
            Verdict::reported("full copy out of the store, synced", rate(ours), "MB/s"),
            Verdict::at_least("full copy beside the faster of the two", 0.8, rate(ours) / rate(fastest), "x"),
            Verdict::at_most(
                "bytes written for a delta, by bytes that differ",
                1.0,
                done.written_bytes as f64 / self.changed as f64,
                "x",
            ),
            Verdict::at_most(
                "time of a delta of 1 % scattered blocks, by that of a full copy",
                0.5,
                delta.as_secs_f64() / ours.as_secs_f64(),
                "x",
            ),
        ])
    }

    // ---- exports

    fn exports(mut self) -> Result<Vec<Verdict>> {
        self.gateway.start()?;
        let socket = self.gateway.state().join(sluice_gateway::export::SOCKET);
        let mut first = Duration::MAX;
        for _ in 0..RUNS {
            let began = Instant::now();
            self.gateway.run("export", &["start", "--volume", "branch/disk", "--name", "disk"])?;
            open(&socket, "disk")?.read(self.size / 2, &mut [0; 4096])?;
            first = first.min(began.elapsed());
            self.gateway.run("export", &["stop", "disk"])?;
        }
        self.gateway.run("export", &["start", "--volume", "branch/disk", "--name", "disk"])?;
        let uri = format!("nbd+unix:///disk?socket={}", socket.display());
        let peer = QemuNbd::over(&self.image, &self.folder)?;
        let mut verdicts =
            vec![Verdict::at_most("from the command to the first read", 100.0, first.as_secs_f64() * 1e3, "ms")];
        let mut both = |what: &str, least: f64, cold: bool| -> Result<()> {
            let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
            for _ in 0..RUNS {
                for (uri, best) in [(&uri, &mut ours), (&peer.uri, &mut theirs)] {
                    if cold {
                        empty_page_cache()?;
                    }
                    *best = (*best).min(timed(Command::new("nbdcopy").args([uri, "null:"]))?);
                }
            }
            let rate = |time: Duration| self.size as f64 / 1e6 / time.as_secs_f64();
            verdicts.push(Verdict::reported(
                &format!("sequential, {what}, qemu-nbd on the raw file"),
                rate(theirs),
                "MB/s",
            ));
            verdicts.push(Verdict::reported(&format!("sequential, {what}, ours"), rate(ours), "MB/s"));
            let ratio = rate(ours) / rate(theirs);
            verdicts.push(Verdict::at_least(&format!("sequential, {what}, by qemu-nbd's"), least, ratio, "x"));
            Ok(())
        };
        if empty_page_cache().is_ok() {
            both("cold", 0.5, true)?;
        } else {
            println!("the cold rows are left out: the page cache cannot be emptied (needs root)");
        }
        both("warm", 0.25, false)?;
        verdicts.push(Verdict::at_least(
            "random 4 KiB reads",
            2000.0,
            random_reads(&socket, self.size, READERS)?,
            "/s",
        ));
        verdicts.push(Verdict::reported(
            "random 4 KiB reads, one at a time",
            random_reads(&socket, self.size, 1)?,
            "/s",
        ));
        let peak = self.gateway.daemon()?.peak_rss()?;
        verdicts.push(Verdict::at_most("memory of the gateway, peak", 1024.0, peak as f64 / (1 << 20) as f64, "MiB"));
        self.gateway.stop()?;
        Ok(verdicts)
    }
}

/// Half of it text as databases hold it, a quarter noise, a quarter zeroes, in pieces of 64 KiB.
fn content(size: usize) -> Vec<u8> {
    let mut random = Random::new(3, 1);
    let mut bytes = vec![0; size];
    let words: Vec<Vec<u8>> = (0..2000).map(|_| random.noise(6)).collect();
    for (at, piece) in bytes.chunks_mut(64 << 10).enumerate() {
        match at % 4 {
            0 | 2 => {
                for word in piece.chunks_mut(6) {
                    let chosen = &words[random.skewed(words.len())];
                    word.copy_from_slice(&chosen[..word.len()]);
                }
            }
            1 => piece.copy_from_slice(&random.noise(piece.len())),
            _ => {}
        }
    }
    bytes
}

fn capture(store: &Arc<Store>, lineage: LineageId, parent: Option<GenerationId>, bytes: &[u8]) -> Result<GenerationId> {
    let id = GenerationId::random();
    let size = ByteCount(bytes.len() as u64);
    let new = NewGeneration { id, lineage, parent, size, captured_at: machine_time(), source: Vec::new() };
    let draft = store.draft(new)?;
    for (number, slab) in bytes.chunks(SLAB).enumerate() {
        let mut scan = draft.scan(SlabNumber(number as u64))?;
        scan.data(slab)?;
        scan.finish()?;
    }
    draft.seal(machine_time())?;
    Ok(id)
}

fn open(socket: &Path, export: &str) -> Result<Client> {
    let options = Options { export: export.into(), ..Options::default() };
    Ok(Client::connect(&Address::Unix(socket.to_owned()), &options)?)
}

/// Reads a second that several threads get at random places.
fn random_reads(socket: &Path, size: u64, threads: usize) -> Result<f64> {
    let client = open(socket, "disk")?;
    let (reads, until) = (AtomicU64::new(0), Instant::now() + READING);
    std::thread::scope(|scope| {
        let read = |thread: usize| {
            let (mut random, mut block) = (Random::new(11, thread as u64), vec![0; 4096]);
            while Instant::now() < until {
                client.read(4096 * random.below((size / 4096) as usize) as u64, &mut block)?;
                reads.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, anyhow::Error>(())
        };
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || read(thread))).collect();
        all.into_iter().try_for_each(|thread| thread.join().expect("no reader panics"))
    })?;
    Ok(reads.load(Ordering::Relaxed) as f64 / READING.as_secs_f64())
}

/// How long a command takes that must succeed.
fn timed(command: &mut Command) -> Result<Duration> {
    let began = Instant::now();
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(began.elapsed())
}

fn synced(path: &Path) -> Result<Duration> {
    let began = Instant::now();
    std::fs::File::open(path)?.sync_all()?;
    Ok(began.elapsed())
}

fn empty_page_cache() -> Result<()> {
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("emptying the page cache")
}

/// A raw file served by qemu-nbd.
struct QemuNbd {
    process: Child,
    uri: String,
}

impl QemuNbd {
    fn over(image: &Path, folder: &Path) -> Result<QemuNbd> {
        let socket = folder.join("qemu-nbd.sock");
        let mut command = Command::new("qemu-nbd");
        command.args(["--read-only", "--persistent", "--shared=8", "--format=raw", "--export-name=raw", "--socket"]);
        let process = command.arg(&socket).arg(image).spawn().context("starting qemu-nbd")?;
        let peer = QemuNbd { process, uri: format!("nbd+unix:///raw?socket={}", socket.display()) };
        let until = Instant::now() + Duration::from_secs(30);
        while open(&socket, "raw").is_err() {
            ensure!(Instant::now() < until, "qemu-nbd does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(peer)
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _gone_already = self.process.kill();
        let _reaped = self.process.wait();
    }
}
