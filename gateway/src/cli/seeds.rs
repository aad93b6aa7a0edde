//! `seed`: what comes by courier.

use super::absolute;
use anyhow::{Result, bail};
use clap::Subcommand;
use sluice_gateway::admin::{Answer, Request, SeedAnswer, SeedRequest};
use std::path::PathBuf;
use wire::seeding::Way;

#[derive(Subcommand)]
pub(crate) enum SeedCommand {
    /// Take in media, in any order, several at once; run again, it goes on with what is not in.
    Import {
        /// Where media are mounted, or folders `sluice-seed-…`. The daemon reads them, and has to be allowed to.
        #[arg(required = true, value_name = "MOUNT")]
        mounts: Vec<PathBuf>,
    },
    /// List seeds by courier.
    List,
    /// Show a seed: its custody, and what is missing of it.
    Show {
        /// Its id, or the beginning of it.
        seed: String,
    },
    /// Print the key that edges encrypt media to. It is no secret.
    Key,
    /// Note that the media of a seed are here. `seed import` notes the rest.
    Arrived {
        /// Its id, or the beginning of it.
        seed: String,
        /// Who brought them, in what state.
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Note that its media are lost. What came over the line for it goes on waiting: they may turn up.
    Lost {
        /// Its id, or the beginning of it.
        seed: String,
        /// Why: it is kept and shown.
        #[arg(long)]
        reason: String,
    },
    /// Give a seed up. What came over the line for it is dropped; nothing goes over the line by itself.
    Abandon {
        /// Its id, or the beginning of it.
        seed: String,
        /// How its volume goes on. Without it, its edge holds the volume until somebody says so there.
        #[arg(long, value_enum)]
        by: Option<By>,
        /// Why: it is kept and shown.
        #[arg(long)]
        reason: String,
    },
}

/// How a volume goes on whose seed was given up.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum By {
    /// Everything goes over the line, which takes weeks on a thin one.
    Line,
    /// It waits for another seed.
    NewSeed,
}

pub(super) fn request(command: SeedCommand) -> Result<Request> {
    Ok(Request::Seed(match command {
        SeedCommand::Import { mounts } => {
            SeedRequest::Import { mounts: mounts.iter().map(|path| absolute(path)).collect::<Result<_>>()? }
        }
        SeedCommand::List => SeedRequest::List,
        SeedCommand::Show { seed } => SeedRequest::Show { seed },
        SeedCommand::Key => SeedRequest::Key,
        SeedCommand::Arrived { seed, note } => SeedRequest::Arrived { seed, note },
        SeedCommand::Lost { seed, reason } => SeedRequest::Lost { seed, reason },
        SeedCommand::Abandon { seed, by, reason } => {
            let by = by.map(|by| match by {
                By::Line => Way::Line,
                By::NewSeed => Way::NewSeed,
            });
            SeedRequest::Abandon { seed, by, reason }
        }
    }))
}

/// An import that is not whole has said so; scripts hear it too.
pub(super) fn check(answer: &Answer) -> Result<()> {
    match answer {
        Answer::Seed(SeedAnswer::Imported { outcome }) if !outcome.is_whole() => {
            bail!("not everything is in; what was refused, damaged or is missing stands above")
        }
        _ => Ok(()),
    }
}
