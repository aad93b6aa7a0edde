//! `restore` and `generations`: back to the branch.

use super::{AskError, At, Config, Outcome, Request, actor, request};
use anyhow::bail;
use clap::{Args, Subcommand};
use sluice_edge::export::Wish;
use sluice_edge::restore::{Known, Order};
use sluice_edge::text;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

/// Write a generation of a volume to a file or block device here; what is here needs no line.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Restore {
    #[command(subcommand)]
    command: Option<RestoreCommand>,
    #[command(flatten)]
    order: Asked,
}

/// What is to be restored.
#[derive(Args)]
struct Asked {
    #[command(flatten)]
    at: At,
    /// The volume, or the id of its lineage where this box does not know it by name.
    volume: Option<String>,
    /// Which: `latest`, a number as the gateway counts, or an id.
    #[arg(long, default_value = "latest")]
    generation: String,
    /// A new file or a block device, which must not be in use.
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    /// Only say what would be done, and what of it would come over the line.
    #[arg(long)]
    plan: bool,
    /// Print the plan, or the result, as JSON.
    #[arg(long)]
    json: bool,
    /// Let its bytes share the way down with the gateway's answers to replication, instead of giving way to them.
    #[arg(long)]
    priority: bool,
    /// Overwrite what the volume is captured from. Asks for the volume's name.
    #[arg(long)]
    onto_source: bool,
    /// The volume's name, to be asked nothing.
    #[arg(long, value_name = "VOLUME", requires = "onto_source")]
    confirm: Option<String>,
}

#[derive(Subcommand)]
enum RestoreCommand {
    /// List the restores that run, and the last ones that are over.
    List {
        #[command(flatten)]
        at: At,
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// End a restore. A file that is not whole is removed; a device stays incomplete.
    Cancel {
        #[command(flatten)]
        at: At,
        /// Its number.
        id: u64,
    },
}

/// List the generations of a volume.
#[derive(Args)]
pub(crate) struct Generations {
    #[command(flatten)]
    at: At,
    /// The volume, or the id of its lineage where this box does not know it by name.
    volume: String,
    /// Also those at the gateway.
    #[arg(long)]
    remote: bool,
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

/// Serve a generation as a read-only block device (NBD) until this command is ended, so that the host can mount it and copy single files.
#[derive(Args)]
pub(crate) struct Export {
    #[command(flatten)]
    at: At,
    /// The volume, or the id of its lineage where this box does not know it by name.
    volume: String,
    /// Which: `latest`, a number as the gateway counts, or an id.
    #[arg(long, default_value = "latest")]
    generation: String,
    /// Where the socket is made; nothing may be there yet.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

pub(super) async fn export(asked: Export) -> anyhow::Result<()> {
    let Export { at, volume, generation, socket } = asked;
    let config = at.load()?;
    let socket = std::path::absolute(&socket)?;
    let wish = Wish { volume, generation, socket, actor: actor() };
    eprintln!("serving until Ctrl-C; for example: nbd-client -unix {} /dev/nbd0", wish.socket.display());
    let Outcome::Exported(served) = request(&config, Request::Export(wish)).await? else {
        bail!(AskError::NotUnderstood)
    };
    println!("{} read, {} came over the line", text::bytes(served.read_bytes), text::bytes(served.fetched_bytes));
    Ok(())
}

pub(super) async fn restore(asked: Restore) -> anyhow::Result<()> {
    match asked.command {
        Some(RestoreCommand::List { at, json }) => show(&at.load()?, Request::Restores, json).await,
        Some(RestoreCommand::Cancel { at, id }) => show(&at.load()?, Request::RestoreCancel { id }, false).await,
        None => begin(asked.order).await,
    }
}

async fn show(config: &Config, asked: Request, json: bool) -> anyhow::Result<()> {
    let Outcome::Restores(all) = request(config, asked).await? else { bail!(AskError::NotUnderstood) };
    if json {
        println!("{}", serde_json::to_string(&all)?);
    } else if all.is_empty() {
        println!("no restores; begin one with `sluice-edge restore VOLUME --to PATH`");
    } else {
        all.iter().for_each(|status| println!("{status}"));
    }
    Ok(())
}

async fn begin(wish: Asked) -> anyhow::Result<()> {
    let (Some(volume), Some(to)) = (wish.volume, wish.to) else {
        bail!("name a volume and a target: sluice-edge restore VOLUME --to PATH")
    };
    let config = wish.at.load()?;
    let to = std::path::absolute(&to)?;
    let order = Order {
        volume,
        generation: wish.generation,
        to,
        onto_source: wish.onto_source,
        priority: wish.priority,
        actor: actor(),
    };
    if wish.plan {
        let Outcome::RestorePlanned(plan) = request(&config, Request::RestorePlan(order)).await? else {
            bail!(AskError::NotUnderstood)
        };
        if wish.json {
            println!("{}", serde_json::to_string(&plan)?)
        } else {
            println!("{}", plan.sentence)
        }
        return Ok(());
    }
    if order.onto_source {
        confirm(&order, wish.confirm)?;
    }
    let Outcome::Restored(status) = request(&config, Request::Restore(order)).await? else {
        bail!(AskError::NotUnderstood)
    };
    if wish.json {
        println!("{}", serde_json::to_string(&status)?)
    } else {
        println!("{status}")
    }
    Ok(())
}

/// The volume's name again, from whoever sits there or from `--confirm`.
fn confirm(order: &Order, given: Option<String>) -> anyhow::Result<()> {
    let said = match given {
        Some(said) => said,
        None if !std::io::stdin().is_terminal() => {
            bail!("--onto-source overwrites {}; say --confirm {} too", order.to.display(), order.volume)
        }
        None => {
            eprintln!(
                "This overwrites {}, from which volume {} is captured. It is unusable until the restore is done.",
                order.to.display(),
                order.volume
            );
            eprint!("Type the volume's name to go on: ");
            std::io::stderr().flush()?;
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            line.trim().to_owned()
        }
    };
    if said != order.volume {
        bail!("`{said}` is not `{}`: nothing was done", order.volume);
    }
    Ok(())
}

pub(super) async fn generations(asked: Generations) -> anyhow::Result<()> {
    let Generations { at, volume, remote, json } = asked;
    let listed = request(&at.load()?, Request::Generations { volume, remote }).await?;
    let Outcome::Generations(all) = listed else { bail!(AskError::NotUnderstood) };
    if json {
        println!("{}", serde_json::to_string(&all)?);
        return Ok(());
    }
    println!("{:>9}  {:>5}  {:<16}  {:>8}  {:<32}  ROOT", "GATEWAY", "HERE", "CAPTURED (UTC)", "SIZE", "ID");
    all.iter().for_each(|known| println!("{}", row(known)));
    Ok(())
}

fn row(known: &Known) -> String {
    let number = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
    let captured = jiff::Timestamp::from_millisecond(known.captured_at as i64).unwrap_or_default();
    format!(
        "{:>9}  {:>5}  {:<16}  {:>8}  {:<32}  {}",
        number(known.number),
        number(known.number_here),
        captured.strftime("%Y-%m-%d %H:%M"),
        text::bytes(known.size),
        known.generation,
        known.root
    )
}
