//! Seeds by courier at the site: generations of the local store go out on media, whatever else the edge does meanwhile.
//!
//! ```text
//!   shipments/<id>/record.json ──► export: which slabs are not out yet? ──► part ──► read back ──► medium-<n>.parts ──► …
//!   (durable)                                                        ──► medium full, or all out: manifest, label ──► closed
//! ```
//!
//! * [`record`]: what is durable. [`mod@export`]: writes media. [`word`]: what volumes and the gateway are told, and tell.
//!
//! What is exported stays in the local store until the gateway has it, or somebody gives it up.

pub mod export;
pub mod record;
mod word;

use crate::daemon::Daemon;
use crate::identity::IdentityFileError;
use crate::journal::{Journal, JournalError};
use crate::pipeline::blocking;
use dedupe::{GenerationId, Progress, SeedId, StoreError};
use record::{Noted, Shipment};
use seed::key::SealingKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wire::clock::machine_time;
use wire::seeding::SeedState;

/// The gateway's key for media, as the gateway told it or somebody wrote it.
const KEY_FILE: &str = "gateway.key";
/// Between two looks at how far an export is.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// Why a shipment was not exported or changed.
#[derive(Debug, thiserror::Error)]
pub enum ShipmentError {
    /// A record.
    #[error("cannot keep the state of a seed in {path}: {source}")]
    Record {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A record is none.
    #[error("{path} is damaged ({why}); restore it from a backup, or move its folder away and export anew")]
    Damaged {
        /// Where.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// No gateway key.
    #[error(
        "the gateway has not told its key for shipped media yet; connect this edge once, or give the key that `sluice-gateway seed key` prints: --key"
    )]
    NoKey,
    /// The key given is none.
    #[error(transparent)]
    BadKey(#[from] seed::key::NotAKey),
    /// Not enrolled.
    #[error(transparent)]
    Identity(#[from] IdentityFileError),
    /// The certificate.
    #[error("the identity of this edge: {0}")]
    Certificate(#[from] wire::identity::IdentityError),
    /// Nothing to export.
    #[error("there is no volume to export; `sluice-edge volume add` adds one")]
    NoVolumes,
    /// Never captured.
    #[error("{0} was never captured; run `sluice-edge capture {0}` first")]
    NeverCaptured(String),
    /// On its way already.
    #[error("{volume} is on its way as seed {id}; wait for it, or give it up: sluice-edge seed abandon {id}")]
    OnItsWay {
        /// The volume.
        volume: String,
        /// The shipment.
        id: SeedId,
    },
    /// Other volumes.
    #[error(
        "seed {0} is not finished and has other volumes; finish it without --volumes, or give it up: sluice-edge seed abandon {0}"
    )]
    OtherVolumes(SeedId),
    /// One at a time.
    #[error("an export runs already; `sluice-edge seed status` shows how far it is")]
    Busy,
    /// No such shipment.
    #[error("there is no seed {0} here; `sluice-edge seed status` lists those that there are")]
    Unknown(String),
    /// Its state does not allow that.
    #[error("seed {id} is {state}: {why}")]
    State {
        /// Which.
        id: SeedId,
        /// How it stands.
        state: &'static str,
        /// What does not fit.
        why: &'static str,
    },
    /// The store.
    #[error("the local store: {0}")]
    Store(#[from] StoreError),
    /// A part was not written.
    #[error("{source}; what is out stays out: run the command again when the cause is gone")]
    Write {
        /// Why.
        #[source]
        source: seed::write::WriteError,
    },
    /// A file of a medium.
    #[error("{0}; what is out stays out: run the command again when the medium is back")]
    Medium(#[from] seed::FileError),
    /// More room is needed.
    #[error(
        "the media given are full: {} of volumes are not out yet. Take the full ones out, and run the command again with another --to", crate::text::bytes(*.0)
    )]
    NeedsMore(u64),
    /// A medium was taken out before its end.
    #[error(
        "medium {number} was taken out before it was closed; mount it again (it was at {mount}) and run the command with it, or write its parts again: --again {id} --parts {number}"
    )]
    Unclosed {
        /// The shipment.
        id: SeedId,
        /// The medium.
        number: u32,
        /// Where it was.
        mount: PathBuf,
    },
    /// Parts are none.
    #[error("`{0}` names no parts of this seed: write MEDIUM/PART, or MEDIUM for all of one")]
    Parts(String),
}

/// What `seed export` is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// Where media are mounted.
    pub to: Vec<PathBuf>,
    /// Names of volumes; none: all.
    pub volumes: Vec<String>,
    /// The gateway's key, instead of the one that it told.
    pub key: Option<String>,
    /// A shipment of which parts are to be written again.
    pub again: Option<SeedId>,
    /// Which: `MEDIUM/PART` or `MEDIUM`.
    pub parts: Vec<String>,
    /// Who asks.
    pub actor: String,
}

/// How a shipment stands, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShipmentStatus {
    /// Its id: that of its first seed.
    pub id: String,
    /// How it stands.
    pub state: SeedState,
    /// Its volumes.
    pub volumes: Vec<VolumeLine>,
    /// Its media.
    pub media: Vec<MediumLine>,
    /// Bytes of volumes that have to go out: holes do not.
    pub total_bytes: u64,
    /// Bytes of these that are out and were read back.
    pub done_bytes: u64,
    /// Bytes of volumes a second, while it is exported.
    pub rate: Option<u64>,
    /// Seconds until all is out, at that rate.
    pub seconds_left: Option<u64>,
    /// What happened to it.
    pub custody: Vec<Noted>,
}

/// A volume of a shipment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeLine {
    /// Its name.
    pub name: String,
    /// Its seed.
    pub seed: String,
    /// Its lineage.
    pub lineage: String,
    /// The generation.
    pub generation: String,
    /// What it hashes to.
    pub root: String,
    /// Bytes.
    pub size: u64,
}

/// A medium of a shipment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediumLine {
    /// Its number.
    pub number: u32,
    /// Where it was mounted last.
    pub mount: PathBuf,
    /// Whether it has its manifest: nothing more is written to it.
    pub closed: bool,
    /// Parts on it.
    pub parts: usize,
    /// Bytes of these.
    pub bytes: u64,
}

/// All shipments of an edge.
pub struct Shipments {
    folder: PathBuf,
    journal: Arc<Journal>,
    /// Rows of the journal have changed.
    changed: tokio::sync::Notify,
    all: Mutex<BTreeMap<SeedId, Shipment>>,
    /// The export that runs.
    running: Mutex<Option<Running>>,
}

struct Running {
    id: Option<SeedId>,
    progress: Arc<Progress>,
    began: tokio::time::Instant,
}

impl Shipments {
    /// Those of a state directory. Blocks.
    pub fn open(state: &Path, journal: Arc<Journal>) -> Result<Shipments, ShipmentError> {
        let folder = state.join("shipments");
        let all: BTreeMap<_, _> =
            Shipment::load_all(&folder)?.into_iter().map(|shipment| (shipment.id, shipment)).collect();
        let changed = tokio::sync::Notify::new();
        let shipments = Shipments { folder, journal, changed, all: Mutex::new(all), running: Mutex::default() };
        let known: Vec<Shipment> = shipments.lock().values().cloned().collect();
        for shipment in &known {
            shipments.tell(shipment)?;
        }
        shipments.heard()?;
        Ok(shipments)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SeedId, Shipment>> {
        // Entries are replaced whole.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Generations that are on their way, or may have to be exported again: they stay in the local store.
    pub fn pinned(&self) -> Vec<GenerationId> {
        let all = self.lock();
        let open = all.values().filter(|shipment| !shipment.state.is_over());
        open.flat_map(|shipment| shipment.volumes.iter().map(|volume| volume.generation)).collect()
    }

    /// Takes the gateway's key for media, durably.
    pub fn set_key(&self, key: SealingKey) -> Result<(), ShipmentError> {
        if self.key().is_ok_and(|known| known == key) {
            return Ok(());
        }
        let path = self.folder.join(KEY_FILE);
        let text = format!("{key}\n");
        let written = crate::files::private_directory(&self.folder)
            .and_then(|()| crate::files::write_whole(&path, &[text.as_bytes()]));
        written.map_err(|source| ShipmentError::Record { path, source })
    }

    /// The gateway's key for media.
    pub fn key(&self) -> Result<SealingKey, ShipmentError> {
        let text = std::fs::read_to_string(self.folder.join(KEY_FILE)).map_err(|_| ShipmentError::NoKey)?;
        Ok(text.parse()?)
    }

    fn get(&self, id: SeedId) -> Result<Shipment, ShipmentError> {
        self.lock().get(&id).cloned().ok_or_else(|| ShipmentError::Unknown(id.to_string()))
    }

    /// Keeps a shipment's record, durably.
    fn put(&self, shipment: &Shipment) -> Result<(), ShipmentError> {
        shipment.store(&self.folder)?;
        self.lock().insert(shipment.id, shipment.clone());
        Ok(self.tell(shipment)?)
    }

    /// All of them, oldest first.
    pub fn statuses(&self) -> Vec<ShipmentStatus> {
        let mut all: Vec<Shipment> = self.lock().values().cloned().collect();
        all.sort_by_key(|shipment| shipment.custody.first().map(|noted| noted.at));
        all.iter().map(|shipment| self.status(shipment)).collect()
    }

    fn status(&self, shipment: &Shipment) -> ShipmentStatus {
        let (total, done) = (shipment.total_bytes(), shipment.done_bytes());
        let running = self.running();
        let running = running.as_ref().filter(|running| running.id == Some(shipment.id));
        let rate = running.map(|running| {
            let seconds = running.began.elapsed().as_secs_f64().max(0.001);
            (running.progress.done.load(std::sync::atomic::Ordering::Relaxed) as f64 / seconds) as u64
        });
        ShipmentStatus {
            id: shipment.id.to_string(),
            state: shipment.state,
            volumes: shipment.volumes.iter().map(VolumeLine::of).collect(),
            media: shipment.media.iter().map(record::Medium::line).collect(),
            total_bytes: total,
            done_bytes: done,
            rate,
            seconds_left: rate.filter(|rate| *rate > 0).map(|rate| total.saturating_sub(done) / rate),
            custody: shipment.custody.clone(),
        }
    }

    /// Notes what became of a shipment, durably.
    pub fn note(&self, id: SeedId, state: SeedState, by: &str, note: &str) -> Result<ShipmentStatus, ShipmentError> {
        let mut shipment = self.get(id)?;
        if !shipment.state.may_become(state) {
            let why = match state {
                SeedState::Shipped => "only what was exported to its end can be shipped",
                _ => "that cannot follow",
            };
            return Err(ShipmentError::State { id, state: shipment.state.word(), why });
        }
        shipment.becomes(state, machine_time(), by, note);
        self.put(&shipment)?;
        Ok(self.status(&shipment))
    }
}

impl VolumeLine {
    fn of(volume: &seed::manifest::Volume) -> VolumeLine {
        VolumeLine {
            name: volume.name.clone(),
            seed: volume.seed.to_string(),
            lineage: volume.lineage.to_string(),
            generation: volume.generation.to_string(),
            root: volume.root.clone(),
            size: volume.size,
        }
    }
}

/// Exports, or goes on with what was not finished. It goes on without whoever asked, and ends with the daemon.
pub(crate) async fn export(
    daemon: &Daemon,
    wish: Wish,
    show: impl Fn(String),
) -> Result<ShipmentStatus, ShipmentError> {
    let (disk, config, stop) = (daemon.disk().clone(), daemon.config().clone(), daemon.stopping().clone());
    let progress = Arc::new(Progress::default());
    {
        let mut running = disk.shipments.running();
        if running.is_some() {
            return Err(ShipmentError::Busy);
        }
        let began = tokio::time::Instant::now();
        *running = Some(Running { id: None, progress: progress.clone(), began });
    }
    let shared = progress.clone();
    let work = blocking(move || {
        let exported = export::Export::new(&disk, &config, &shared).and_then(|mut export| export.run(&wish));
        *disk.shipments.running() = None;
        exported.map(|shipment| disk.shipments.status(&shipment))
    });
    tokio::pin!(work);
    let mut clock = tokio::time::interval(SHOW_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = stop.cancelled(), if !progress.is_cancelled() => progress.cancel(),
            _ = clock.tick() => {
                let running = daemon.disk().shipments.running().as_ref().and_then(|running| running.id);
                if let Some(Ok(shipment)) = running.map(|id| daemon.disk().shipments.get(id)) {
                    show(daemon.disk().shipments.status(&shipment).to_string());
                }
            }
        }
    }
}

impl std::fmt::Display for ShipmentStatus {
    /// One line: what it is, how far, how long it takes still.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::text::{bytes, duration};
        let names: Vec<&str> = self.volumes.iter().map(|volume| volume.name.as_str()).collect();
        write!(f, "seed {} of {}: ", self.id, names.join(", "))?;
        match self.state {
            SeedState::Exporting => {
                write!(f, "{} of {} out and read back", bytes(self.done_bytes), bytes(self.total_bytes))?;
                if let Some(rate) = self.rate.filter(|rate| *rate > 0) {
                    write!(f, ", {} a second", bytes(rate))?;
                }
                match self.seconds_left {
                    Some(left) => write!(f, ", {} left", duration(Duration::from_secs(left))),
                    None => Ok(()),
                }
            }
            SeedState::Exported => {
                write!(f, "exported to {} media and read back: safe to ship", self.media.len())
            }
            state => {
                write!(f, "{}", state.word())?;
                match self.custody.last().filter(|noted| !noted.note.is_empty()) {
                    Some(noted) => write!(f, " ({})", noted.note),
                    None => Ok(()),
                }
            }
        }
    }
}
