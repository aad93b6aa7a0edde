//! `sluice-box`: what the appliance says on its screen and its serial line, what can be changed there, and the site's own file.

mod console;
mod data;
mod files;
mod language;
mod network;
mod run;
mod secret;
mod site;
mod slots;
mod status;
mod terminal;
mod trial;
mod upgrade;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use language::Language;
use nix::unistd::Group;
use run::Place;
use site::Site;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The end of a console whose terminal is not there, for systemd not to start it again (EX_UNAVAILABLE of sysexits.h).
const NO_TERMINAL: u8 = 69;

/// The console of the appliance, and the site's own file.
#[derive(Parser)]
#[command(name = "sluice-box", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show how this box is on a terminal, and serve its menu.
    Console {
        /// The terminal's device.
        #[arg(long, value_name = "DEVICE")]
        tty: PathBuf,
        /// The language to begin with; a key changes it. The kernel's own screens have English only.
        #[arg(long, value_enum, default_value = "en")]
        language: Language,
    },
    /// A site's own file, `sluice.toml`.
    #[command(subcommand)]
    Site(SiteCommand),
    /// The data partition.
    #[command(subcommand)]
    Data(DataCommand),
    /// The network's files.
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Write what runs to where the daemon reads it.
    System {
        /// What runs is confirmed, and how the last trial ended is written down.
        #[arg(long)]
        settled: bool,
    },
    /// Put another release into the other slot, for a trial, and start the machine anew.
    Upgrade {
        /// The folder into which the daemon brought it; without one, what somebody chose at the console.
        #[arg(long, value_name = "FOLDER")]
        brought: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum SiteCommand {
    /// Say whether the file can be used.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Put what the file says where the system looks for it.
    Apply {
        /// The file.
        file: PathBuf,
    },
    /// Print one value; nothing where the file has none.
    Value {
        /// The file.
        file: PathBuf,
        /// Which.
        key: SiteKey,
    },
}

/// What the installer asks a site's file for.
#[derive(Clone, Copy, ValueEnum)]
enum SiteKey {
    Disk,
    Erase,
    /// `yes` or `no`: whether data is to be encrypted.
    Encrypt,
}

#[derive(Subcommand)]
enum DataCommand {
    /// Make an empty file system on the partition, encrypted if the site's file has a passphrase for it. What was on it is lost.
    Make {
        /// The partition.
        device: PathBuf,
        /// The site's file; without one, nothing is encrypted.
        #[arg(long, value_name = "FILE")]
        site: Option<PathBuf>,
    },
    /// Open it, by the machine's TPM or with somebody who types the passphrase, for whom this waits. One that is not encrypted is open.
    Open,
    /// Ask for the passphrase on a terminal until it is open.
    Unlock {
        /// The terminal's device.
        #[arg(long, value_name = "DEVICE")]
        tty: PathBuf,
    },
}

#[derive(Subcommand)]
enum NetworkCommand {
    /// Undo a change that nobody kept. For the start, before networkd.
    Recover,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Console { tty, language } => return console::serve(&tty, language),
        Command::Site(command) => site(command),
        Command::Data(DataCommand::Unlock { tty }) => return data::unlock(&tty),
        Command::Data(DataCommand::Open) => data::open(&Place::real()),
        Command::Data(DataCommand::Make { device, site }) => make_data(&device, site.as_deref()),
        Command::Network(NetworkCommand::Recover) => recover(&Place::real()),
        Command::System { settled } => upgrade::tell(settled),
        Command::Upgrade { brought: Some(folder) } => upgrade::take_brought(&folder),
        Command::Upgrade { brought: None } => upgrade::take_chosen(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}"); // each says its cause itself
            ExitCode::FAILURE
        }
    }
}

fn site(command: SiteCommand) -> anyhow::Result<()> {
    let place = Place::real();
    match command {
        SiteCommand::Check { file } => Site::read(&file)?.check_edge(&place, &file)?,
        SiteCommand::Apply { file } => {
            let site = Site::read(&file)?;
            site.check_edge(&place, &file)?;
            let group = Group::from_name("sluice")?.context("there is no group sluice: this is not the appliance")?;
            site.apply(&place, Some(group.gid.as_raw()))?;
        }
        SiteCommand::Value { file, key } => {
            let site = Site::read(&file)?;
            let encrypt = if site.passphrase().is_some() { "yes" } else { "no" };
            let value = match key {
                SiteKey::Disk => site.disk,
                SiteKey::Erase => site.erase,
                SiteKey::Encrypt => Some(encrypt.into()),
            };
            println!("{}", value.unwrap_or_default());
        }
    }
    Ok(())
}

fn make_data(device: &Path, site: Option<&Path>) -> anyhow::Result<()> {
    let site = site.map(Site::read).transpose()?.unwrap_or_default();
    let made = data::make(&Place::real(), device, site.passphrase())?;
    println!("{made}");
    Ok(())
}

fn recover(place: &Place) -> anyhow::Result<()> {
    let folder = place.path("/run/sluice");
    std::fs::create_dir_all(&folder)?;
    // Consoles do not run yet: any lock will do.
    if trial::recover(&place.path(trial::FOLDER), &folder.join("network.lock"))? {
        println!("a change of the network that nobody had kept was undone");
    }
    Ok(())
}
