//! Measures the store and the codec without daemons: coding and ingest per core, capture against the bare hash. See `docs/design/lab.md`.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use dedupe::{ByteCount, Effort, StoreOptions};
use lab::codec::{End, Figures, Sender, timed};
use lab::images::used_bytes;
use lab::index::IndexBench;
use lab::report::{Verdict, bytes, figure, grouped, parse_size, print_verdicts, table, write_json};
use lab::wan::Volume;
use lab::wan::reference::cpu_of_unchanged;
use sluice_edge::capture::Captured;

/// Figures of the store and the codec, with what is asked of them.
#[derive(Parser)]
#[command(name = "store-bench")]
struct Asked {
    /// Write the rows {what, asked, measured, unit, holds} as a JSON array into this file.
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    /// Where stores lie during the run.
    #[arg(long, value_name = "DIR", default_value = "target/store-bench", global = true)]
    work: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Codes and ingests the generations of volumes between two stores.
    Codec {
        /// The edge's memory ceiling.
        #[arg(long, value_parser = parse_size, default_value = "1 GiB")]
        memory: u64,
        /// How hard the encoder tries: quick, light, normal, thorough.
        #[arg(long, default_value = "normal", value_parser = parse_effort)]
        effort: Effort,
        /// Folders that each hold g0.img, g1.img, …
        #[arg(required = true)]
        volumes: Vec<PathBuf>,
    },
    /// Fills an index as 50 TB would, and measures building, inserting, looking up, memory and size.
    Index {
        /// Samples of chunk names.
        #[arg(long, default_value_t = 100_000_000)]
        samples: u64,
        /// Bytes of the content cache whose anchors are indexed.
        #[arg(long, value_parser = parse_size, default_value = "1TB")]
        cache: u64,
    },
    /// Works on a volume of 50 TB whose slab records are made on demand, and measures the edge's memory.
    Scale {
        /// The volume.
        #[arg(long, value_parser = parse_size, default_value = "50TB")]
        size: u64,
        /// The edge's memory ceiling.
        #[arg(long, value_parser = parse_size, default_value = "1 GiB")]
        memory: u64,
    },
    /// Captures an image, and again unchanged, beside one thread of the bare hash.
    Capture {
        /// The image; 1 GB or more, and small enough for the page cache.
        image: PathBuf,
        /// Also time restic, borg and casync on the unchanged image.
        #[arg(long)]
        peers: bool,
    },
}

fn main() -> Result<()> {
    let asked = Asked::parse();
    std::fs::create_dir_all(&asked.work).with_context(|| format!("making {}", asked.work.display()))?;
    let work = tempfile::tempdir_in(&asked.work)?;
    let verdicts = match &asked.what {
        What::Codec { memory, effort, volumes } => codec(work.path(), volumes, ByteCount(*memory), *effort)?,
        What::Index { samples, cache } => {
            let bench = IndexBench::make(work.path())?;
            let mut verdicts = bench.samples(*samples)?;
            verdicts.extend(bench.anchors(*cache)?);
            verdicts
        }
        What::Scale { size, memory } => lab::scale::at(work.path(), ByteCount(*size), ByteCount(*memory))?,
        What::Capture { image, peers } => capture(work.path(), image, *peers)?,
    };
    print_verdicts(&verdicts);
    if let Some(file) = &asked.json {
        write_json(file, &verdicts)?;
    }
    Ok(())
}

fn parse_effort(text: &str) -> Result<Effort, String> {
    match text {
        "quick" => Ok(Effort::Quick),
        "light" => Ok(Effort::Light),
        "normal" => Ok(Effort::Normal),
        "thorough" => Ok(Effort::Thorough),
        _ => Err("write quick, light, normal or thorough".into()),
    }
}

fn codec(work: &Path, folders: &[PathBuf], memory: ByteCount, effort: Effort) -> Result<Vec<Verdict>> {
    let receiver = End::make(&work.join("gateway"), StoreOptions::default())?;
    let mut all = Vec::new();
    for folder in folders {
        let volume = Volume::open(folder)?;
        let mut sender = Sender::make(&work.join(&volume.name), &volume.name, memory, 2)?;
        for (number, image) in volume.images.iter().enumerate() {
            let captured = sender.capture(image)?;
            let mut figures = sender.send(&captured, &receiver, effort)?;
            figures.volume = volume.name.clone();
            figures.step = if number == 0 { "seed".into() } else { format!("g{}-g{number}", number - 1) };
            println!(
                "{} {}: {} in {} parcels",
                figures.volume,
                figures.step,
                grouped(figures.total()),
                figures.parcels
            );
            all.push(figures);
        }
    }
    print_figures(&all);
    let rate = |seeds: bool| {
        let of = || all.iter().filter(|row| (row.step == "seed") == seeds);
        let raw: u64 = of().map(|row| row.fresh + row.copied).sum();
        raw as f64 / 1e6 / of().map(|row| row.ingest_cpu).sum::<f64>()
    };
    Ok(vec![
        Verdict::at_least("gateway ingest per core, seeds", 200.0, rate(true), "MB/s of raw data"),
        Verdict::at_least("gateway ingest per core, deltas", 60.0, rate(false), "MB/s of raw data"),
    ])
}

fn print_figures(all: &[Figures]) {
    let heading = [
        "volume",
        "step",
        "dirty",
        "coded",
        "asked",
        "fresh",
        "copied",
        "parcels",
        "capture s",
        "CPU s",
        "choose s",
        "zstd s",
        "ingest s",
        "prefix",
    ];
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|row| {
            vec![
                row.volume.clone(),
                row.step.clone(),
                bytes(row.dirty),
                grouped(row.coded),
                grouped(row.asked),
                bytes(row.fresh),
                bytes(row.copied),
                row.parcels.to_string(),
                figure(row.capture[0]),
                figure(row.capture[1]),
                figure(row.encode[0]),
                figure(row.encode[1]),
                figure(row.ingest_cpu),
                bytes(row.prefix),
            ]
        })
        .collect();
    println!("\n{}", table(&heading, &rows));
}

fn capture(work: &Path, image: &Path, peers: bool) -> Result<Vec<Verdict>> {
    let size = std::fs::metadata(image).with_context(|| format!("reading {}", image.display()))?.len() as f64;
    let (hashed, ..) = timed(|| hash(image)); // fills the page cache
    hashed?;
    let (hashed, seconds, _) = timed(|| hash(image));
    hashed?;
    let bare = size / seconds / 1e6;
    let sender = Sender::make(&work.join("edge"), "disk", ByteCount(1 << 30), 1)?;
    let first = sender.capture(image)?;
    let again = sender.capture(image)?;
    // Holes are hashed by the one and skipped by the other: only data counts.
    let data = used_bytes(image)? as f64;
    let per_core = |captured: &Captured| data / captured.cpu.as_secs_f64() / 1e6;
    let mut verdicts = vec![
        Verdict::reported("one thread of the bare hash, warm cache", bare, "MB/s"),
        Verdict::reported("first capture, per core", per_core(&first), "MB/s of data"),
        Verdict::reported(
            "capture of an unchanged volume, one worker",
            size / again.elapsed.as_secs_f64() / 1e6,
            "MB/s",
        ),
        Verdict::at_least(
            "capture of an unchanged volume, per core, to the bare hash",
            0.5,
            per_core(&again) / bare,
            "ratio",
        ),
    ];
    if peers {
        for (peer, seconds) in cpu_of_unchanged(&work.join("peers"), image)? {
            let ratio = seconds / again.cpu.as_secs_f64();
            verdicts.push(Verdict::at_least(&format!("the same, to {peer} per core"), 3.0, ratio, "times as fast"));
        }
    }
    Ok(verdicts)
}

/// What `b3sum --num-threads 1` does.
fn hash(image: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(image)?)?;
    Ok(hasher.finalize())
}
