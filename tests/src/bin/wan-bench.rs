//! Measures what the generations of real volumes cost on the wire, beside R and the peers. See `docs/design/lab.md`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::report::{parse_size, print_verdicts, write_json};
use lab::wan::reference::Reference;
use lab::wan::{Options, Row, Volume, asked, made, memory_for, run};
use lab::world::Binaries;

/// Replicates the generations of volumes through a real edge and a real gateway over loopback, and counts every IP byte.
#[derive(Parser)]
#[command(name = "wan-bench")]
struct Asked {
    /// Write the rows as a JSON array into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also measure R and the installed peers on the same images, and print the ratios.
    #[arg(long)]
    reference: bool,
    /// Where measured reference rows are kept and found again.
    #[arg(long, value_name = "FILE", default_value = "target/wan-bench/peers.csv")]
    results: PathBuf,
    /// Take the reference rows from --results as they are, without measuring what is missing.
    #[arg(long)]
    as_measured: bool,
    /// Give each volume this much further, unchanging data, and the edge so little memory that its prefix is at most a sixteenth of the old data.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "0")]
    ballast: u64,
    /// The line's rate that the encoder chooses its effort for; the line itself is not slowed down.
    #[arg(long, value_name = "RATE", default_value = "2 Mbit/s")]
    assume_rate: String,
    /// Largest IP datagram, to count packets as on such a line; without it, as large as loopback carries.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1280..))]
    mtu: Option<u16>,
    /// The edges' memory ceiling, as in their configuration.
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Where the daemons' state and the rebuilt images lie during the run: about three times the largest volume.
    #[arg(long, value_name = "DIR", default_value = "target/wan-bench")]
    work: PathBuf,
    /// Also a volume of this many incompressible bytes.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "0")]
    noise: u64,
    /// Also a volume of this many bytes whose second generation equals its first.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "0")]
    unchanged: u64,
    /// Folders that each hold g0.img, g1.img, …: the generations of one volume.
    #[arg(required_unless_present_any = ["noise", "unchanged"], value_name = "DIR")]
    volumes: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let asked = Asked::parse();
    let mut volumes = asked.volumes.iter().map(|folder| Volume::open(folder)).collect::<Result<Vec<_>>>()?;
    let own = made_volumes(&asked)?;
    volumes.extend(own.volumes.iter().cloned());
    let memory = match asked.memory {
        Some(memory) => Some(memory),
        None => memory_for(&volumes, asked.ballast)?,
    };
    let options = Options {
        assume_rate: asked.assume_rate,
        ballast: asked.ballast,
        mtu: asked.mtu,
        memory,
        work: asked.work.clone(),
    };
    let rows = run(Binaries::find()?, &volumes, &options, announce)?;
    if let Some(file) = &asked.json {
        write_json(file, &rows)?;
    }
    let reference = match (asked.reference, asked.as_measured) {
        (_, true) => Some(Reference::read(&asked.results)?),
        (true, false) => Some(Reference::measure(&asked.results, &asked.volumes)?),
        (false, false) => None,
    };
    println!("\n{}", asked::rows_table(&rows, reference.as_ref()));
    print_verdicts(&asked::verdicts(&rows, reference.as_ref()));
    ensure!(rows.iter().all(|row| row.verified), "a rebuilt volume differs from its source");
    Ok(())
}

/// Volumes made for this run, in a folder that goes with it.
struct Made {
    volumes: Vec<Volume>,
    _folder: tempfile::TempDir,
}

fn made_volumes(asked: &Asked) -> Result<Made> {
    std::fs::create_dir_all(&asked.work)
        .with_context(|| format!("cannot make the folder {}; name another with --work", asked.work.display()))?;
    let folder = tempfile::tempdir_in(&asked.work)?;
    let mut volumes = Vec::new();
    if asked.noise > 0 {
        volumes.push(made::noise(folder.path(), asked.noise)?);
    }
    if asked.unchanged > 0 {
        volumes.push(made::unchanged(folder.path(), asked.unchanged)?);
    }
    Ok(Made { volumes, _folder: folder })
}

fn announce(row: &Row) {
    let verified = if row.verified { "verified" } else { "NOT VERIFIED" };
    println!(
        "{} {}: {} dirty, {} up, {} down, capture {:.1} s, {verified}",
        row.volume,
        row.step,
        lab::report::bytes(row.dirty_4k),
        lab::report::bytes(row.wire_up),
        lab::report::bytes(row.wire_down),
        row.capture_s
    );
}
