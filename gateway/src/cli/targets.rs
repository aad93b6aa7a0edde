//! `target`: set up, test, list, fill, keep at the latest.

use super::absolute;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use sluice_gateway::admin::{Request, TargetRequest};
use sluice_gateway::rehydrate::{Limits, Proof};
use sluice_gateway::text;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use targets::{Credentials, Settings};

#[derive(Subcommand)]
pub(crate) enum TargetCommand {
    /// List targets.
    List,
    /// Set one up.
    Add(AddArgs),
    /// Look whether one can be used: reached, allowed, with room.
    Test {
        /// NAME, or TENANT/NAME.
        target: String,
    },
    /// Remove one from the gateway; what it holds stays where it is.
    Remove {
        /// NAME, or TENANT/NAME.
        target: String,
    },
    /// List the restorable points that one holds.
    Points {
        /// NAME, or TENANT/NAME.
        target: String,
    },
    /// Keep one at the latest generation of a volume from now on.
    Keep(OrderArgs),
    /// Keep it so no more.
    Release(OrderArgs),
    /// Let an order rest.
    Pause(OrderArgs),
    /// Let it go on.
    Resume(OrderArgs),
    /// List what is kept at the latest.
    Orders,
    /// List runs, newest first.
    Runs {
        /// So many at most.
        #[arg(long, default_value_t = 50)]
        most: usize,
    },
    /// Give up a run that is not over, and clean its target of it.
    GiveUp {
        /// The run's id.
        run: String,
    },
}

#[derive(Args)]
pub(crate) struct OrderArgs {
    /// NAME, or TENANT/NAME.
    target: String,
    /// SITE/VOLUME, or TENANT/SITE/VOLUME; `SITE/*` for all volumes that the site has now.
    #[arg(long)]
    volume: String,
}

#[derive(Args)]
pub(crate) struct AddArgs {
    /// Its name.
    name: String,
    /// The tenant that it is for.
    #[arg(long, value_name = "NAME")]
    tenant: String,
    /// Its kind and settings: a TOML file, whose line `kind = "…"` says which; `docs/guide` has one of each.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["folder", "device"])]
    settings: Option<PathBuf>,
    /// A folder of sparse raw files, one for each volume.
    #[arg(long, value_name = "DIR", conflicts_with = "device")]
    folder: Option<PathBuf>,
    /// One block device, for one volume.
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// A file of lines NAME=VALUE with the credentials, readable by its owner alone; `environment`: the daemon's.
    #[arg(long, value_name = "FILE")]
    credentials: Option<String>,
    /// A PEM file with authorities to trust besides the system's.
    #[arg(long, value_name = "FILE")]
    authorities: Option<PathBuf>,
    /// Bytes a second that each run writes at most, as 50MB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    rate: Option<NonZeroU64>,
    /// Requests a second to each service of the target at most.
    #[arg(long, value_name = "N")]
    requests: Option<NonZeroU32>,
    /// How what was written is proved: `all` is read back, what was `changed`, or that and a share of the rest, as `5%`.
    #[arg(long, value_name = "HOW", default_value_t = Proof::All)]
    proof: Proof,
    /// Points of a volume that are kept there, instead of as many as generations here.
    #[arg(long, value_name = "N")]
    keep: Option<NonZeroU32>,
}

pub(super) fn request(command: TargetCommand) -> Result<Request> {
    Ok(Request::Target(match command {
        TargetCommand::List => TargetRequest::List,
        TargetCommand::Add(args) => add(args)?,
        TargetCommand::Test { target } => TargetRequest::Test { target },
        TargetCommand::Remove { target } => TargetRequest::Remove { target },
        TargetCommand::Points { target } => TargetRequest::Points { target },
        TargetCommand::Keep(OrderArgs { target, volume }) => TargetRequest::Keep { target, volume },
        TargetCommand::Release(OrderArgs { target, volume }) => TargetRequest::Release { target, volume },
        TargetCommand::Pause(OrderArgs { target, volume }) => TargetRequest::Pause { target, volume, paused: true },
        TargetCommand::Resume(OrderArgs { target, volume }) => TargetRequest::Pause { target, volume, paused: false },
        TargetCommand::Orders => TargetRequest::Orders,
        TargetCommand::Runs { most } => TargetRequest::Runs { most },
        TargetCommand::GiveUp { run } => TargetRequest::GiveUp { run },
    }))
}

fn add(args: AddArgs) -> Result<TargetRequest> {
    use targets::settings::{DeviceSettings, RawSettings};
    let settings = match (args.settings, args.folder, args.device) {
        (Some(file), ..) => {
            let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            toml::from_str(&text).with_context(|| format!("{} is no target's settings", file.display()))?
        }
        (_, Some(folder), _) => Settings::Raw(RawSettings { folder: absolute(&folder)? }),
        (.., Some(path)) => Settings::Device(DeviceSettings { path: absolute(&path)? }),
        _ => bail!("say what it is: --settings FILE, --folder DIR or --device PATH"),
    };
    let credentials = match args.credentials.as_deref() {
        None => Credentials::None,
        Some("environment") => Credentials::Environment,
        Some(path) => Credentials::File(absolute(path.as_ref())?),
    };
    let limits = Limits { bytes_per_second: args.rate, requests_per_second: args.requests };
    Ok(TargetRequest::Add {
        tenant: args.tenant,
        name: args.name,
        settings,
        credentials,
        authorities: args.authorities.map(|path| absolute(&path)).transpose()?,
        limits,
        proof: args.proof,
        keep: args.keep,
    })
}

/// Bytes as people write them: `50MB`, `1.5 GB`, `800000`.
fn parse_bytes(text: &str) -> Result<NonZeroU64, String> {
    let bytes = text::parse_bytes(text)?;
    NonZeroU64::new(bytes).ok_or_else(|| "0 bytes a second would never end; leave --rate out for no limit".to_owned())
}
