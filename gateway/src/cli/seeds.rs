//! `seed`: what comes by courier.

use super::absolute;
use anyhow::{Result, bail};
use clap::Subcommand;
use sluice_gateway::admin::{Answer, Request, SeedAnswer, SeedRequest};
use std::path::PathBuf;

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
}

pub(super) fn request(command: SeedCommand) -> Result<Request> {
    Ok(Request::Seed(match command {
        SeedCommand::Import { mounts } => {
            SeedRequest::Import { mounts: mounts.iter().map(|path| absolute(path)).collect::<Result<_>>()? }
        }
        SeedCommand::List => SeedRequest::List,
        SeedCommand::Show { seed } => SeedRequest::Show { seed },
        SeedCommand::Key => SeedRequest::Key,
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
