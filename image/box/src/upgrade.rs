//! Another release of the system on this box: the command that has root. What runs stays what is started until all is in its place.

use crate::console::stick;
use crate::data;
use crate::run::{Place, succeed};
use crate::status::FOLDER;
use anyhow::Context;
use release::install::Allowed;
use release::machine::Machine;
use release::report;
use release::upgrade::{From, upgrade};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For systemd to take an order.
const WITHIN: Duration = Duration::from_secs(60);
/// In [`FOLDER`]: what somebody at the console chose.
pub(crate) const CHOSEN: &str = "upgrade.json";

/// What somebody at the console chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chosen {
    /// The stick's file system.
    pub(crate) device: PathBuf,
    /// The bundle's name on it.
    pub(crate) file: String,
    /// It is an older release, and they know it.
    pub(crate) older: bool,
}

/// Writes what runs for the daemon to read.
pub(crate) fn tell(settled: bool) -> anyhow::Result<()> {
    let machine = Machine::default();
    let system = machine.system()?;
    let path = machine.system_report();
    report::write(&path, &machine.report(&system, settled)?).with_context(|| path.display().to_string())
}

/// Installs what the daemon brought.
pub(crate) fn take_brought(folder: &Path) -> anyhow::Result<()> {
    let manifest = upgrade(&Machine::default(), From::Daemon(folder), &mut |_, _| {})?;
    if data::needs_a_person(&Place::real()) {
        // It would stand there with nothing replicated until somebody comes.
        let version = &manifest.version;
        println!(
            "version {version} is in the other slot and is tried when somebody at the box starts it anew, for the passphrase has to be typed"
        );
        return Ok(());
    }
    start_anew(&manifest.version)
}

/// Installs what somebody chose at the console, from the stick.
pub(crate) fn take_chosen() -> anyhow::Result<()> {
    let place = Place::real();
    let path = place.path(FOLDER).join(CHOSEN);
    let chosen: Chosen = report::read(&path)?.context("nobody has chosen a release at the console")?;
    std::fs::remove_file(&path)?;
    let allowed = if chosen.older { Allowed::Older } else { Allowed::Newer };
    let manifest = stick::with_mounted(&place, &chosen.device, stick::Access::Read, |folder| {
        // A name, and nothing that leads elsewhere.
        let name = Path::new(&chosen.file).file_name().context("no name of a file")?;
        Ok(upgrade(&Machine::default(), From::Stick(&folder.join(name), allowed), &mut |_, _| {})?)
    })?;
    start_anew(&manifest.version)
}

fn start_anew(version: &str) -> anyhow::Result<()> {
    println!("version {version} is in the other slot and is tried now");
    succeed(Place::real().program("systemctl").arg("reboot"), WITHIN)?;
    Ok(())
}
