//! What is known of the box: asked of the kernel, the daemon's `/health` and `sluice-edge status`. Each question has a deadline and a bound; what is
//! not answered is not shown.

mod cards;
mod edge;
mod health;
mod pin;
mod view;

pub(crate) use cards::{Card, cards};
pub(crate) use edge::Edge;
pub(crate) use health::Health;
pub(crate) use pin::{FOLDER, new_pin};
pub(crate) use view::{Line, lines};

use crate::files::words_of;
use crate::run::{Place, now};
use release::report::{InstallReport, InstallState, SystemReport};
use std::time::{Duration, Instant, SystemTime};

/// Disks whose warnings are read.
const DISKS: usize = 16;
/// Starting the daemon's program costs an old machine a second of its processor: not more often than this while nobody looks.
const STATUS_EVERY: Duration = Duration::from_secs(30);

/// What this system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Edge,
    Gateway,
}

impl Role {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Role::Edge => "edge",
            Role::Gateway => "gateway",
        }
    }

    /// Where its daemon says how it is.
    fn health_port(self) -> u16 {
        match self {
            Role::Edge => 9471,
            Role::Gateway => 9470,
        }
    }

    fn page_port(self) -> u16 {
        match self {
            Role::Edge => 9472,
            Role::Gateway => 9443,
        }
    }
}

/// What the slot says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) role: Role,
    pub(crate) version: String,
}

impl Release {
    /// `/usr/lib/sluice/release`: `ROLE=edge`, `VERSION=...`.
    pub(crate) fn read(place: &Place) -> anyhow::Result<Release> {
        let path = place.path("/usr/lib/sluice/release");
        let text = String::from_utf8(crate::files::read_at_most(&path, 4096)?)?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let role = match value("ROLE") {
            Some("edge") => Role::Edge,
            Some("gateway") => Role::Gateway,
            _ => anyhow::bail!("{} names no ROLE: this is not the appliance", path.display()),
        };
        Ok(Release { role, version: value("VERSION").unwrap_or("?").into() })
    }
}

/// Everything that the screen shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub(crate) release: Release,
    /// `A` or `B`.
    pub(crate) slot: Option<char>,
    pub(crate) cards: Vec<Card>,
    pub(crate) enrolled: bool,
    /// Why enrolling by the site's file does not work yet.
    pub(crate) enrol_why: Option<String>,
    /// For the page, until the box is enrolled.
    pub(crate) pin: Option<String>,
    /// For the gateway's first account.
    pub(crate) setup: Option<String>,
    pub(crate) health: Option<Health>,
    pub(crate) edge: Option<Edge>,
    /// Whether the data partition is there.
    pub(crate) data: bool,
    /// What opened it, if it is encrypted: `tpm` or `passphrase`.
    pub(crate) data_key: Option<String>,
    /// A version in the other slot that waits for this machine to be started anew.
    pub(crate) waiting: bool,
    /// What runs, as `sluice-box system` wrote it down.
    pub(crate) system: Option<SystemReport>,
    /// What smartd and the watch over data have to say.
    pub(crate) warnings: Vec<String>,
    /// The machine's clock, Unix milliseconds.
    pub(crate) at: u64,
}

/// Asks for facts again and again.
pub(crate) struct Watch {
    place: Place,
    release: Release,
    edge: Option<(Instant, Option<Edge>)>,
}

impl Watch {
    pub(crate) fn new(place: Place, release: Release) -> Watch {
        Watch { place, release, edge: None }
    }

    /// What is known now. `afresh`: somebody looks.
    pub(crate) fn facts(&mut self, afresh: bool) -> Facts {
        let (place, release) = (&self.place, self.release.clone());
        let is_edge = release.role == Role::Edge;
        let health = Health::ask(release.role.health_port());
        let enrolled = is_edge && place.path("/var/lib/sluice-edge/identity.json").exists();
        // Without a daemon `sluice-edge` would open the state itself, and a daemon that starts meanwhile could not.
        let runs = is_edge && health.is_some();
        let is_old = |(asked, _): &(Instant, _)| now().duration_since(*asked) >= STATUS_EVERY;
        if !runs {
            self.edge = None;
        } else if afresh || self.edge.as_ref().is_none_or(is_old) {
            self.edge = Some((now(), Edge::ask(place)));
        }
        Facts {
            slot: slot(place),
            cards: cards(place),
            enrolled,
            enrol_why: words_of(&place.path("/run/sluice-enrol/why"), 300).filter(|_| is_edge && !enrolled),
            pin: if runs && !enrolled { pin::pin(place) } else { None },
            setup: words_of(&place.path("/var/lib/sluice-gateway/setup.code"), 200).filter(|_| !is_edge),
            health,
            edge: self.edge.as_ref().and_then(|(_, edge)| edge.clone()),
            data: has_data(place),
            data_key: crate::data::opened(place),
            waiting: crate::data::needs_a_person(place) && waits_for_a_start(place),
            system: release::report::read(&place.path("/run/sluice/system.json")).ok().flatten(),
            warnings: warnings(place),
            at: machine_time(),
            release,
        }
    }
}

/// The slot that was started, from the kernel's command line.
pub(crate) fn slot(place: &Place) -> Option<char> {
    let words = words_of(&place.path("/proc/cmdline"), 4096)?;
    let slot = words.split(' ').find_map(|word| word.strip_prefix("sluice.slot="))?;
    slot.chars().next().filter(|slot| matches!(slot, 'A' | 'B'))
}

/// What `/run/sluice/data-full` and `/run/sluice/smart/*` say.
fn warnings(place: &Place) -> Vec<String> {
    let mut files = vec![place.path("/run/sluice/data-full")];
    let disks = std::fs::read_dir(place.path("/run/sluice/smart")).into_iter().flatten().flatten();
    files.extend(disks.take(DISKS).map(|disk| disk.path()));
    files.sort();
    files.iter().filter_map(|file| words_of(file, 300)).collect()
}

/// Whether a release was put on trial since this machine was started.
fn waits_for_a_start(place: &Place) -> bool {
    let report = release::report::read::<InstallReport>(&place.path("/run/sluice/install.json")).ok().flatten();
    report.is_some_and(|report| matches!(report.state, InstallState::OnTrial))
}

fn has_data(place: &Place) -> bool {
    let mounts = crate::files::read_at_most(&place.path("/proc/self/mounts"), 1 << 20).unwrap_or_default();
    is_data_mounted(&String::from_utf8_lossy(&mounts))
}

/// Where nothing is mounted, the folder below is: systemd makes a mount of each path that this process may write to.
fn is_data_mounted(mounts: &str) -> bool {
    let is_data = |mount: &str| matches!(mount.split(' ').collect::<Vec<_>>()[..], [_, "/data", "ext4", ..]);
    mounts.lines().any(is_data)
}

#[allow(clippy::disallowed_methods, reason = "ages are shown by the machine's clock")]
fn machine_time() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests;
