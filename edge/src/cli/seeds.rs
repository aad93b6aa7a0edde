//! `seed`: the first copy by courier.

use super::{AskError, At, Outcome, Request, actor, request};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use dedupe::SeedId;
use sluice_edge::shipments::{ShipmentStatus, Wish};
use sluice_edge::text;
use std::path::PathBuf;
use wire::seeding::Way;

/// Seeds by courier.
#[derive(Subcommand)]
pub(crate) enum SeedCommand {
    /// Write the newest generation of volumes to media, encrypted for the gateway, or go on with what was not finished.
    Export(Export),
    /// Show seeds: how far the export is, what media there are, where they are.
    Status {
        #[command(flatten)]
        at: At,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Note that a courier has the media.
    Shipped {
        #[command(flatten)]
        at: At,
        /// The seed.
        id: SeedId,
        /// Who takes them.
        #[arg(long)]
        courier: String,
        /// The courier's number for them.
        #[arg(long)]
        number: String,
    },
    /// Give a seed up: nobody waits for it any more, and the local store need not keep it. What came over the line for it is dropped at the gateway.
    Abandon {
        #[command(flatten)]
        at: At,
        /// The seed.
        id: SeedId,
        /// How its volumes go on. Nothing goes over the line before this is said.
        #[arg(long, value_enum)]
        by: Option<By>,
    },
}

/// How volumes go on whose seed was given up.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum By {
    /// Everything goes over the line: a first copy by wire, which takes weeks on a thin line.
    Line,
    /// They wait for another seed: `sluice-edge seed export` makes it. Until then nothing of them is sent.
    NewSeed,
}

/// What `seed abandon` says when nobody says how to go on.
const HOW: &str = "say how its volumes go on: `--by line` sends all of them over the line, which takes weeks on a thin one; `--by new-seed` holds them until \
                   another seed is exported. A seed that is only late needs neither: what changes meanwhile goes over the line already";

#[derive(Args)]
pub(crate) struct Export {
    #[command(flatten)]
    at: At,
    /// Where a medium is mounted; several are filled one after the other.
    #[arg(long, value_name = "MOUNT", required = true, num_args = 1..)]
    to: Vec<PathBuf>,
    /// Only these volumes; else all.
    #[arg(long, value_name = "VOLUME", num_args = 1..)]
    volumes: Vec<String>,
    /// The gateway's key for media, as `sluice-gateway seed key` prints it, where the gateway has not told it itself. It is no secret.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Write parts of this seed again that the gateway could not read, or that were lost.
    #[arg(long, value_name = "ID", requires = "parts")]
    again: Option<SeedId>,
    /// Which: MEDIUM/PART, or MEDIUM for all of one.
    #[arg(long, value_name = "PART", requires = "again", num_args = 1..)]
    parts: Vec<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn seed(command: SeedCommand) -> anyhow::Result<()> {
    let (at, asked, json, looks) = match command {
        SeedCommand::Export(asked) => {
            let absolute =
                |path: PathBuf| std::fs::canonicalize(&path).with_context(|| format!("there is no {}", path.display()));
            let to = asked.to.into_iter().map(absolute).collect::<anyhow::Result<_>>()?;
            let Export { at, volumes, key, again, parts, json, .. } = Export { to: Vec::new(), ..asked };
            (at, Request::SeedExport(Wish { to, volumes, key, again, parts, actor: actor() }), json, false)
        }
        SeedCommand::Status { at, json } => (at, Request::Seeds, json, true),
        SeedCommand::Shipped { at, id, courier, number } => {
            (at, Request::SeedShipped { id, courier, number, actor: actor() }, false, false)
        }
        SeedCommand::Abandon { at, id, by } => {
            let by = match by {
                Some(By::Line) => Way::Line,
                Some(By::NewSeed) => Way::NewSeed,
                None => bail!(HOW),
            };
            (at, Request::SeedAbandon { id, by, actor: actor() }, false, false)
        }
    };
    let Outcome::Seeds(seeds) = request(&at.load()?, asked).await? else { bail!(AskError::NotUnderstood) };
    if json {
        match seeds.first() {
            Some(seed) if !looks => println!("{}", serde_json::to_string(seed)?),
            _ => println!("{}", serde_json::to_string(&seeds)?),
        }
        return Ok(());
    }
    seeds.iter().for_each(|seed| show(seed, looks));
    if seeds.is_empty() {
        println!("no seeds by courier; `sluice-edge seed export --to MOUNT` makes one");
    }
    Ok(())
}

fn show(seed: &ShipmentStatus, all: bool) {
    println!("{seed}");
    for medium in &seed.media {
        let state = if medium.closed { "closed" } else { "open" };
        let (parts, bytes) = (medium.parts, text::bytes(medium.bytes));
        println!("  medium {}  {state}, {parts} parts, {bytes}, at {}", medium.number, medium.mount.display());
    }
    if all {
        for noted in &seed.custody {
            let at = jiff::Timestamp::from_millisecond(noted.at as i64).unwrap_or_default();
            println!("  {}  {} by {} {}", at.strftime("%Y-%m-%d %H:%M"), noted.state.word(), noted.by, noted.note);
        }
    }
}
