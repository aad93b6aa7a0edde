//! What the edge must not forget about sending and capturing: a few small records, one commit each.
//!
//! `spool.redb` in the state directory. Every commit is durable when it returns (redb's two-phase pages and an fsync). After an I/O error, a full disk
//! for one, redb wants the file closed and opened again; the next call does that, so the state ends by itself when there is room.

use crate::line::records::{EVIDENCE, LINE, QUOTAS};
use crate::seeding::SEEDS;
use crate::tracks::Tracks;
use dedupe::{BlockNumber, GenerationId, LineageId, Root, UnixMillis};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Bytes = &'static [u8];

/// By lineage: the generation on its way, [`Sending`].
pub(crate) const SENDING: TableDefinition<Bytes, Bytes> = TableDefinition::new("sending_1");
/// By generation and number (big endian): a parcel in the spool, [`crate::spool::Parcel`].
pub(crate) const PARCELS: TableDefinition<Bytes, Bytes> = TableDefinition::new("parcels_1");
/// By lineage: what the gateway has sealed, newest first, [`Acknowledged`].
const ACKNOWLEDGED: TableDefinition<Bytes, Bytes> = TableDefinition::new("acknowledged_1");
/// By generation: what could not be read when it was captured, as a list of byte ranges.
const UNREADABLE: TableDefinition<Bytes, Bytes> = TableDefinition::new("unreadable_1");

/// By lineage: what is remembered of the volume's change tracker, [`Tracks`].
const TRACKS: TableDefinition<Bytes, Bytes> = TableDefinition::new("tracks_1");

/// Cache of the database. Its few pages fit many times over.
const CACHE: usize = 1 << 20;
/// Sealed generations that are remembered, and kept locally, per lineage: should the gateway come back from a backup that lacks the newest, an older one
/// can still be the base.
pub(crate) const KEPT: usize = 3;

/// The generation of one lineage that is on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sending {
    /// What it builds on at the gateway.
    pub base: Option<(GenerationId, Root)>,
    /// The generation.
    pub target: GenerationId,
    /// Its root.
    pub root: Root,
    /// Where the next plan begins.
    pub cursor: BlockNumber,
    /// Number of the next parcel to be coded.
    pub next: u32,
    /// Parcels that the gateway has acknowledged: 0, 1, … `acknowledged - 1`.
    pub acknowledged: u32,
    /// How it is coded.
    pub mode: Mode,
    /// Generations that turned out to be missing at the gateway: not to be used as bases.
    pub without: Vec<GenerationId>,
    /// What it cost so far.
    pub cost: Cost,
}

/// How a generation is coded. Each next mode is tried when the gateway found the wrong root after the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// As small as can be.
    Coded,
    /// Changed leaves as they are, on the same base.
    Plain,
    /// Everything as it is, without a base.
    Whole,
}

/// What coding a generation cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Parcels coded.
    pub parcels: u64,
    /// Their bytes.
    pub coded_bytes: u64,
    /// The bytes of the volume that they stand for.
    pub raw_bytes: u64,
    /// CPU time of planning and coding, in microseconds.
    pub cpu_micros: u64,
}

/// A generation that the gateway has sealed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The generation.
    pub generation: GenerationId,
    /// Its root.
    pub root: Root,
    /// When the gateway's answer came.
    pub at: UnixMillis,
    /// What it cost.
    pub cost: Cost,
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file could not be opened.
    #[error("cannot open {path}: {source}; if another sluice-edge uses this state directory, stop it first")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<redb::Error>,
    },
    /// A commit or a look-up failed.
    #[error("cannot {what} {path}: {source}")]
    Access {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<redb::Error>,
    },
    /// A record does not parse.
    #[error(
        "a record in {path} is damaged; remove the file: what was on its way is then sent again from its beginning"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl JournalError {
    /// Whether the disk is full or over quota.
    pub fn is_no_room(&self) -> bool {
        match self {
            JournalError::Open { source, .. } | JournalError::Access { source, .. } => {
                matches!(&**source, redb::Error::Io(error) if crate::files::is_no_room(error))
            }
            JournalError::Damaged { .. } => false,
        }
    }
}

/// The open journal of one daemon.
pub struct Journal {
    path: PathBuf,
    /// `None` after an I/O error, until the next call opens it again.
    database: Mutex<Option<Database>>,
}

impl Journal {
    /// Opens the journal at `path`, making it if it is not there.
    pub fn open(path: &Path) -> Result<Journal, JournalError> {
        let journal = Journal { path: path.to_owned(), database: Mutex::new(None) };
        journal.commit(|write| {
            for table in [SENDING, PARCELS, ACKNOWLEDGED, UNREADABLE, TRACKS, SEEDS, QUOTAS, EVIDENCE, LINE] {
                write.open_table(table)?;
            }
            Ok(())
        })?;
        Ok(journal)
    }

    /// The generation of `lineage` that is on its way.
    pub fn sending(&self, lineage: LineageId) -> Result<Option<Sending>, JournalError> {
        self.read(SENDING, &lineage.0)
    }

    /// What the gateway has sealed of `lineage`, newest first, at most [`KEPT`].
    pub fn acknowledged(&self, lineage: LineageId) -> Result<Vec<Acknowledged>, JournalError> {
        Ok(self.read(ACKNOWLEDGED, &lineage.0)?.unwrap_or_default())
    }

    /// The gateway has sealed `acknowledged`: it was on its way and is no more.
    pub(crate) fn acknowledge(&self, lineage: LineageId, acknowledged: Acknowledged) -> Result<(), JournalError> {
        let mut kept = self.acknowledged(lineage)?;
        kept.retain(|earlier| earlier.generation != acknowledged.generation);
        kept.insert(0, acknowledged);
        kept.truncate(KEPT);
        self.commit(|write| {
            put(write, ACKNOWLEDGED, &lineage.0, &kept)?;
            write.open_table(SENDING)?.remove(lineage.0.as_slice())?;
            Ok(())
        })
    }

    /// Remembers what could not be read for `generation`, before it is sealed.
    pub fn set_unreadable(&self, generation: GenerationId, ranges: &[Range<u64>]) -> Result<(), JournalError> {
        self.commit(|write| put(write, UNREADABLE, &generation.0, &ranges))
    }

    /// Byte ranges that could not be read when `generation` was captured; they are zero in it.
    pub fn unreadable(&self, generation: GenerationId) -> Result<Vec<Range<u64>>, JournalError> {
        Ok(self.read(UNREADABLE, &generation.0)?.unwrap_or_default())
    }

    /// What is remembered of the change tracker of a lineage's volume.
    pub fn tracks(&self, lineage: LineageId) -> Result<Tracks, JournalError> {
        Ok(self.read(TRACKS, &lineage.0)?.unwrap_or_default())
    }

    /// Changes that in one commit, whoever else changes something of it.
    pub(crate) fn change_tracks(&self, lineage: LineageId, change: impl Fn(&mut Tracks)) -> Result<(), JournalError> {
        self.tracks(lineage)?; // refuses a damaged record, which the commit has no words for
        self.commit(|write| {
            let table = write.open_table(TRACKS)?;
            let known = table.get(lineage.0.as_slice())?.map(|value| value.value().to_vec());
            drop(table);
            let mut tracks = known.and_then(|known| postcard::from_bytes(&known).ok()).unwrap_or_default();
            change(&mut tracks);
            put(write, TRACKS, &lineage.0, &tracks)
        })
    }

    /// Forgets all about a lineage whose volume was removed.
    pub fn forget(&self, lineage: LineageId) -> Result<(), JournalError> {
        self.commit(|write| {
            for table in [SENDING, ACKNOWLEDGED, TRACKS] {
                write.open_table(table)?.remove(lineage.0.as_slice())?;
            }
            Ok(())
        })
    }

    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        table: TableDefinition<Bytes, Bytes>,
        key: &[u8],
    ) -> Result<Option<T>, JournalError> {
        let value = self.attempt("read", |database| {
            let read = database.begin_read()?;
            Ok(read.open_table(table)?.get(key)?.map(|value| value.value().to_vec()))
        })?;
        value.map(|value| self.parse(&value)).transpose()
    }

    /// All records of a table whose key begins with `prefix`, in the order of their keys.
    pub(crate) fn read_all<T: DeserializeOwned>(
        &self,
        table: TableDefinition<Bytes, Bytes>,
        prefix: &[u8],
    ) -> Result<Vec<T>, JournalError> {
        let values = self.attempt("read", |database| {
            let read = database.begin_read()?;
            let mut values = Vec::new();
            for entry in read.open_table(table)?.range(prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                values.push(value.value().to_vec());
            }
            Ok(values)
        })?;
        values.iter().map(|value| self.parse(value)).collect()
    }

    /// Records of a table from `key` on, at most `most`, in the order of their keys.
    pub(crate) fn read_from<T: DeserializeOwned>(
        &self,
        table: TableDefinition<Bytes, Bytes>,
        key: &[u8],
        most: usize,
    ) -> Result<Vec<T>, JournalError> {
        let values = self.attempt("read", |database| {
            let read = database.begin_read()?;
            let table = read.open_table(table)?;
            let rows = table.range(key..)?.take(most);
            rows.map(|row| Ok(row?.1.value().to_vec())).collect::<Result<Vec<_>, redb::Error>>()
        })?;
        values.iter().map(|value| self.parse(value)).collect()
    }

    /// Stores records under their keys, all or none.
    pub(crate) fn put_all<T: Serialize>(
        &self,
        table: TableDefinition<Bytes, Bytes>,
        rows: &[(Vec<u8>, T)],
    ) -> Result<(), JournalError> {
        self.commit(|write| rows.iter().try_for_each(|(key, record)| put(write, table, key, record)))
    }

    /// One durable commit of everything that `change` does.
    pub(crate) fn commit(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), JournalError> {
        self.attempt("write", |database| {
            let write = database.begin_write()?;
            change(&write)?;
            Ok(write.commit()?)
        })
    }

    fn attempt<T>(
        &self,
        what: &'static str,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, JournalError> {
        let mut guard = self.lock();
        let database = match guard.take() {
            Some(database) => database,
            None => Database::builder()
                .set_cache_size(CACHE)
                .create(&self.path)
                .map_err(|error| JournalError::Open { path: self.path.clone(), source: Box::new(error.into()) })?,
        };
        match act(&database) {
            Ok(done) => {
                *guard = Some(database);
                Ok(done)
            }
            // Dropped here: after an I/O error redb refuses everything until the file is opened anew.
            Err(error) => Err(JournalError::Access { what, path: self.path.clone(), source: Box::new(error) }),
        }
    }

    fn parse<T: DeserializeOwned>(&self, value: &[u8]) -> Result<T, JournalError> {
        postcard::from_bytes(value).map_err(|_| JournalError::Damaged { path: self.path.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        // A panic under the lock leaves `None`, which opens the file again.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one record inside a commit.
pub(crate) fn put<T: Serialize>(
    write: &WriteTransaction,
    table: TableDefinition<Bytes, Bytes>,
    key: &[u8],
    record: &T,
) -> Result<(), redb::Error> {
    let value = postcard::to_allocvec(record).expect("plain data without maps of unknown length serialises");
    write.open_table(table)?.insert(key, value.as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::RootScheme;

    fn root(byte: u8) -> Root {
        Root { scheme: RootScheme::Blake3, hash: [byte; 32] }
    }

    fn acknowledged(byte: u8) -> Acknowledged {
        Acknowledged {
            generation: GenerationId([byte; 16]),
            root: root(byte),
            at: UnixMillis(u64::from(byte)),
            cost: Cost::default(),
        }
    }

    #[test]
    fn what_was_committed_is_there_after_a_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool.redb");
        let lineage = LineageId::random();
        let journal = Journal::open(&path).unwrap();
        let generation = GenerationId::random();
        journal.set_unreadable(generation, &[512..1024, 2048..2560]).unwrap();
        for byte in 1..=5 {
            journal.acknowledge(lineage, acknowledged(byte)).unwrap();
        }
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.acknowledged(lineage).unwrap(), [5, 4, 3].map(acknowledged));
        assert_eq!(journal.unreadable(generation).unwrap(), [512..1024, 2048..2560]);
        assert_eq!(journal.unreadable(GenerationId::random()).unwrap(), []);
    }

    #[test]
    fn a_second_daemon_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool.redb");
        let _first = Journal::open(&path).unwrap();
        let refusal = Journal::open(&path).err().unwrap().to_string();
        assert!(refusal.contains("another sluice-edge uses this state directory"), "{refusal}");
    }
}
