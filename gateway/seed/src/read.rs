//! Reading a medium into drafts, at disk speed: several threads take slabs of the part that is read, each reads the run of its chunks, opens, proves and stores it.
//!
//! What is damaged is named with what it held, and everything else is taken in.

use crate::key::{FileKey, OpeningKey, ShipmentKey, TAG};
use crate::manifest::{Manifest, Part, Run, runs_of};
use crate::part::{Entry, HEADER, Kind, MediumId, Once, file_name, open_index, part_key};
use crate::{FileError, MAX_INDEX};
use dedupe::carry::{CarriedChunk, TakeError};
use dedupe::{Draft, Progress, SlabNumber, StoreError};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of coded chunks that are read into a draft between two commits: what a crash makes to be read again.
const COMMIT_EVERY: u64 = 512 << 20;

/// Why the import of a medium ended.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The gateway's key, or the one in the manifest, is none.
    #[error("it is sealed for another gateway: its key is {theirs}, and this gateway has {ours}")]
    OtherKey {
        /// In the manifest.
        theirs: String,
        /// Of the gateway.
        ours: String,
    },
    /// The store.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// Asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Something on a medium that was not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The medium's number.
    pub medium: u32,
    /// The part's number.
    pub part: u32,
    /// What was found.
    pub what: String,
    /// What it held and is not in yet, by volume.
    pub lost: BTreeMap<u16, Vec<Run>>,
}

/// What a medium brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// Slabs that were taken in now.
    pub slabs: u64,
    /// Slabs that were in already.
    pub known: u64,
    /// Bytes that were read from the medium.
    pub bytes: u64,
    /// What was damaged.
    pub damages: Vec<Damage>,
}

/// A medium whose manifest was verified, opened.
pub struct Medium {
    folder: PathBuf,
    manifest: Manifest,
    id: MediumId,
    key: ShipmentKey,
    parts: Mutex<HashMap<u32, Option<Arc<OpenPart>>>>,
}

/// A part that is open for reading.
struct OpenPart {
    file: File,
    path: PathBuf,
    key: FileKey,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it holds is true whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Medium {
    /// Opens a medium in `folder` with the gateway's key.
    pub fn open(folder: &Path, manifest: Manifest, key: &OpeningKey) -> Result<Medium, ReadError> {
        let ours = key.sealing().id();
        let other = || ReadError::OtherKey { theirs: manifest.key.chars().take(16).collect(), ours: ours.clone() };
        if manifest.key != ours {
            return Err(other());
        }
        let encapped = manifest.encapped().ok_or_else(other)?;
        let secret = key.shipment(&manifest.shipment(), &encapped).map_err(|_| other())?;
        let id = manifest.medium.id().ok_or_else(other)?;
        Ok(Medium { folder: folder.to_owned(), manifest, id, key: secret, parts: Mutex::default() })
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Takes everything that is not in yet into the drafts, which the manifest's volumes have by their places; a volume without one is left out.
    /// Durable when it returns, also as far as it came when it ends with an error.
    pub fn import(
        &self,
        drafts: &[Option<Arc<Draft>>],
        workers: usize,
        progress: &Progress,
    ) -> Result<Brought, ReadError> {
        let (mut brought, mut since) = (Brought::default(), 0);
        let taken = self.manifest.parts.iter().try_for_each(|part| {
            if progress.is_cancelled() {
                return Err(ReadError::Stopped);
            }
            let before = brought.bytes;
            self.part(part, drafts, workers, progress, &mut brought)?;
            since += brought.bytes - before;
            if since >= COMMIT_EVERY {
                since = 0;
                commit(drafts)?;
                dedupe::crash_point("seed.import.committed");
            }
            Ok(())
        });
        commit(drafts)?;
        taken.map(|()| brought)
    }

    fn part(
        &self,
        part: &Part,
        drafts: &[Option<Arc<Draft>>],
        workers: usize,
        progress: &Progress,
        brought: &mut Brought,
    ) -> Result<(), ReadError> {
        let number = part.number;
        let mut wanted: Vec<(u16, SlabNumber)> = Vec::new();
        for (volume, runs) in &part.slabs {
            let Some(Some(draft)) = drafts.get(usize::from(*volume)) else { continue };
            for slab in crate::manifest::slabs_of(runs) {
                match draft.has_slab(slab)? {
                    true => brought.known += 1,
                    false => wanted.push((*volume, slab)),
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let opened = self.index(part).and_then(|(once, entries)| {
            let opened = self.open_part(number, once)?;
            Ok((opened, entries))
        });
        let (opened, entries) = match opened {
            Ok(opened) => opened,
            Err(what) => {
                brought.damages.push(self.damage(number, what, &wanted));
                return Ok(());
            }
        };
        let entries: Vec<Entry> = entries.into_iter().filter(|e| wanted.contains(&(e.volume, e.slab))).collect();
        let next = AtomicUsize::new(0);
        let all: Mutex<Tally> = Mutex::default();
        let work = || {
            while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                if progress.is_cancelled() || lock(&all).failed.is_some() {
                    return;
                }
                let Some(Some(draft)) = drafts.get(usize::from(entry.volume)) else { continue };
                let taken = self.slab(number, &opened, entry, draft);
                let mut all = lock(&all);
                match taken {
                    Ok(bytes) => {
                        all.bytes += bytes;
                        all.taken.push((entry.volume, entry.slab));
                        progress.add(entry.record.bytes());
                        progress.stored.fetch_add(bytes, Ordering::Relaxed);
                    }
                    Err(SlabError::Damaged(what)) => {
                        all.what.get_or_insert(what);
                    }
                    Err(SlabError::Store(error)) => {
                        all.failed.get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            (1..workers.max(1)).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        let all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        brought.slabs += all.taken.len() as u64;
        brought.bytes += all.bytes;
        if let Some(error) = all.failed {
            return Err(error.into());
        }
        if progress.is_cancelled() {
            return Err(ReadError::Stopped);
        }
        wanted.retain(|slab| !all.taken.contains(slab));
        if !wanted.is_empty() {
            let what = all.what.unwrap_or_else(|| "its index does not have all that the manifest says".into());
            brought.damages.push(self.damage(number, what, &wanted));
        }
        Ok(())
    }

    fn damage(&self, part: u32, what: String, lost: &[(u16, SlabNumber)]) -> Damage {
        let mut by_volume: BTreeMap<u16, Vec<SlabNumber>> = BTreeMap::new();
        lost.iter().for_each(|(volume, slab)| by_volume.entry(*volume).or_default().push(*slab));
        let lost = by_volume.into_iter().map(|(volume, mut slabs)| {
            slabs.sort_unstable();
            (volume, runs_of(slabs))
        });
        Damage { medium: self.id.number, part, what, lost: lost.collect() }
    }

    fn index(&self, part: &Part) -> Result<(Once, Vec<Entry>), String> {
        let path = self.folder.join(file_name(part.number, Kind::Index));
        let file = File::open(&path).map_err(|error| FileError::on("read", &path)(error).to_string())?;
        let mut bytes = Vec::new();
        let read = file.take(MAX_INDEX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| FileError::on("read", &path)(error).to_string())?;
        let is_as_signed = data_encoding::HEXLOWER.encode(blake3::hash(&bytes).as_bytes()) == part.index_blake3;
        let opened = open_index(&self.id, part.number, &self.key, bytes)?;
        match is_as_signed {
            true => Ok(opened),
            false => Err("its index is not the one that the manifest was signed for".into()),
        }
    }

    fn open_part(&self, number: u32, once: Once) -> Result<Arc<OpenPart>, String> {
        let path = self.folder.join(file_name(number, Kind::Part));
        let failed = |error| FileError::on("read", &path)(error).to_string();
        let file = File::open(&path).map_err(failed)?;
        let mut header = [0; HEADER];
        match file.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err("it was cut off".into()),
            read => read.map_err(failed)?,
        }
        if let Some(why) = self.id.mismatch(Kind::Part, number, once, &header) {
            return Err(why);
        }
        // Read in order, each byte once.
        let _only_a_hint =
            nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
        let key = part_key(&self.id, number, once, &self.key);
        let opened = Arc::new(OpenPart { file, path, key });
        let mut parts = lock(&self.parts);
        if parts.len() > 64 {
            parts.clear(); // open files are bounded
        }
        parts.insert(number, Some(opened.clone()));
        Ok(opened)
    }

    /// Takes one slab in; returns the bytes that were read for it.
    fn slab(&self, part: u32, opened: &OpenPart, entry: &Entry, draft: &Draft) -> Result<u64, SlabError> {
        let chunks = entry.record.chunks();
        // Those of this part lie in runs, most often in one.
        let mut order: Vec<usize> = (0..chunks.len()).filter(|at| chunks[*at].spot.part == part).collect();
        order.sort_unstable_by_key(|at| chunks[*at].spot);
        let sealed = |chunk: &CarriedChunk| chunk.coded as usize + TAG;
        let mut total = 0;
        let mut ranges: Vec<(u64, usize, Vec<usize>)> = Vec::new();
        for at in order {
            let (offset, len) = (u64::from(chunks[at].spot.offset), sealed(&chunks[at]));
            total += len;
            match ranges.last_mut() {
                Some((start, all, members)) if *start + *all as u64 == offset => {
                    *all += len;
                    members.push(at);
                }
                _ => ranges.push((offset, len, vec![at])),
            }
        }
        let mut buffer = vec![0; total];
        let mut near: Vec<Option<&[u8]>> = vec![None; chunks.len()];
        let mut rest = &mut buffer[..];
        for (start, len, members) in ranges {
            let (mut bytes, after) = rest.split_at_mut(len);
            rest = after;
            opened.read(start, bytes)?;
            for at in members {
                let (record, after) = bytes.split_at_mut(sealed(&chunks[at]));
                bytes = after;
                near[at] = Some(opened.open(chunks[at].spot.offset.into(), record)?);
            }
        }
        let far = |chunk: &CarriedChunk| self.far(chunk);
        match draft.take_carried(entry.slab, &entry.record, &near, far) {
            Ok(()) => Ok(total as u64),
            Err(TakeError::Damaged(what)) => Err(SlabError::Damaged(format!("slab {}: {what}", entry.slab))),
            Err(TakeError::Carrier(error)) => Err(error),
            Err(TakeError::Store(error)) => Err(SlabError::Store(error)),
        }
    }

    /// A chunk of another part, or of a slab of this one that was in already.
    fn far(&self, chunk: &CarriedChunk) -> Result<Vec<u8>, SlabError> {
        let number = chunk.spot.part;
        let known = lock(&self.parts).get(&number).cloned();
        let opened = match known {
            Some(opened) => opened,
            None => {
                let part = self.manifest.parts.iter().find(|part| part.number == number);
                let opened = part.and_then(|part| {
                    let (once, _) = self.index(part).ok()?;
                    self.open_part(number, once).ok()
                });
                lock(&self.parts).insert(number, opened.clone());
                opened
            }
        };
        let missing = || SlabError::Damaged(format!("it needs part {number}, which cannot be read"));
        let opened = opened.ok_or_else(missing)?;
        let mut sealed = vec![0; chunk.coded as usize + TAG];
        opened.read(chunk.spot.offset.into(), &mut sealed)?;
        Ok(opened.open(chunk.spot.offset.into(), &mut sealed)?.to_vec())
    }
}

impl OpenPart {
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SlabError> {
        match self.file.read_exact_at(into, offset) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(SlabError::Damaged("it was cut off".into()))
            }
            Err(error) => Err(SlabError::Damaged(FileError::on("read", &self.path)(error).to_string())),
        }
    }

    fn open<'a>(&self, offset: u64, sealed: &'a mut [u8]) -> Result<&'a [u8], SlabError> {
        let broken = || SlabError::Damaged(format!("it is damaged at byte {offset}: a seal is broken"));
        self.key.open(offset, sealed).map(|plain| &*plain).ok_or_else(broken)
    }
}

/// What several threads did.
#[derive(Default)]
struct Tally {
    bytes: u64,
    taken: Vec<(u16, SlabNumber)>,
    what: Option<String>,
    failed: Option<StoreError>,
}

enum SlabError {
    /// The medium.
    Damaged(String),
    /// The store.
    Store(StoreError),
}

fn commit(drafts: &[Option<Arc<Draft>>]) -> Result<(), StoreError> {
    drafts.iter().flatten().try_for_each(|draft| draft.checkpoint())
}
