//! `domain`: machines of libvirt on what targets hold.

use super::absolute;
use anyhow::Result;
use clap::Subcommand;
use sluice_gateway::admin::{DomainRequest, Request};
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum DomainCommand {
    /// List the domains that were defined here, and what they do.
    List,
    /// Define one on points of a target; it is not started. What it writes goes to overlays that are thrown away with it.
    Define {
        /// Its name.
        name: String,
        /// The target that holds its disks: raw files, a device or qcow2.
        #[arg(long)]
        target: String,
        /// SITE/VOLUME or TENANT/SITE/VOLUME, with `@NUMBER` another point than the newest; the one to boot from first.
        #[arg(long = "volume", required = true)]
        volumes: Vec<String>,
        /// MiB of memory.
        #[arg(long, default_value_t = 2048)]
        memory: u64,
        /// Processors.
        #[arg(long, default_value_t = 2)]
        processors: u32,
        /// What disks hang on: virtio, sata, scsi or ide.
        #[arg(long, default_value = "virtio")]
        bus: String,
        /// A domain's XML with @NAME@, @MEMORY@, @VCPUS@, @DISKS@ and @METADATA@ to fill in, instead of a BIOS machine without network.
        #[arg(long, value_name = "FILE")]
        template: Option<PathBuf>,
        /// Where libvirt is.
        #[arg(long, default_value = "qemu:///system")]
        uri: String,
    },
    /// Start one.
    Start {
        /// Its name.
        name: String,
    },
    /// End one as pulling the plug does, and remove it with what it wrote.
    Remove {
        /// Its name.
        name: String,
    },
}

pub(super) fn request(command: DomainCommand) -> Result<Request> {
    Ok(Request::Domain(match command {
        DomainCommand::List => DomainRequest::List,
        DomainCommand::Define { name, target, volumes, memory, processors, bus, template, uri } => {
            let template = template.map(|path| absolute(&path)).transpose()?;
            DomainRequest::Define { name, target, volumes, memory, processors, bus, template, uri }
        }
        DomainCommand::Start { name } => DomainRequest::Start { name },
        DomainCommand::Remove { name } => DomainRequest::Remove { name },
    }))
}
