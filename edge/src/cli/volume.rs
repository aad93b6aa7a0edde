//! `volume`: what is replicated, and what is believed of its sources.

use super::{At, Config, Request, request, status};
use anyhow::Context;
use clap::Subcommand;
use sluice_edge::capture::OnReadError;
use sluice_edge::source::SourceSpec;
use sluice_edge::source::ask::{Standing, ask};
use sluice_edge::status::Status;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum VolumeCommand {
    /// Replicate a volume from now on.
    Add {
        #[command(flatten)]
        at: At,
        /// Its name at this site.
        name: String,
        /// Where its bytes come from: file:PATH, block:DEVICE, the URI of an NBD export (nbd://HOST/EXPORT), or a disk of a running machine
        /// (qemu:MONITOR?disk=NAME).
        #[arg(long)]
        source: SourceSpec,
        /// When sectors cannot be read: stop the capture, or make them zero and list them.
        #[arg(long, value_enum, default_value = "stop")]
        on_read_error: OnReadError,
        /// A program that makes what uses the volume finish and wait when it is called with `freeze`, and lets it go on when it is called with `thaw`. For sources that
        /// can be held at one moment.
        #[arg(long, value_name = "SCRIPT")]
        freeze: Option<std::path::PathBuf>,
    },
    /// List the volumes.
    List {
        #[command(flatten)]
        at: At,
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what a source can do before it is added: whether it can be reached and read, and what captures of it will cost. Ends with an error if it is not
    /// supported.
    Test {
        #[command(flatten)]
        at: At,
        /// Where its bytes come from, as for `volume add --source`.
        source: SourceSpec,
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Believe the change tracker of a volume again, once it is known why it missed changes. Until then everything is read at each capture.
    Trust {
        #[command(flatten)]
        at: At,
        /// Its name.
        name: String,
        /// The dirty bitmap that follows its changes from now on. Under a name that was never used; the server shows the old one for one more capture.
        #[arg(long, value_name = "NAME")]
        bitmap: Option<String>,
    },
    /// Stop replicating a volume. What the gateway holds of it stays there.
    Remove {
        #[command(flatten)]
        at: At,
        /// Its name.
        name: String,
    },
}

/// Does what is asked of the list of volumes.
pub(crate) async fn volume(asked: VolumeCommand) -> anyhow::Result<ExitCode> {
    match asked {
        VolumeCommand::Add { at, name, source, on_read_error, freeze } => {
            let text = format!("volume {name} is replicated from {source} from now on");
            request(&at.load()?, Request::VolumeAdd { name, source, on_read_error, freeze }).await?;
            println!("{text}");
        }
        VolumeCommand::List { at, json } => list(&status(&at.load()?).await?, json)?,
        VolumeCommand::Test { at, source, json } => return test(&at.load()?, source, json).await,
        VolumeCommand::Trust { at, name, bitmap } => {
            request(&at.load()?, Request::VolumeTrust { name: name.clone(), bitmap }).await?;
            println!("what the source of {name} says of its changes is believed from the next capture on");
        }
        VolumeCommand::Remove { at, name } => {
            request(&at.load()?, Request::VolumeRemove { name: name.clone() }).await?;
            println!("volume {name} is not replicated any more; what the gateway holds of it stays there");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(status: &Status, json: bool) -> anyhow::Result<()> {
    if json {
        let rows: Vec<_> = status
            .volumes
            .iter()
            .map(|volume| serde_json::json!({"name": volume.name, "source": volume.source}))
            .collect();
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    if status.volumes.is_empty() {
        println!("no volumes; add one with `sluice-edge volume add NAME --source file:PATH`");
    }
    let width = status.volumes.iter().map(|volume| volume.name.len()).max().unwrap_or(0);
    status.volumes.iter().for_each(|volume| println!("{:width$}  {}", volume.name, volume.source));
    Ok(())
}

/// Looks at a source from this process: nothing of the state directory is needed for it.
async fn test(config: &Config, source: SourceSpec, json: bool) -> anyhow::Result<ExitCode> {
    let (sources, began) = (config.sources.clone(), tokio::time::Instant::now());
    let asking = tokio::task::spawn_blocking(move || ask(&source, &sources, || began.elapsed()));
    let findings = asking.await.context("the asking thread failed")?;
    match json {
        true => println!("{}", serde_json::to_string(&findings)?),
        false => findings.iter().for_each(|finding| println!("{finding}")),
    }
    let unsupported = findings.iter().any(|finding| finding.standing == Standing::Unsupported);
    Ok(if unsupported { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
