//! Writing a part: slabs are lifted and sealed by several threads, and land in the file one behind the other.
//!
//! ```text
//!   next slab ─► lift ─► reserve a place ─► seal ─► in order: hash, write
//!      (each thread)         (lock)       (each thread)   (lock)
//! ```
//!
//! A part counts when it and its index were written, synced, and read back with what was meant to be written. Until then it is nothing:
//! a crash leaves files that are written anew, under another key.

use crate::key::{ShipmentKey, TAG};
use crate::manifest::{Part, runs_of};
use crate::part::{Entry, HEADER, Kind, MediumId, Once, file_name, part_key, seal_index};
use crate::{FileError, MAX_INDEX, MAX_PART};
use data_encoding::HEXLOWER;
use dedupe::carry::{Carried, Given, LiftError, Lifted, MAX_RECORD, Spot};
use dedupe::{Progress, SlabNumber, View};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that are given to the system to write out at once: the disk works while the next slabs are lifted.
const FLUSH_EVERY: u64 = 16 << 20;
/// Bytes of one read of what was written.
const READ: usize = 1 << 20;

/// Why a part was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The medium.
    #[error(transparent)]
    File(#[from] FileError),
    /// The local store.
    #[error("the local store: volume {volume}, {source}")]
    Lift {
        /// The volume, as the manifest numbers them.
        volume: u16,
        /// Which slab, and why.
        source: LiftError,
    },
    /// What was read back is something else.
    #[error("{0} reads back as something else than was written: the medium is defective; use another one")]
    ReadBack(PathBuf),
    /// Asked to stop.
    #[error("stopped")]
    Stopped,
}

/// What parts of one medium are written with.
pub struct Writer<'a> {
    /// The medium's folder.
    pub folder: &'a Path,
    /// The medium.
    pub medium: MediumId,
    /// The shipment's secret.
    pub key: &'a ShipmentKey,
    /// The generations that are carried, as the manifest numbers them.
    pub views: &'a [View],
    /// What the medium has been given.
    pub given: &'a Given,
    /// Threads.
    pub workers: usize,
    /// Bytes of volumes that were lifted, and whether to stop.
    pub progress: &'a Progress,
}

/// Slabs that are to be carried, and those that found no room in the part before.
#[derive(Default)]
pub struct Queue {
    next: VecDeque<(u16, SlabNumber)>,
    back: Vec<(u16, SlabNumber)>,
}

impl Queue {
    /// Of slabs by volume.
    pub fn new(slabs: impl IntoIterator<Item = (u16, SlabNumber)>) -> Queue {
        Queue { next: slabs.into_iter().collect(), back: Vec::new() }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.next.is_empty() && self.back.is_empty()
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.next.len() + self.back.len()
    }

    fn take(&mut self) -> Option<(u16, SlabNumber)> {
        self.back.pop().or_else(|| self.next.pop_front())
    }
}

/// A part in the making.
struct Making {
    file: File,
    hasher: blake3::Hasher,
    /// Bytes that have a place.
    reserved: u64,
    /// Bytes that are written; the next ones begin here.
    written: u64,
    flushed: u64,
    /// Bytes whose turn has not come: at most one slab for each thread.
    waiting: BTreeMap<u64, Vec<u8>>,
    entries: Vec<Entry>,
    index: usize,
    /// No room for a slab that came.
    full: bool,
    /// Taken from the queue and not in this part.
    back: Vec<(u16, SlabNumber)>,
    failed: Option<WriteError>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panics ends the export by itself.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer<'_> {
    /// Writes part `number` with slabs of the queue, at most `most` bytes, durably, and reads it back. What it did not take stays in the queue.
    ///
    /// # Errors
    /// After an error the part is not there, and the queue is as it was.
    pub fn part(&self, number: u32, most: u32, queue: &mut Queue) -> Result<Part, WriteError> {
        let path = self.folder.join(file_name(number, Kind::Part));
        let index = self.folder.join(file_name(number, Kind::Index));
        let mut taken = Vec::new();
        let written = self.write(number, most.min(MAX_PART), (&path, &index), queue, &mut taken);
        if written.is_err() {
            // The room is needed for what closes the medium. Where the medium is gone, so are they.
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_file(&index);
            taken.sort_unstable();
            queue.back.extend(taken.into_iter().rev());
            self.given.clear(); // the spots of this part are none
        }
        written
    }

    fn write(
        &self,
        number: u32,
        most: u32,
        (path, index_path): (&Path, &Path),
        queue: &mut Queue,
        taken: &mut Vec<(u16, SlabNumber)>,
    ) -> Result<Part, WriteError> {
        let mut once: Once = [0; 12];
        getrandom::fill(&mut once).expect("the operating system has a random source");
        let header = self.medium.header(Kind::Part, number, once);
        let mut file = create(path)?;
        file.write_all(&header).map_err(FileError::on("write", path))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        let (begin, waiting) = (HEADER as u64, BTreeMap::new());
        let making = Mutex::new(Making {
            file,
            hasher,
            reserved: begin,
            written: begin,
            flushed: begin,
            waiting,
            entries: Vec::new(),
            index: HEADER + TAG + 16,
            full: false,
            back: Vec::new(),
            failed: None,
        });
        let shared = Mutex::new((std::mem::take(queue), Vec::new()));
        let key = part_key(&self.medium, number, once, self.key);
        std::thread::scope(|scope| {
            for _ in 0..self.workers.max(1) {
                scope.spawn(|| self.work(number, most, path, (&key, &making), &shared));
            }
        });
        let making = making.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (rest, out) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        *queue = rest;
        queue.back.extend(&making.back);
        *taken = out;
        taken.retain(|slab| !making.back.contains(slab));
        if let Some(error) = making.failed {
            return Err(error);
        }
        if self.progress.is_cancelled() {
            return Err(WriteError::Stopped);
        }
        let Making { file, hasher, written, mut entries, .. } = making;
        entries.sort_unstable_by_key(|entry| (entry.volume, entry.slab));
        file.sync_all().map_err(FileError::on("sync", path))?;
        dedupe::crash_point("seed.part.written");
        let index = seal_index(&self.medium, number, once, self.key, &entries);
        let mut index_file = create(index_path)?;
        index_file.write_all(&index).map_err(FileError::on("write", index_path))?;
        index_file.sync_all().map_err(FileError::on("sync", index_path))?;
        sync_folder(self.folder)?;
        dedupe::crash_point("seed.index.written");
        let mut slabs: BTreeMap<u16, Vec<SlabNumber>> = BTreeMap::new();
        entries.iter().for_each(|entry| slabs.entry(entry.volume).or_default().push(entry.slab));
        let part = Part {
            number,
            bytes: written,
            blake3: HEXLOWER.encode(hasher.finalize().as_bytes()),
            index_bytes: index.len() as u64,
            index_blake3: HEXLOWER.encode(blake3::hash(&index).as_bytes()),
            slabs: slabs.into_iter().map(|(volume, slabs)| (volume, runs_of(slabs))).collect(),
        };
        for (path, hash) in [(path, &part.blake3), (index_path, &part.index_blake3)] {
            prove(path, hash, self.progress)?;
        }
        dedupe::crash_point("seed.part.read");
        Ok(part)
    }

    fn work(
        &self,
        number: u32,
        most: u32,
        path: &Path,
        (key, making): (&crate::key::FileKey, &Mutex<Making>),
        shared: &Mutex<(Queue, Vec<(u16, SlabNumber)>)>,
    ) {
        loop {
            if self.progress.is_cancelled() || lock(making).is_over() {
                return;
            }
            let next = {
                let mut shared = lock(shared);
                let next = shared.0.take();
                shared.1.extend(next);
                next
            };
            let Some((volume, slab)) = next else { return };
            if let Err(error) = self.carry(number, most, path, (volume, slab), (key, making)) {
                lock(making).failed.get_or_insert(error);
                return;
            }
        }
    }

    fn carry(
        &self,
        number: u32,
        most: u32,
        path: &Path,
        (volume, slab): (u16, SlabNumber),
        (key, making): (&crate::key::FileKey, &Mutex<Making>),
    ) -> Result<(), WriteError> {
        let view = &self.views[usize::from(volume)];
        let lifted = view.lift(slab, self.given).map_err(|source| WriteError::Lift { volume, source })?;
        let Some(lifted) = lifted else { return Ok(()) };
        let needs: u64 = lifted.fresh().map(|coded| (coded.len() + TAG) as u64).sum();
        let Some(at) = lock(making).reserve(needs, lifted.cost(), most) else {
            lock(making).back.push((volume, slab));
            return Ok(());
        };
        let (bytes, record) = seal(lifted, number, at, key, self.given);
        let (len, mut making) = (record.bytes(), lock(making));
        making.entries.push(Entry { volume, slab, record });
        if needs > 0 {
            making.waiting.insert(at, bytes);
            making.drain().map_err(FileError::on("write", path))?;
        }
        drop(making);
        self.progress.add(len);
        Ok(())
    }
}

/// The sealed chunks of a slab that begin at `at` of a part, and its record.
fn seal(lifted: Lifted, part: u32, at: u64, key: &crate::key::FileKey, given: &Given) -> (Vec<u8>, Carried) {
    let (mut bytes, mut spots) = (Vec::new(), Vec::new());
    for coded in lifted.fresh() {
        let start = bytes.len();
        let offset = at + start as u64;
        bytes.extend_from_slice(coded);
        key.seal(offset, &mut bytes, start);
        spots.push(Spot { part, offset: offset as u32 }); // parts stay far below 4 GiB
    }
    (bytes, lifted.record(spots, given))
}

impl Making {
    fn is_over(&self) -> bool {
        self.full || self.failed.is_some()
    }

    fn reserve(&mut self, needs: u64, cost: usize, most: u32) -> Option<u64> {
        let fits = self.reserved + needs <= u64::from(most) && self.index + cost + MAX_RECORD / 64 <= MAX_INDEX;
        if self.full || !fits {
            self.full = true;
            return None;
        }
        let at = self.reserved;
        self.reserved += needs;
        self.index += cost;
        Some(at)
    }

    fn drain(&mut self) -> std::io::Result<()> {
        while let Some(bytes) = self.waiting.remove(&self.written) {
            self.hasher.update(&bytes);
            self.file.write_all(&bytes)?;
            self.written += bytes.len() as u64;
        }
        if self.written - self.flushed >= FLUSH_EVERY {
            start_writing(&self.file, self.flushed, self.written - self.flushed);
            self.flushed = self.written;
        }
        Ok(())
    }
}

/// Lets the system begin to write out what it holds of a file. A hint: a sync follows.
fn start_writing(file: &File, from: u64, len: u64) {
    let (from, len) = (from as i64, len as i64);
    // On Linux this begins the writing of what is dirty, and drops what is clean.
    let _only_a_hint = posix_fadvise(file, from, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// Reads a file back: on the disk are bytes of this BLAKE3, 64 digits.
pub fn prove(path: &Path, hash: &str, progress: &Progress) -> Result<(), WriteError> {
    match read_back(path, progress)? == hash {
        true => Ok(()),
        false => Err(WriteError::ReadBack(path.to_owned())),
    }
}

/// BLAKE3 of a file as it is on the disk, 64 digits: what the system keeps of it in memory is dropped first.
fn read_back(path: &Path, progress: &Progress) -> Result<String, WriteError> {
    let mut file = File::open(path).map_err(FileError::on("read", path))?;
    let dropped = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    dropped.map_err(|errno| FileError::on("read back", path)(errno.into()))?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; READ]);
    loop {
        if progress.is_cancelled() {
            return Err(WriteError::Stopped);
        }
        match file.read(&mut buffer).map_err(FileError::on("read back", path))? {
            0 => return Ok(HEXLOWER.encode(hasher.finalize().as_bytes())),
            read => {
                hasher.update(&buffer[..read]);
            }
        }
    }
}

/// Writes a file of a medium whole, durably.
pub fn put(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let beside = path.with_extension("unfinished");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(FileError::on("write", path))?;
    sync_folder(path.parent().unwrap_or(path))
}

fn create(path: &Path) -> Result<File, FileError> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    opened.map_err(FileError::on("write", path))
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    match synced {
        // Some file systems of sticks cannot sync a folder; a sync of the file has to do.
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => Ok(()),
        synced => synced.map_err(FileError::on("sync", folder)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_back_as_something_else_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0001.part");
        put(&path, &[7; 3 << 20]).unwrap();
        let hash = HEXLOWER.encode(blake3::hash(&[7; 3 << 20]).as_bytes());
        prove(&path, &hash, &Progress::default()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[2_500_000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let refused = prove(&path, &hash, &Progress::default()).unwrap_err().to_string();
        assert!(refused.contains("0001.part reads back as something else"), "{refused}");
    }
}
