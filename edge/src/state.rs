//! The state directory: everything durable of one edge, opened by one process at a time.
//!
//! ```text
//! lock             held while a process uses the directory
//! identity.key     private key          identity.json   certificate, authorities, addresses
//! store.key        32 random bytes      volumes.json    what is replicated
//! spool.redb       sending state        spool/          coded parcels
//! store/           index.redb, packs/   admin.sock      the running daemon's socket
//! shipments/       seeds by courier
//! ```

use crate::config::Config;
use crate::files;
use crate::freeze;
use crate::journal::{Journal, JournalError};
use crate::shipments::{ShipmentError, Shipments};
use crate::source::SourceConfig;
use crate::spool::{Spool, SpoolError};
use crate::volumes::{VolumeEntry, Volumes, VolumesError};
use dedupe::{Keys, Kind, Lineage, LocalPacks, StorageError, Store, StoreError, StoreOptions};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// Id of the one store key that an edge has; a second one comes with key rotation.
const KEY_ID: u32 = 1;

/// Why the state directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it.
    #[error(
        "the state directory {0} is in use by another sluice-edge; stop that one, or give another directory in the configuration"
    )]
    InUse(PathBuf),
    /// A file could not be made or read.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// `make`, `read` or `write`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The store's key has the wrong length.
    #[error("{0} is not 32 bytes long; restore it from a backup: without it the local store cannot be read")]
    BadKey(PathBuf),
    /// There are packs and no key.
    #[error(
        "{0} is missing, but the local store has packs that it encrypts; restore it from a backup, or remove the directory `store` to capture anew"
    )]
    LostKey(PathBuf),
    /// The packs cannot be reached.
    #[error("cannot open the local store: {0}")]
    Packs(#[from] StorageError),
    /// The store cannot be opened.
    #[error("cannot open the local store: {0}")]
    Store(#[from] StoreError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The spool cannot be opened.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The list of volumes cannot be read.
    #[error(transparent)]
    Volumes(#[from] VolumesError),
    /// A record of a seed cannot be read.
    #[error(transparent)]
    Shipments(#[from] ShipmentError),
}

/// The open state of one edge. Its calls block.
pub struct State {
    directory: PathBuf,
    /// Local store of generations.
    pub store: Arc<Store>,
    /// Sending state.
    pub journal: Arc<Journal>,
    /// Coded parcels.
    pub spool: Spool,
    volumes: Mutex<Volumes>,
    /// What sources need to know beside which one they are.
    pub sources: SourceConfig,
    /// Seeds by courier.
    pub shipments: Shipments,
    /// Unlocked by dropping it.
    _lock: File,
}

impl State {
    /// Opens the state directory of `config`, making it if it is not there.
    pub fn open(config: &Config) -> Result<State, StateError> {
        let directory = config.state.clone();
        make(&directory)?;
        let lock = lock(&directory)?;
        let (store, packs) = (directory.join("store"), directory.join("store/packs"));
        make(&packs)?;
        let key = store_key(&directory.join("store.key"), &packs)?;
        let budget = config.budget();
        let options = StoreOptions {
            index_cache: budget.index_cache,
            record_cache: budget.record_cache,
            pack_target: budget.pack,
            // Nothing is taken in here.
        };
        let packs = Arc::new(LocalPacks::open(&packs)?);
        let store = Store::open(&store.join("index.redb"), packs, Keys::new(KEY_ID, *key), options)?;
        let journal = Arc::new(Journal::open(&directory.join("spool.redb"))?);
        let spool = Spool::open(&directory.join("spool"), journal.clone(), config.spool)?;
        let volumes = Volumes::load(&directory.join("volumes.json"))?;
        let shipments = Shipments::open(&directory, journal.clone())?;
        let state = State {
            directory,
            store,
            journal,
            spool,
            volumes: Mutex::new(volumes),
            sources: config.sources.clone(),
            shipments,
            _lock: lock,
        };
        for entry in state.volumes().entries() {
            state.put_lineage(entry)?;
        }
        Ok(state)
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The list of volumes.
    pub fn volumes(&self) -> MutexGuard<'_, Volumes> {
        // The list is replaced whole, so a panic elsewhere leaves nothing half done.
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a volume. Its source is opened once, so that a wrong path is noticed now and not at night.
    pub fn add_volume(&self, entry: VolumeEntry) -> Result<(), AddError> {
        if let Some(script) = &entry.freeze {
            if !entry.source.holds_a_moment() {
                return Err(AddError::NoMoment(entry.source.to_string()));
            }
            freeze::check(script)?;
        }
        entry.source.open(&self.sources)?;
        self.volumes().add(entry.clone())?;
        Ok(self.put_lineage(&entry)?)
    }

    /// Removes a volume with what is spooled of it. Its captured generations stay in the local store.
    pub fn remove_volume(&self, name: &str) -> Result<VolumeEntry, StateError> {
        let removed = self.volumes().remove(name)?;
        self.spool.forget(removed.lineage)?;
        Ok(removed)
    }

    fn put_lineage(&self, entry: &VolumeEntry) -> Result<(), StoreError> {
        if self.store.lineage(entry.lineage)?.is_some_and(|known| known.name == entry.name) {
            return Ok(());
        }
        let name = entry.name.clone();
        self.store.put_lineage(&Lineage { id: entry.lineage, kind: Kind::Volume, name, site: None, fork_of: None })
    }
}

/// Why a volume could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Its source cannot be opened.
    #[error(transparent)]
    Source(#[from] crate::source::SourceError),
    /// It cannot be frozen as wished.
    #[error(transparent)]
    Freeze(#[from] freeze::FreezeError),
    /// It would be frozen for as long as it is read.
    #[error(
        "{0} cannot be held at one moment, so what uses it would be frozen for the whole capture; capture a snapshot of it, or a disk of a running machine (qemu:MONITOR?disk=NAME)"
    )]
    NoMoment(String),
    /// The list refuses it.
    #[error(transparent)]
    Volumes(#[from] VolumesError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn make(path: &Path) -> Result<(), StateError> {
    files::private_directory(path).map_err(|source| StateError::File { what: "make", path: path.to_owned(), source })
}

fn lock(directory: &Path) -> Result<File, StateError> {
    let path = directory.join("lock");
    let failed = |source| StateError::File { what: "make", path: path.clone(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StateError::InUse(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The store's key: read, or made at random when there is no store yet.
fn store_key(path: &Path, packs: &Path) -> Result<Zeroizing<[u8; 32]>, StateError> {
    let failed = |what| move |source| StateError::File { what, path: path.to_owned(), source };
    match std::fs::read(path).map(Zeroizing::new) {
        Ok(bytes) => {
            let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| StateError::BadKey(path.to_owned()))?;
            Ok(Zeroizing::new(key))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut present = std::fs::read_dir(packs).map_err(failed("read"))?;
            if present.next().is_some() {
                return Err(StateError::LostKey(path.to_owned()));
            }
            let mut key = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *key).expect("the operating system has a random source");
            files::write_whole(path, &[&*key]).map_err(failed("write"))?;
            Ok(key)
        }
        Err(error) => Err(failed("read")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::OnReadError;
    use crate::source::SourceSpec;
    use dedupe::LineageId;

    #[test]
    fn a_directory_is_used_by_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(dir.path().join("state"));
        let first = State::open(&config).unwrap();
        let refusal = State::open(&config).err().unwrap().to_string();
        assert!(refusal.contains("in use by another sluice-edge"), "{refusal}");
        drop(first);
        State::open(&config).unwrap();
    }

    #[test]
    fn the_store_key_is_made_once_and_missed_when_lost() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(dir.path());
        State::open(&config).unwrap();
        let path = dir.path().join("store.key");
        let key = std::fs::read(&path).unwrap();
        assert_eq!(key.len(), 32);
        let image = dir.path().join("disk.img");
        std::fs::write(&image, [1; 4096]).unwrap();
        let state = State::open(&config).unwrap();
        let entry = VolumeEntry {
            name: "disk".into(),
            lineage: LineageId::random(),
            source: SourceSpec::File(image.clone()),
            on_read_error: OnReadError::Stop,
            freeze: None,
        };
        state.add_volume(entry.clone()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), key);
        assert_eq!(state.store.lineage(entry.lineage).unwrap().unwrap().name, "disk");
        drop(state);
        std::fs::remove_file(&path).unwrap();
        let refusal = State::open(&config).err().unwrap().to_string();
        assert!(refusal.contains("store.key is missing") && refusal.contains("backup"), "{refusal}");
        std::fs::write(&path, [0; 31]).unwrap();
        assert!(matches!(State::open(&config), Err(StateError::BadKey(_))));
    }

    #[test]
    fn a_volume_whose_source_is_not_there_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&Config::new(dir.path())).unwrap();
        let entry = VolumeEntry {
            name: "disk".into(),
            lineage: LineageId::random(),
            source: SourceSpec::File("/nonexistent.img".into()),
            on_read_error: OnReadError::Stop,
            freeze: None,
        };
        assert!(matches!(state.add_volume(entry), Err(AddError::Source(_))));
        assert!(state.volumes().entries().is_empty());
    }
}
