//! `export`: generations as block devices.

use clap::Subcommand;
use sluice_gateway::admin::{ExportRequest, Request};

#[derive(Subcommand)]
pub(crate) enum ExportCommand {
    /// List what is served.
    List,
    /// Serve a generation, at once.
    Start {
        /// SITE/VOLUME, or TENANT/SITE/VOLUME.
        #[arg(long)]
        volume: String,
        /// `latest`, a number, or an id.
        #[arg(long, default_value = "latest")]
        generation: String,
        /// A name by which clients ask for it, instead of SITE.VOLUME.NUMBER.
        #[arg(long)]
        name: Option<String>,
        /// Take writes into an overlay, which can be thrown away or kept: for a rehearsal.
        #[arg(long)]
        writable: bool,
    },
    /// Serve it no more.
    Stop {
        /// Its name.
        name: String,
        /// Throw away what was written.
        #[arg(long, conflicts_with = "keep")]
        discard: bool,
        /// Keep what was written: `export start` with the same name and generation serves it again.
        #[arg(long)]
        keep: bool,
    },
}

pub(super) fn request(command: ExportCommand) -> Request {
    Request::Export(match command {
        ExportCommand::List => ExportRequest::List,
        ExportCommand::Start { volume, generation, name, writable } => {
            ExportRequest::Start { volume, generation, name, writable }
        }
        ExportCommand::Stop { name, discard, keep } => {
            let keep = match (discard, keep) {
                (true, _) => Some(false),
                (false, true) => Some(true),
                (false, false) => None,
            };
            ExportRequest::Stop { name, keep }
        }
    })
}
