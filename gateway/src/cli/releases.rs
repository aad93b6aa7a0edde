//! Commands for releases of the appliance's system, and for roll-outs.

use super::absolute;
use anyhow::Result;
use clap::Subcommand;
use sluice_gateway::admin::{ReleaseRequest, Request, RolloutRequest};
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum ReleaseCommand {
    /// Take a release in: a file NAME.sluice-release, signed by its maker.
    Import {
        /// The file. The daemon reads it, and has to be allowed to.
        file: PathBuf,
    },
    /// List releases, newest first.
    List,
    /// Show a release; with --json also its signed manifest.
    Show {
        /// Its version, or the beginning of its root hash.
        release: String,
    },
    /// Forget a release that no roll-out uses and no site runs.
    Remove {
        /// Its version, or the beginning of its root hash.
        release: String,
    },
    /// Say which site runs what.
    Sites,
    /// Say what a site runs, and what became of other versions there.
    Site {
        /// SITE, or TENANT/SITE.
        site: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum RolloutCommand {
    /// Roll a release out: to one site, then ten, then all, each proved before the next.
    Start {
        /// The version of the release, or the beginning of its root hash.
        release: String,
        /// A site of the first ring: SITE, or TENANT/SITE; may be given several times.
        #[arg(long = "site", value_name = "SITE", required = true)]
        first: Vec<String>,
        /// A site of the second ring; without any, up to ten are chosen, those that are connected first.
        #[arg(long = "then", value_name = "SITE")]
        second: Vec<String>,
        /// Hours between the proof of a ring and the next.
        #[arg(long, value_name = "HOURS", default_value_t = 24)]
        soak: u32,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// List roll-outs, newest first.
    List,
    /// Show a roll-out with its rings and sites.
    Show {
        /// Its number; the last one unless given.
        number: Option<u64>,
    },
    /// Hold the roll-out: no further site begins.
    Pause {
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Let the roll-out go on that is paused, or that stopped by itself.
    Resume {
        /// Let sites that failed try again; otherwise it goes on without them.
        #[arg(long)]
        retry: bool,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// End the roll-out.
    Cancel {
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

pub(crate) fn request(command: ReleaseCommand) -> Result<Request> {
    Ok(Request::Release(match command {
        ReleaseCommand::Import { file } => ReleaseRequest::Import { file: absolute(&file)?, uploaded: false },
        ReleaseCommand::List => ReleaseRequest::List,
        ReleaseCommand::Show { release } => ReleaseRequest::Show { release },
        ReleaseCommand::Remove { release } => ReleaseRequest::Remove { release },
        ReleaseCommand::Sites => ReleaseRequest::Versions,
        ReleaseCommand::Site { site } => ReleaseRequest::Site { site },
    }))
}

pub(crate) fn rollout(command: RolloutCommand) -> Request {
    Request::Rollout(match command {
        RolloutCommand::Start { release, first, second, soak, reason } => {
            let second = (!second.is_empty()).then_some(second);
            RolloutRequest::Start { release, first, second, soak_hours: Some(soak), reason }
        }
        RolloutCommand::List => RolloutRequest::List,
        RolloutCommand::Show { number } => RolloutRequest::Show { number },
        RolloutCommand::Pause { reason } => RolloutRequest::Pause { number: None, reason },
        RolloutCommand::Resume { retry, reason } => RolloutRequest::Resume { number: None, retry, reason },
        RolloutCommand::Cancel { reason } => RolloutRequest::Cancel { number: None, reason },
    })
}
