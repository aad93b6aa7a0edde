//! The appliance's own system: which release runs, and bringing another one here when the gateway says so.
//!
//! ```text
//!   gateway ══ Order ══► may it be taken? ──► fetch: parts, durable, resumable ──► STATE/upgrade/ready ──► `sluice-box install`, which has root
//!      ▲                                                                                                        │
//!      └══ Appliance ══ what runs, how far it is, how the last trial ended ◄── /run/sluice/*.json ◄─────────────┘
//! ```
//!
//! The daemon has no right to change the system. It brings bytes; whoever installs them checks the maker's signature and every byte again, and starts the
//! machine anew. Nothing is written to the other slot before all of a release is here, so the way back to the version before stays open until then.
//!
//! An edge that does not run on an appliance (there is no `/run/sluice/system.json`) says nothing of all this and takes no release.

pub(crate) mod decide;
pub(crate) mod fetch;

use crate::daemon::Daemon;
use crate::files;
use crate::link::Session;
use crate::pipeline::blocking;
use crate::text;
use decide::{Do, Failure, Handed, Here};
use fetch::{Fetch, Fetched, Progress};
use release::report::{self, InstallReport, LastTrial, Ready, SystemReport};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use wire::message::FromEdge;
use wire::release::{Appliance, MAX_WHY, Manifest, Order, ReleaseId, Stage, Trial};

/// How often the files of the one with root are looked at: they change some times in an upgrade, and never otherwise.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// While it fetches, the gateway hears how far it is each time so many hundredths are done.
const TELL_EACH: u64 = 5;

/// Where the appliance's own files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplianceConfig {
    /// Folder of `system.json` and `install.json`.
    pub folder: PathBuf,
    /// File of the keys whose releases are taken.
    pub keys: PathBuf,
}

/// How the appliance's system stands, for people at the site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplianceStatus {
    /// The running release's version.
    pub version: String,
    /// The slot that it was started from.
    pub slot: char,
    /// Whether it is confirmed, or on trial still.
    pub confirmed: bool,
    /// The version in the other slot, where that one could be started.
    pub previous: Option<String>,
    /// What is being done about another release.
    pub stage: Stage,
    /// How the last trial ended.
    pub last: Option<LastTrial>,
}

impl ApplianceStatus {
    /// What is being done about another release, as one sentence; `None`: nothing.
    pub fn doing(&self) -> Option<String> {
        match &self.stage {
            Stage::Idle => None,
            Stage::Fetching { total: 0, .. } => Some("Asks the gateway for another release of its system.".to_owned()),
            Stage::Fetching { done, total, .. } => {
                let (done, total) = (text::bytes(*done), text::bytes(*total));
                Some(format!("Fetches another release of its system: {done} of {total}."))
            }
            Stage::Installing { .. } => {
                Some("Installs another release of its system; the machine starts anew when that is done, or when somebody who has the passphrase of its data starts it.".to_owned())
            }
            Stage::Failed { why, .. } => Some(format!("Could not take another release of its system: {why}.")),
        }
    }
}

/// What status shows of it; empty on an edge that is no appliance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing(Arc<Mutex<Option<ApplianceStatus>>>);

impl Standing {
    pub(crate) fn now(&self) -> Option<ApplianceStatus> {
        self.lock().clone()
    }

    fn set(&self, status: ApplianceStatus) {
        *self.lock() = Some(status);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ApplianceStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // only replaced
    }
}

/// A fetch that runs.
struct Running {
    release: ReleaseId,
    base: Option<ReleaseId>,
    task: JoinHandle<Result<Fetched, String>>,
    progress: Arc<Progress>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort(); // what is durable stays
    }
}

struct Keeper {
    daemon: Daemon,
    folder: PathBuf,
    fetching: Option<Running>,
    /// Why the release of an order cannot be had, as long as that order holds.
    failure: Option<Failure>,
    /// What was told in which session.
    told: Option<(Arc<Session>, Appliance)>,
}

/// Follows the appliance's system until the daemon stops.
pub(crate) async fn run(daemon: Daemon) {
    let folder = daemon.config().state.join("upgrade");
    let mut keeper = Keeper { folder, fetching: None, failure: None, told: None, daemon };
    let (stop, mut sessions) = (keeper.daemon.stopping().clone(), keeper.daemon.link().sessions());
    let mut orders = keeper.daemon.link().orders();
    let mut clock = tokio::time::interval(LOOK_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            _ = sessions.changed() => {}
            _ = orders.changed() => {}
            () = stop.cancelled() => return,
        }
        let session = sessions.borrow_and_update().clone();
        let order = orders.borrow_and_update().clone();
        match keeper.step(session, order.as_ref()).await {
            Ok(()) => {}
            // A full or failing disk: it is said elsewhere too, and passes or does not.
            Err(error) => tracing::warn!(%error, "the appliance's system cannot be followed"),
        }
    }
}

impl Keeper {
    async fn step(&mut self, session: Option<Arc<Session>>, order: Option<&Order>) -> io::Result<()> {
        let Some(system) = self.read::<SystemReport>("system.json").await? else { return Ok(()) };
        let Some(running) = ReleaseId::read(&system.release) else {
            return Err(io::Error::other("system.json names no release"));
        };
        let installing = self.read::<InstallReport>("install.json").await?;
        self.take_fetched(order).await;
        let here = self.here(installing).await?;
        let keys = self.daemon.config().appliance.keys.clone();
        let (decided, manifest) = match order {
            Some(order) => {
                let (order, text) = (order.clone(), order.manifest.clone());
                let manifest = blocking(move || read(&text, &keys)).await;
                (decide::decide(&system, running, &order, &manifest, &here), manifest.ok())
            }
            None => (Do::Wait, None),
        };
        if here.fetched.as_ref().is_some_and(|fetched| fetched.release == running) {
            self.forget().await?; // it arrived
        }
        let stage = self.act(decided, order, manifest, running).await?;
        self.daemon.appliance().set(status(&system, &stage));
        let report = appliance(&system, running, stage);
        self.tell(session, report).await;
        Ok(())
    }

    async fn read<T: serde::de::DeserializeOwned + Send + 'static>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.daemon.config().appliance.folder.join(name);
        blocking(move || read_report(&path)).await
    }

    /// Takes the result of a fetch that is over.
    async fn take_fetched(&mut self, order: Option<&Order>) {
        if self.fetching.as_ref().is_none_or(|running| !running.task.is_finished()) {
            return;
        }
        let Some(mut running) = self.fetching.take() else { return };
        let ended = (&mut running.task).await;
        let why = match ended {
            Ok(Ok(_)) => return, // it lies in the folder
            Ok(Err(why)) => why,
            Err(_) => "the fetch broke off".to_owned(),
        };
        tracing::warn!(release = %running.release, why, "a release cannot be fetched");
        let Some(order) = order else { return };
        self.failure = Some(Failure { release: running.release, rollout: order.rollout, why });
    }

    /// What of a release is in the folder, and what became of it.
    async fn here(&self, installing: Option<InstallReport>) -> io::Result<Here> {
        let folder = self.folder.clone();
        let exports = self.daemon.exports();
        let mut here = blocking(move || {
            io::Result::Ok(Here {
                fetched: Fetched::find(&folder),
                handed: read_report(&folder.join("handed"))?,
                is_waiting: folder.join("ready").exists(),
                failure: read_report(&folder.join("failed"))?,
                installing,
                exports,
            })
        })
        .await?;
        here.failure = self.failure.clone().or(here.failure);
        Ok(here)
    }

    /// Does what was decided; returns how it stands.
    async fn act(
        &mut self,
        decided: Do,
        order: Option<&Order>,
        manifest: Option<Manifest>,
        running: ReleaseId,
    ) -> io::Result<Stage> {
        if !matches!(decided, Do::Fetch { .. }) {
            self.fetching = None;
        }
        match decided {
            Do::Idle | Do::Wait => Ok(Stage::Idle),
            Do::Fail(failure) => {
                let stage = Stage::Failed { release: failure.release, why: short(&failure.why) };
                self.note_failure(failure).await?;
                Ok(stage)
            }
            Do::Fetch { base } => {
                let (Some(order), Some(manifest)) = (order, manifest) else { return Ok(Stage::Idle) };
                let base = base.then_some(running);
                let same = |fetch: &&mut Running| fetch.release == manifest.id && fetch.base == base;
                let progress = match self.fetching.as_mut().filter(same) {
                    Some(fetch) => fetch.progress.clone(),
                    None => self.begin(order, &manifest, base),
                };
                let (done, total) = progress.now();
                Ok(Stage::Fetching { release: manifest.id, done, total })
            }
            Do::HandOver { release, against_running } => {
                let Some(order) = order else { return Ok(Stage::Idle) };
                let ready = Ready { release: release.hex(), against_running };
                let handed = Handed { release, rollout: order.rollout, against_running };
                let folder = self.folder.clone();
                tracing::info!(%release, "a release is here and is installed now");
                blocking(move || {
                    // First what is remembered of it: it is tried once for one roll-out, whatever happens.
                    report::write(&folder.join("handed"), &handed)?;
                    report::write(&folder.join("ready"), &ready)?;
                    files::sync_directory(&folder)
                })
                .await?;
                Ok(Stage::Installing { release })
            }
            Do::Installing(release) => Ok(Stage::Installing { release }),
        }
    }

    fn begin(&mut self, order: &Order, manifest: &Manifest, base: Option<ReleaseId>) -> Arc<Progress> {
        let progress = Arc::new(Progress::default());
        let fetch = Fetch {
            link: self.daemon.link().clone(),
            folder: self.folder.clone(),
            manifest: order.manifest.clone(),
            release: manifest.id,
            base,
            progress: progress.clone(),
        };
        tracing::info!(release = %manifest.id, version = manifest.version, against = ?base, "a release is fetched");
        let task = self.daemon.tracker().spawn(fetch.run());
        self.fetching = Some(Running { release: manifest.id, base, task, progress: progress.clone() });
        progress
    }

    async fn note_failure(&mut self, failure: Failure) -> io::Result<()> {
        let (folder, noted) = (self.folder.clone(), failure.clone());
        self.failure = Some(failure);
        blocking(move || {
            if report::read::<Failure>(&folder.join("failed")).ok().flatten().as_ref() == Some(&noted) {
                return Ok(());
            }
            files::private_directory(&folder)?;
            report::write(&folder.join("failed"), &noted)
        })
        .await
    }

    /// What lies in the folder is of no use any more.
    async fn forget(&self) -> io::Result<()> {
        let folder = self.folder.clone();
        blocking(move || match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    /// Tells the gateway what changed, and a new session all of it.
    async fn tell(&mut self, session: Option<Arc<Session>>, report: Appliance) {
        let Some(session) = session.filter(|session| session.knows_releases()) else { return };
        let told = self.told.as_ref().filter(|(known, _)| Arc::ptr_eq(known, &session)).map(|(_, told)| told);
        if told.is_some_and(|told| !worth_telling(told, &report)) {
            return;
        }
        session.say(FromEdge::Appliance(report.clone())).await;
        self.told = Some((session, report));
    }
}

/// A small file; what is wrong is said with its name.
fn read_report<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    report::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// The manifest, if somebody trusted signed it; else which release it says it is about, and why it is not believed.
fn read(text: &str, keys: &Path) -> Result<Manifest, (ReleaseId, String)> {
    let keys = release::install::read_keys(keys).map_err(|error| error.to_string());
    let manifest = keys.and_then(|keys| Manifest::read(text, &keys).map_err(|error| error.to_string()));
    manifest.map_err(|why| {
        let said = Manifest::read_unproved(text).map_or(ReleaseId([0; 32]), |(manifest, _)| manifest.id);
        (said, why)
    })
}

fn short(why: &str) -> String {
    why.chars().take(MAX_WHY).collect()
}

fn appliance(system: &SystemReport, running: ReleaseId, stage: Stage) -> Appliance {
    Appliance {
        release: running,
        version: system.version.clone(),
        sequence: system.sequence,
        confirmed: system.confirmed,
        previous: system.previous.clone(),
        stage,
        last: system.last.as_ref().and_then(|last| {
            Some(Trial {
                release: ReleaseId::read(&last.release)?,
                confirmed: last.confirmed,
                why: short(&last.why),
                at: dedupe::UnixMillis(last.at.saturating_mul(1000)),
            })
        }),
    }
}

/// Whether the gateway ought to hear of it: anything but a step too small to see.
fn worth_telling(told: &Appliance, now: &Appliance) -> bool {
    let (Stage::Fetching { release, done, total }, Stage::Fetching { release: other, done: before, total: all }) =
        (&now.stage, &told.stage)
    else {
        return told != now;
    };
    let hundredths = |done: u64, total: u64| done.saturating_mul(100) / total.max(1) / TELL_EACH;
    let same = Appliance { stage: told.stage.clone(), ..now.clone() } == *told;
    !same || release != other || total != all || hundredths(*done, *total) != hundredths(*before, *all)
}

fn status(system: &SystemReport, stage: &Stage) -> ApplianceStatus {
    ApplianceStatus {
        version: system.version.clone(),
        slot: system.slot.letter(),
        confirmed: system.confirmed,
        previous: system.previous.clone(),
        stage: stage.clone(),
        last: system.last.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(stage: Stage) -> Appliance {
        Appliance {
            release: ReleaseId([1; 32]),
            version: "1".into(),
            sequence: 1,
            confirmed: true,
            previous: None,
            stage,
            last: None,
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handed");
        assert!(read_report::<Handed>(&path).unwrap().is_none());
        std::fs::write(&path, "{").unwrap();
        let said = read_report::<Handed>(&path).unwrap_err().to_string();
        assert!(said.starts_with(&path.display().to_string()), "{said}");
    }

    #[test]
    fn progress_is_told_in_steps_and_everything_else_at_once() {
        let at = |done| report(Stage::Fetching { release: ReleaseId([2; 32]), done, total: 1000 });
        assert!(!worth_telling(&at(0), &at(49)));
        assert!(worth_telling(&at(0), &at(50)));
        assert!(worth_telling(&at(0), &report(Stage::Idle)));
        assert!(worth_telling(&at(0), &Appliance { confirmed: false, ..at(0) }));
        assert!(!worth_telling(&report(Stage::Idle), &report(Stage::Idle)));
    }
}
