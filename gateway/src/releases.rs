//! Releases of the appliance's system: imported once, kept in a store of their own, coded against what sites run, and rolled out in rings.
//!
//! ```text
//!   store     bundle ──► signature, limits, root hash ──► a generation and a row, or nothing
//!   parts     (base, release) ──► the parts of a delta, made once, kept as files
//!   serve     parts ──► a site that has an order for them, when nothing else is to be sent
//!   engine    what sites say, the time ──► who is to run what, when it stops; pure
//!   rollouts  the engine's shell: rows, audit log, what edges are told
//!   history   what became of other versions at a site; pure
//!
//!   state/releases/
//!     key, index.redb, packs/          the store, as a tenant's
//!     upload/                          bundles that are being sent; emptied at each start
//!     parts/<base or none>-<release>/  0, 1, …, and `index`, which is written last: without it the folder counts as nothing
//! ```
//!
//! The gateway believes no more than an edge does, and passes manifests on as they were signed: what a site runs is decided by the keys in its own system.

pub mod engine;
pub mod history;
pub(crate) mod parts;
pub(crate) mod rollouts;
pub(crate) mod serve;
pub(crate) mod store;

use crate::admin::Fault;
use crate::catalogue::CatalogueError;
use crate::files::FileError;
use crate::state::StateError;
use dedupe::{SiteId, Store, StoreError};
use release::bundle::BundleError;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore};
use wire::release::{ReleaseError, ReleaseId};
use wire::statement::KeyId;

/// The keys of the maker whose software this is: a line each, 64 hexadecimal digits. Read when the configuration names none.
pub const KEYS_FILE: &str = "/usr/lib/sluice/release-keys";

/// Why a release is not imported, removed or rolled out.
#[derive(Debug, thiserror::Error)]
pub enum ReleasesError {
    /// The bundle is none, damaged, or signed by nobody who is trusted.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A manifest is not usable.
    #[error(transparent)]
    Manifest(#[from] ReleaseError),
    /// Nobody is trusted.
    #[error(
        "no key for releases is trusted here: write `keys = [\"…\"]` under `[releases]` in the gateway's configuration, 64 hexadecimal digits as the maker of the release says them"
    )]
    NoKeys,
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The state failed.
    #[error(transparent)]
    State(Box<StateError>),
    /// The store of releases failed.
    #[error("the store of releases: {0}")]
    Store(#[from] StoreError),
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// It is here.
    #[error("release {version} is here already, imported {when} by {by}")]
    Exists {
        /// Its version.
        version: String,
        /// When.
        when: String,
        /// By whom.
        by: String,
    },
    /// Another one has its sequence.
    #[error(
        "release {new} has the sequence {sequence}, as release {old} has: sites could not tell which is newer. Have it made with a greater one, or remove {old}"
    )]
    SameSequence {
        /// The new one.
        new: String,
        /// The one that is here.
        old: String,
        /// The sequence.
        sequence: u64,
    },
    /// No room.
    #[error("the disk of {0} has no room for an image of {1}: make room, then import it again")]
    NoRoom(PathBuf, String),
    /// Another import is under way.
    #[error("another release is being imported or removed: wait until that is over")]
    Busy,
    /// It was stopped.
    #[error("the import was stopped; nothing of the release is kept")]
    Cancelled,
    /// No such release.
    #[error("there is no release `{0}`; `sluice-gateway release list` lists those that there are")]
    None(String),
    /// Several have that name.
    #[error("several releases begin with `{0}`: write more of the root hash")]
    Ambiguous(String),
    /// A roll-out uses it.
    #[error(
        "release {version} is rolled out by roll-out {rollout}: cancel that first, `sluice-gateway rollout cancel`"
    )]
    RolledOut {
        /// Its version.
        version: String,
        /// The roll-out's number.
        rollout: u64,
    },
    /// Sites run it.
    #[error(
        "release {version} is what {sites} run: upgrades of these sites are coded against it. Remove it when they run another one"
    )]
    Runs {
        /// Its version.
        version: String,
        /// Names of sites, some of them.
        sites: String,
    },
    /// It is for gateways.
    #[error("release {0} is made for gateways: only those for edges are rolled out to sites")]
    NotForEdges(String),
    /// Another roll-out is not over.
    #[error(
        "roll-out {number} is {state}: one at a time. Let it end, or cancel it: `sluice-gateway rollout cancel --reason WHY`"
    )]
    NotOver {
        /// Its number.
        number: u64,
        /// How it stands.
        state: &'static str,
    },
    /// No such roll-out.
    #[error("there is no roll-out {0}; `sluice-gateway rollout list` lists those that there are")]
    NoRollout(u64),
    /// An earlier roll-out.
    #[error(
        "roll-out {0} is not the last one and gives no orders any more; `sluice-gateway rollout list` says how they stand"
    )]
    NotLast(u64),
    /// No roll-out at all, or the last is over.
    #[error("no roll-out is {0}; `sluice-gateway rollout list` says how they stand")]
    NoneIs(&'static str),
    /// A site is no appliance.
    #[error(
        "site `{0}` never said which system it runs: it is no appliance, has not connected yet, or its software is older than this"
    )]
    NoAppliance(String),
    /// A site cannot be in the first rings.
    #[error("site `{site}` runs {version} already, which is as new or newer: name one that has something to gain")]
    Newer {
        /// The site.
        site: String,
        /// What it runs.
        version: String,
    },
    /// Rings that cannot be.
    #[error("{0}")]
    Rings(String),
    /// No such part.
    #[error("the delta has {parts} parts, and there is no part {number}")]
    NoPart {
        /// How many it has.
        parts: usize,
        /// Which was asked for.
        number: u32,
    },
    /// A delta cannot be coded.
    #[error(
        "the delta between two releases cannot be made: {0}; if an image is damaged, remove its release and import it again"
    )]
    Delta(#[source] dedupe::image::ImageError),
    /// No reason.
    #[error("say why, for whoever asks later: --reason \"…\"")]
    NoReason,
}

impl From<StateError> for ReleasesError {
    fn from(error: StateError) -> Self {
        ReleasesError::State(Box::new(error))
    }
}

impl ReleasesError {
    /// Of what kind it is.
    pub fn fault(&self) -> Fault {
        use ReleasesError as E;
        match self {
            E::None(_) | E::NoRollout(_) | E::NoPart { .. } => Fault::Missing,
            E::Bundle(BundleError::Write(_)) => Fault::Failed,
            E::Bundle(_) | E::Manifest(_) | E::Rings(_) | E::NoReason => Fault::Invalid,
            E::NoKeys
            | E::Exists { .. }
            | E::SameSequence { .. }
            | E::NoRoom(..)
            | E::Busy
            | E::Cancelled
            | E::Ambiguous(_)
            | E::RolledOut { .. }
            | E::Runs { .. }
            | E::NotForEdges(_)
            | E::NotOver { .. }
            | E::NoneIs(_)
            | E::NotLast(_)
            | E::NoAppliance(_)
            | E::Newer { .. } => Fault::Conflict,
            E::File(_) | E::State(_) | E::Store(_) | E::Catalogue(_) | E::Delta(_) => Fault::Failed,
        }
    }
}

/// What the gateway holds of releases, beside their rows.
#[derive(Debug)]
pub(crate) struct Releases {
    folder: PathBuf,
    /// Keys of the configuration; empty: those of [`KEYS_FILE`].
    keys: Vec<KeyId>,
    store: Mutex<Option<Opened>>,
    /// Held by an import or a removal.
    changing: Mutex<()>,
    /// Held while a roll-out is read and written: what sites say comes from many sessions.
    turn: Mutex<()>,
    /// The number of the order that each connected site was told last; `None`: that there is none.
    told: Mutex<HashMap<SiteId, Option<u64>>>,
    /// Deltas that somebody asked for.
    pub(crate) wanted: parts::Wanted,
    /// Bounds the parts that are being sent.
    pub(crate) sending: Arc<Semaphore>,
    /// Held while a bundle is being sent: they are large.
    pub(crate) receiving: Arc<Semaphore>,
    /// Somebody asked for a delta that is not there.
    pub(crate) work: Notify,
}

struct Opened(Arc<Store>);

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opened")
    }
}

impl Releases {
    /// Nothing is opened or made before it is needed.
    pub(crate) fn new(state: &Path, keys: Vec<KeyId>) -> Releases {
        Releases {
            folder: state.join("releases"),
            keys,
            store: Mutex::default(),
            changing: Mutex::default(),
            turn: Mutex::default(),
            told: Mutex::default(),
            wanted: parts::Wanted::default(),
            receiving: Arc::new(Semaphore::new(1)),
            sending: Arc::new(Semaphore::new(serve::AT_ONCE)),
            work: Notify::new(),
        }
    }

    /// Where bundles are put while they are sent.
    pub(crate) fn uploads(&self) -> PathBuf {
        self.folder.join("upload")
    }

    /// The folder of a delta's parts.
    fn pair(&self, base: Option<ReleaseId>, release: ReleaseId) -> PathBuf {
        self.parts().join(format!("{}-{}", base.map_or("none".into(), |base| base.hex()), release.hex()))
    }

    fn parts(&self) -> PathBuf {
        self.folder.join("parts")
    }

    /// The keys that a manifest has to be signed by.
    fn trusted(&self) -> Result<Vec<KeyId>, ReleasesError> {
        if !self.keys.is_empty() {
            return Ok(self.keys.clone());
        }
        let text = std::fs::read_to_string(KEYS_FILE).unwrap_or_default();
        let keys: Vec<KeyId> = text.lines().filter_map(|line| KeyId::read(line.trim()).ok()).collect();
        if keys.is_empty() { Err(ReleasesError::NoKeys) } else { Ok(keys) }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // What it guards is on disk and whole whoever panicked.
        self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
