//! The durable queue of coded parcels: what has been coded and is not acknowledged yet.
//!
//! A parcel is a file `spool/<generation>-<number>.parcel` and a record in the [journal](crate::journal). Its life, and why a crash at each step is harmless:
//!
//! 1. The file is written beside its place, synced, renamed, its directory synced. Crash before: no record names it, the next start removes it.
//! 2. One commit adds the parcel's record and moves the sending state behind it. Crash before: as above, and the parcel is coded again.
//! 3. It is sent. Crash: sent again from the offset that the gateway names.
//! 4. It is acknowledged: one commit removes the record and counts it. Crash before: the gateway says with its next answer that it is past this parcel.
//! 5. The file is deleted. Crash before: no record names it, the next start removes it.
//!
//! A file is verified against the hash in its record before it is sent; one that does not match is named, and it and what follows are coded again.

use crate::files;
use crate::journal::{Acknowledged, Cost, Journal, JournalError, PARCELS, SENDING, Sending, put};
use dedupe::{BlockNumber, ByteCount, GenerationId, LineageId, crash_point};
use redb::WriteTransaction;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// First bytes of every spool file, with the format's version at the end.
const MAGIC: [u8; 8] = *b"SLSPOOL\x01";
/// Bytes that are hashed at once: few system calls, little memory.
const VERIFIED_AT_ONCE: u64 = 1 << 20;
/// Magic, then the BLAKE3 of the parcel.
const HEADER: usize = MAGIC.len() + 32;

/// A parcel in the spool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parcel {
    /// The generation that it belongs to.
    pub generation: GenerationId,
    /// Its number there, from 0.
    pub number: u32,
    /// Its bytes.
    pub len: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// Where its plan began: coding begins there again if it is lost.
    pub begins: BlockNumber,
    /// Where the next plan begins.
    pub ends: BlockNumber,
}

/// Why the spool could not do something.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The limit of the configuration is reached. Ends when parcels are acknowledged.
    #[error(
        "the spool holds {used} of the {limit} bytes that `spool` in the configuration allows; it goes on when the gateway has acknowledged some"
    )]
    Full {
        /// Bytes in the spool.
        used: u64,
        /// The limit.
        limit: u64,
    },
    /// A file could not be written, read or deleted.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// `write`, `read`, …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{path} is damaged ({why}); the parcel is coded again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        why: &'static str,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl SpoolError {
    /// Whether it ends by itself when there is room.
    pub fn is_no_room(&self) -> bool {
        match self {
            SpoolError::Full { .. } => true,
            SpoolError::File { source, .. } => files::is_no_room(source),
            SpoolError::Damaged { .. } => false,
            SpoolError::Journal(error) => error.is_no_room(),
        }
    }
}

/// An open parcel that was verified when it was opened. What changes on disk afterwards is found by the gateway, which knows the hash.
#[derive(Debug)]
pub struct Spooled {
    file: fs::File,
    path: PathBuf,
    len: u64,
}

impl Spooled {
    /// Bytes from `at` on, at most `len`. Blocks.
    pub fn piece(&self, at: u64, len: u64) -> Result<Vec<u8>, SpoolError> {
        let mut bytes = vec![0; len.min(self.len.saturating_sub(at)) as usize];
        let read = self.file.read_exact_at(&mut bytes, HEADER as u64 + at);
        read.map_err(|source| SpoolError::File { what: "read", path: self.path.clone(), source })?;
        Ok(bytes)
    }

    /// Bytes of the parcel.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none: no parcel is so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The spool of one daemon. Its calls block.
pub struct Spool {
    directory: PathBuf,
    journal: std::sync::Arc<Journal>,
    limit: ByteCount,
    used: AtomicU64,
}

impl Spool {
    /// Opens the spool in `directory`, making it if it is not there, and removes what a crash left over.
    pub fn open(directory: &Path, journal: std::sync::Arc<Journal>, limit: ByteCount) -> Result<Spool, SpoolError> {
        let spool = Spool { directory: directory.to_owned(), journal, limit, used: AtomicU64::new(0) };
        files::private_directory(directory).map_err(|source| spool.failed("make", directory, source))?;
        let parcels: Vec<Parcel> = spool.journal.read_all(PARCELS, &[])?;
        let named: HashSet<OsString> = parcels.iter().map(|p| name(p.generation, p.number).into()).collect();
        let entries = fs::read_dir(directory).map_err(|source| spool.failed("list", directory, source))?;
        for entry in entries.filter_map(Result::ok).filter(|entry| !named.contains(&entry.file_name())) {
            fs::remove_file(entry.path()).map_err(|source| spool.failed("delete", &entry.path(), source))?;
        }
        spool.used.store(parcels.iter().map(|parcel| parcel.len).sum(), Ordering::Relaxed);
        Ok(spool)
    }

    /// Bytes that wait.
    pub fn used(&self) -> ByteCount {
        ByteCount(self.used.load(Ordering::Relaxed))
    }

    /// Bytes that it may take.
    pub fn limit(&self) -> ByteCount {
        self.limit
    }

    /// The generation of `lineage` that is on its way.
    pub fn sending(&self, lineage: LineageId) -> Result<Option<Sending>, SpoolError> {
        Ok(self.journal.sending(lineage)?)
    }

    /// A generation is to be sent from its beginning. What was on its way of this lineage is given up.
    pub fn begin(&self, lineage: LineageId, sending: &Sending) -> Result<(), SpoolError> {
        let dropped = self.queue_of(lineage, 0)?;
        self.journal.commit(|write| {
            remove(write, &dropped)?;
            put(write, SENDING, &lineage.0, sending)
        })?;
        self.delete(&dropped);
        Ok(())
    }

    /// Adds the next parcel, durably. `sending` is moved behind it.
    pub fn push(
        &self,
        lineage: LineageId,
        sending: &mut Sending,
        bytes: &[u8],
        ends: BlockNumber,
        cost: Cost,
    ) -> Result<Parcel, SpoolError> {
        let (used, len) = (self.used().0, bytes.len() as u64);
        // The first parcel of a generation that waits for nothing is let through: a limit below one parcel would never end.
        if used > 0 && used + len > self.limit.0 {
            return Err(SpoolError::Full { used, limit: self.limit.0 });
        }
        let hash = *blake3::hash(bytes).as_bytes();
        let parcel =
            Parcel { generation: sending.target, number: sending.next, len, hash, begins: sending.cursor, ends };
        let path = self.path(&parcel);
        files::write_whole(&path, &[&MAGIC, &hash, bytes]).map_err(|source| self.failed("write", &path, source))?;
        crash_point("edge.spool.written");
        let mut after = sending.clone();
        after.next += 1;
        after.cursor = ends;
        after.cost = cost;
        let committed = self.journal.commit(|write| {
            put(write, PARCELS, &key(&parcel), &parcel)?;
            put(write, SENDING, &lineage.0, &after)
        });
        if let Err(error) = committed {
            let _ = fs::remove_file(&path);
            return Err(error.into());
        }
        crash_point("edge.spool.committed");
        self.used.fetch_add(len, Ordering::Relaxed);
        *sending = after;
        Ok(parcel)
    }

    /// The record of a parcel.
    pub fn parcel(&self, generation: GenerationId, number: u32) -> Result<Option<Parcel>, SpoolError> {
        Ok(self.journal.read(PARCELS, &key_of(generation, number))?)
    }

    /// A parcel, verified, to be read in pieces: several are under way at once, and memory has no room for all of them.
    pub fn open_parcel(&self, parcel: &Parcel) -> Result<Spooled, SpoolError> {
        let path = self.path(parcel);
        let damaged = |why| SpoolError::Damaged { path: path.clone(), why };
        let failed = |source| self.failed("read", &path, source);
        let file = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("it is gone")),
            opened => opened.map_err(failed)?,
        };
        if file.metadata().map_err(failed)?.len() != parcel.len + HEADER as u64 {
            return Err(damaged("its length is wrong"));
        }
        let spooled = Spooled { file, path: path.clone(), len: parcel.len };
        let mut header = [0; HEADER];
        spooled.file.read_exact_at(&mut header, 0).map_err(failed)?;
        if header[..MAGIC.len()] != MAGIC || header[MAGIC.len()..] != parcel.hash {
            return Err(damaged("its header is wrong"));
        }
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        while at < parcel.len {
            let piece = spooled.piece(at, VERIFIED_AT_ONCE)?;
            hasher.update(&piece);
            at += piece.len() as u64;
        }
        if *hasher.finalize().as_bytes() != parcel.hash {
            return Err(damaged("its bytes do not hash to what was written"));
        }
        Ok(spooled)
    }

    /// The gateway holds all parcels below `until`: they are forgotten, first in the journal, then on disk.
    pub fn acknowledge(&self, lineage: LineageId, sending: &mut Sending, until: u32) -> Result<(), SpoolError> {
        let gone: Vec<Parcel> = self.queue_of(lineage, 0)?.into_iter().filter(|parcel| parcel.number < until).collect();
        let mut after = sending.clone();
        after.acknowledged = until;
        crash_point("edge.ack.before-commit");
        self.journal.commit(|write| {
            remove(write, &gone)?;
            put(write, SENDING, &lineage.0, &after)
        })?;
        *sending = after;
        self.delete(&gone);
        Ok(())
    }

    /// Parcels from number `from` on are given up; coding begins again where the first of them began. `without` are bases that are not to be used any more.
    pub fn truncate(&self, lineage: LineageId, sending: &mut Sending, from: u32) -> Result<(), SpoolError> {
        let dropped = self.queue_of(lineage, from)?;
        let mut after = sending.clone();
        if let Some(first) = dropped.first() {
            after.next = first.number;
            after.cursor = first.begins;
        }
        self.journal.commit(|write| {
            remove(write, &dropped)?;
            put(write, SENDING, &lineage.0, &after)
        })?;
        *sending = after;
        self.delete(&dropped);
        Ok(())
    }

    /// The gateway has sealed the generation that was on its way.
    pub fn finish(&self, lineage: LineageId, acknowledged: Acknowledged) -> Result<(), SpoolError> {
        let left = self.queue_of(lineage, 0)?;
        self.journal.commit(|write| remove(write, &left))?;
        self.journal.acknowledge(lineage, acknowledged)?;
        self.delete(&left);
        Ok(())
    }

    /// The generation that was on its way goes no further, whether the gateway has all of it or it is not to have it.
    pub fn give_up(&self, lineage: LineageId) -> Result<(), SpoolError> {
        let left = self.queue_of(lineage, 0)?;
        self.journal.commit(|write| {
            remove(write, &left)?;
            write.open_table(SENDING)?.remove(lineage.0.as_slice())?;
            Ok(())
        })?;
        self.delete(&left);
        Ok(())
    }

    /// The volume is gone: nothing of it is sent any more.
    pub fn forget(&self, lineage: LineageId) -> Result<(), SpoolError> {
        let left = self.queue_of(lineage, 0)?;
        self.journal.commit(|write| remove(write, &left))?;
        self.journal.forget(lineage)?;
        self.delete(&left);
        Ok(())
    }

    /// Parcels of the generation of `lineage` that is on its way, from number `from` on.
    fn queue_of(&self, lineage: LineageId, from: u32) -> Result<Vec<Parcel>, SpoolError> {
        let Some(sending) = self.journal.sending(lineage)? else { return Ok(Vec::new()) };
        let mut parcels: Vec<Parcel> = self.journal.read_all(PARCELS, &sending.target.0)?;
        parcels.retain(|parcel| parcel.number >= from);
        Ok(parcels)
    }

    fn delete(&self, parcels: &[Parcel]) {
        for parcel in parcels {
            // A file that stays takes room until the next start removes it; nothing else depends on it.
            if let Err(error) = fs::remove_file(self.path(parcel)) {
                tracing::warn!(%error, path = %self.path(parcel).display(), "cannot delete a spool file");
            }
            self.used.fetch_sub(parcel.len, Ordering::Relaxed);
        }
    }

    fn path(&self, parcel: &Parcel) -> PathBuf {
        self.directory.join(name(parcel.generation, parcel.number))
    }

    fn failed(&self, what: &'static str, path: &Path, source: io::Error) -> SpoolError {
        SpoolError::File { what, path: path.to_owned(), source }
    }
}

fn name(generation: GenerationId, number: u32) -> String {
    format!("{generation}-{number}.parcel")
}

fn key(parcel: &Parcel) -> [u8; 20] {
    key_of(parcel.generation, parcel.number)
}

fn key_of(generation: GenerationId, number: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&generation.0);
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

fn remove(write: &WriteTransaction, parcels: &[Parcel]) -> Result<(), redb::Error> {
    let mut table = write.open_table(PARCELS)?;
    for parcel in parcels {
        table.remove(key(parcel).as_slice())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spool: &Spool, parcel: &Parcel) -> Result<Vec<u8>, SpoolError> {
        let spooled = spool.open_parcel(parcel)?;
        spooled.piece(0, spooled.len())
    }
    use crate::journal::Mode;
    use dedupe::{Root, RootScheme, UnixMillis};
    use std::sync::Arc;

    struct Place {
        dir: tempfile::TempDir,
        lineage: LineageId,
    }

    impl Place {
        fn new() -> Place {
            Place { dir: tempfile::tempdir().unwrap(), lineage: LineageId([1; 16]) }
        }

        fn open(&self) -> Spool {
            let journal = Arc::new(Journal::open(&self.dir.path().join("spool.redb")).unwrap());
            Spool::open(&self.dir.path().join("spool"), journal, ByteCount(3000)).unwrap()
        }

        fn files(&self) -> usize {
            fs::read_dir(self.dir.path().join("spool")).unwrap().count()
        }
    }

    fn begin(spool: &Spool, lineage: LineageId) -> Sending {
        let sending = Sending {
            base: None,
            target: GenerationId::random(),
            root: Root { scheme: RootScheme::Blake3, hash: [7; 32] },
            cursor: BlockNumber(0),
            next: 0,
            acknowledged: 0,
            mode: Mode::Coded,
            without: vec![],
            cost: Cost::default(),
        };
        spool.begin(lineage, &sending).unwrap();
        sending
    }

    fn push(spool: &Spool, lineage: LineageId, sending: &mut Sending, byte: u8) -> Parcel {
        let ends = BlockNumber(sending.cursor.0 + 10);
        spool.push(lineage, sending, &[byte; 1000], ends, Cost::default()).unwrap()
    }

    #[test]
    fn a_parcel_survives_a_restart_and_goes_when_acknowledged() {
        let place = Place::new();
        let spool = place.open();
        let mut sending = begin(&spool, place.lineage);
        let parcels = [1, 2].map(|byte| push(&spool, place.lineage, &mut sending, byte));
        drop(spool);
        let spool = place.open();
        assert_eq!(spool.used(), ByteCount(2000));
        assert_eq!(spool.sending(place.lineage).unwrap(), Some(sending.clone()));
        assert_eq!((sending.next, sending.cursor), (2, BlockNumber(20)));
        assert_eq!(read(&spool, &parcels[1]).unwrap(), [2; 1000]);
        spool.acknowledge(place.lineage, &mut sending, 1).unwrap();
        assert_eq!((spool.used(), place.files()), (ByteCount(1000), 1));
        assert_eq!(spool.parcel(sending.target, 0).unwrap(), None);
        drop(spool);
        let spool = place.open();
        assert_eq!(spool.sending(place.lineage).unwrap().unwrap().acknowledged, 1);
        let root = sending.root;
        let done = Acknowledged { generation: sending.target, root, at: UnixMillis(1), cost: Cost::default() };
        spool.finish(place.lineage, done).unwrap();
        assert_eq!((spool.used(), place.files()), (ByteCount(0), 0));
        assert_eq!(spool.sending(place.lineage).unwrap(), None);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let place = Place::new();
        let spool = place.open();
        let mut sending = begin(&spool, place.lineage);
        let parcel = push(&spool, place.lineage, &mut sending, 5);
        let path = spool.path(&parcel);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, flipped).unwrap();
            assert!(matches!(read(&spool, &parcel), Err(SpoolError::Damaged { .. })), "byte {at}");
        }
        for cut in [0, 7, HEADER, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(matches!(read(&spool, &parcel), Err(SpoolError::Damaged { .. })), "cut at {cut}");
        }
        fs::write(&path, &whole).unwrap();
        read(&spool, &parcel).unwrap();
        fs::remove_file(&path).unwrap();
        let gone = read(&spool, &parcel).unwrap_err().to_string();
        assert!(gone.contains(".parcel is damaged (it is gone); the parcel is coded again"), "{gone}");
    }

    #[test]
    fn a_damaged_parcel_takes_what_follows_with_it() {
        let place = Place::new();
        let spool = place.open();
        let mut sending = begin(&spool, place.lineage);
        for byte in [1, 2, 3] {
            push(&spool, place.lineage, &mut sending, byte);
        }
        spool.acknowledge(place.lineage, &mut sending, 1).unwrap();
        spool.truncate(place.lineage, &mut sending, 1).unwrap();
        assert_eq!((sending.next, sending.acknowledged, sending.cursor), (1, 1, BlockNumber(10)));
        assert_eq!((spool.used(), place.files()), (ByteCount(0), 0));
        assert_eq!(spool.sending(place.lineage).unwrap(), Some(sending));
    }

    #[test]
    fn the_limit_is_a_state_that_ends() {
        let place = Place::new();
        let spool = place.open();
        let mut sending = begin(&spool, place.lineage);
        for byte in [1, 2, 3] {
            push(&spool, place.lineage, &mut sending, byte);
        }
        let full = spool.push(place.lineage, &mut sending, &[4; 1000], BlockNumber(99), Cost::default());
        let full = full.unwrap_err();
        assert!(full.is_no_room() && full.to_string().contains("3000 of the 3000 bytes"), "{full}");
        assert_eq!(sending.next, 3, "nothing has happened");
        spool.acknowledge(place.lineage, &mut sending, 1).unwrap();
        push(&spool, place.lineage, &mut sending, 4);
    }

    #[test]
    fn what_a_crash_left_over_is_removed() {
        let place = Place::new();
        let spool = place.open();
        let mut sending = begin(&spool, place.lineage);
        push(&spool, place.lineage, &mut sending, 1);
        let directory = place.dir.path().join("spool");
        // Written and not committed; committed as acknowledged and not deleted; cut while it was written.
        for stray in [name(sending.target, 1), name(GenerationId::random(), 0), "x.parcel.unfinished".into()] {
            fs::write(directory.join(stray), b"left").unwrap();
        }
        drop(spool);
        let spool = place.open();
        assert_eq!((spool.used(), place.files()), (ByteCount(1000), 1));
    }

    #[test]
    fn beginning_anew_drops_the_old_queue() {
        let place = Place::new();
        let spool = place.open();
        let mut sending = begin(&spool, place.lineage);
        push(&spool, place.lineage, &mut sending, 1);
        let next = begin(&spool, place.lineage);
        assert_eq!((spool.used(), place.files()), (ByteCount(0), 0));
        assert_eq!(spool.sending(place.lineage).unwrap(), Some(next));
    }
}
