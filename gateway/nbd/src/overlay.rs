//! Copy-on-write over an export that stays as it is: what is written goes to a file of its own.
//!
//! ```text
//! 0          magic, format, size, identity of the base, BLAKE3 of all that   (4 KiB)
//! 4 KiB      the map: one bit for each block of 4 KiB, set when it is the overlay's own
//! then       the blocks, each at its place; the file is sparse
//! ```
//!
//! A bit only ever goes from *the base's* to *own*, and zeroes are own blocks that read as zeroes. That makes the map safe to write at any time and to tear
//! at any byte, as long as one rule holds: **a bit is on the disk only if the whole block is**. [`flush`](Export::flush) keeps it: it copies the changed
//! pages of the map (their blocks are written, for a bit is set in memory after its block), syncs the blocks, writes the copies, syncs again.
//!
//! * *A crash before the second sync:* some of the new bits are on disk, with blocks that are too. Nothing was promised of the others; they read as the
//!   base's, as before. Bits of earlier flushes are the same in the old and the new page, so tearing it cannot lose them.
//! * *A crash between flushes:* blocks without bits lie in the file and nobody looks at them. When such a block becomes own later, it is written whole
//!   (or its room is given back, for zeroes), so nothing of them shows.
//! * *Own blocks are written in place,* like on any disk: a torn one was not flushed.
//! * *A sync that fails* may have dropped what it was to write, and a later one would succeed: the overlay takes no writes any more and says so.
//!
//! Of the disk it is assumed that a sync returns when the data are durable. Bits and blocks have no checksums: a disk that returns wrong bytes is not noticed.

mod map;

use crate::export::{Errno, Export, Failure, Status};
use map::Map;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek64};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The grain of what is own: what file systems and virtual machines write.
pub const BLOCK: u64 = 4096;

/// What serialises the writes that may copy from the base: a block's first writer must not be overtaken while he copies. Regions share a few locks.
const REGION: u64 = 1 << 20;
const LOCKS: usize = 64;

/// Most extents in one answer about the state of a range.
const MOST_EXTENTS: usize = 8192;

const MAGIC: &[u8; 8] = b"sluiceOV";
const FORMAT: u32 = 1;

/// Why an overlay could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The file system refused.
    #[error("cannot {what} the overlay {path}: {cause}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// Not an overlay, damaged, of a later format, or its making was cut off.
    #[error("{path} is no overlay that this program can use: {why}; remove it to begin anew, which loses what was written to it", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It belongs to something else.
    #[error("the overlay {path} was made over another volume or generation; open it over that one", path = path.display())]
    OtherBase {
        /// The file.
        path: PathBuf,
    },
    /// Another process or another handle has it.
    #[error("the overlay {path} is in use; stop who uses it", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

/// An export that shows `base` and keeps what is written to itself.
pub struct Overlay {
    base: Arc<dyn Export>,
    path: PathBuf,
    file: File,
    size: u64,
    map: Map,
    regions: Vec<Mutex<()>>,
    flushing: Mutex<()>,
    /// A sync failed.
    failed: AtomicBool,
}

impl Overlay {
    /// Makes `path` (mode 0600; it must not exist) and its entry in the folder durable. `identity` names what the base holds, a generation's root for
    /// example: [`open`](Overlay::open) refuses another.
    pub fn create(path: &Path, base: Arc<dyn Export>, identity: [u8; 32]) -> Result<Overlay, OverlayError> {
        let failed = |what| move |cause| OverlayError::File { what, path: path.to_owned(), cause };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path).map_err(failed("make"))?;
        lock(&file, path)?;
        let size = base.size();
        let make = || {
            file.set_len(blocks_at(size) + size.next_multiple_of(BLOCK))?;
            file.write_all_at(&head(size, &identity), 0)?;
            file.sync_all()?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        make().map_err(failed("make"))?;
        Ok(Overlay::with(path, file, base))
    }

    /// Opens what [`create`](Overlay::create) made, with all that was flushed.
    pub fn open(path: &Path, base: Arc<dyn Export>, identity: [u8; 32]) -> Result<Overlay, OverlayError> {
        let failed = |what| move |cause| OverlayError::File { what, path: path.to_owned(), cause };
        let unusable = |why: &str| Err(OverlayError::Unusable { path: path.to_owned(), why: why.to_owned() });
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed("open"))?;
        lock(&file, path)?;
        let mut found = [0; BLOCK as usize];
        match file.read_exact_at(&mut found, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return unusable("it is too short"),
            read => read.map_err(failed("read"))?,
        }
        if &found[..8] != MAGIC {
            return unusable("it does not begin like one");
        }
        if found[8..12] != FORMAT.to_be_bytes() {
            return unusable("its format is of another version");
        }
        let size = base.size();
        if found[BODY..BODY + 32] != *blake3::hash(&found[..BODY]).as_bytes() {
            return unusable("its head is damaged");
        }
        if found != head(size, &identity) {
            return Err(OverlayError::OtherBase { path: path.to_owned() });
        }
        if file.metadata().map_err(failed("read"))?.len() != blocks_at(size) + size.next_multiple_of(BLOCK) {
            return unusable("its length is another than its head says");
        }
        Ok(Overlay::with(path, file, base))
    }

    fn with(path: &Path, file: File, base: Arc<dyn Export>) -> Overlay {
        let size = base.size();
        Overlay {
            base,
            path: path.to_owned(),
            file,
            size,
            map: Map::new(BLOCK),
            regions: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            flushing: Mutex::new(()),
            failed: AtomicBool::new(false),
        }
    }

    /// Removes the file. What is read and written from then on is lost when the last handle goes.
    pub fn discard(&self) -> Result<(), OverlayError> {
        std::fs::remove_file(&self.path).map_err(|cause| OverlayError::File {
            what: "remove",
            path: self.path.clone(),
            cause,
        })
    }

    /// Whether the blocks from `block` on are own, and how many up to `end` are the same.
    fn run(&self, block: u64, end: u64) -> Result<(bool, u64), Failure> {
        Ok(self.map.run(&self.file, block, end)?)
    }

    fn place(&self, at: u64) -> u64 {
        blocks_at(self.size) + at
    }

    fn may_change(&self) -> Result<(), Failure> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Failure::new(
                Errno::Eio,
                "a sync of the overlay failed before: what was written since the last good one may be lost",
            ));
        }
        if self.map.wants_flush() {
            self.flush()?;
        }
        Ok(())
    }

    /// Calls `change` for `range` in parts, each within a region that nobody else changes meanwhile.
    fn by_region(&self, range: Range<u64>, change: impl Fn(Range<u64>) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut at = range.start;
        while at < range.end {
            self.may_change()?;
            let end = range.end.min((at / REGION + 1) * REGION);
            let _alone = self.regions[(at / REGION) as usize % LOCKS].lock().unwrap_or_else(PoisonError::into_inner);
            change(at..end)?;
            at = end;
        }
        Ok(())
    }

    /// Makes the block at `at` own with what it shows now, unless it is.
    fn copy_up(&self, at: u64) -> Result<(), Failure> {
        let start = at / BLOCK * BLOCK;
        if self.run(start / BLOCK, start / BLOCK + 1)?.0 {
            return Ok(());
        }
        let mut bytes = [0; BLOCK as usize];
        let len = BLOCK.min(self.size - start) as usize;
        self.base.read(start, &mut bytes[..len])?;
        self.file.write_all_at(&bytes, self.place(start))?;
        self.own(start..start + BLOCK)
    }

    /// Copies up the blocks that `range` covers in part.
    fn copy_up_ends(&self, range: &Range<u64>) -> Result<(), Failure> {
        if !range.start.is_multiple_of(BLOCK) {
            self.copy_up(range.start)?;
        }
        if !range.end.is_multiple_of(BLOCK) && range.end != self.size {
            self.copy_up(range.end)?;
        }
        Ok(())
    }

    /// Marks the blocks of `range`, which are written.
    fn own(&self, range: Range<u64>) -> Result<(), Failure> {
        Ok(self.map.set(&self.file, range.start / BLOCK, range.end.div_ceil(BLOCK))?)
    }

    fn make_zero(&self, range: Range<u64>, may_trim: bool) -> Result<(), Failure> {
        self.copy_up_ends(&range)?;
        // The last block may be longer than what is left of the volume; what lies behind reads as zeroes and stays so.
        let mode = if may_trim { FallocateFlags::FALLOC_FL_PUNCH_HOLE } else { FallocateFlags::FALLOC_FL_ZERO_RANGE };
        let mode = mode | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (at, len) = (self.place(range.start) as i64, (range.end - range.start) as i64);
        match fallocate(&self.file, mode, at, len) {
            Err(nix::errno::Errno::EOPNOTSUPP) => {
                self.file.write_all_at(&vec![0; len as usize], at as u64)?; // at most a region
            }
            done => done.map_err(io::Error::from)?,
        }
        self.own(range)
    }

    /// What own blocks hold: whether the file has bytes there, and how far that is so.
    fn own_status(&self, range: Range<u64>) -> Result<(u64, Status), Failure> {
        let at = self.place(range.start) as i64;
        let len = range.end - range.start;
        let seek = |whence| match lseek64(&self.file, at, whence) {
            Err(nix::errno::Errno::ENXIO) => Ok(None),
            place => place.map(Some).map_err(|errno| Failure::from(io::Error::from(errno))),
        };
        match seek(Whence::SeekData)? {
            None => Ok((len, Status::Hole)),
            Some(data) if data > at => Ok((len.min((data - at) as u64), Status::Hole)),
            Some(_) => {
                let hole = seek(Whence::SeekHole)?.map_or(len, |hole| (hole - at) as u64);
                Ok((len.min(hole), Status::Data))
            }
        }
    }
}

impl Export for Overlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn block(&self) -> u32 {
        BLOCK as u32
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Failure> {
        let end = at + into.len() as u64;
        let mut rest = into;
        let mut at = at;
        while !rest.is_empty() {
            let block = at / BLOCK;
            let (own, blocks) = self.run(block, end.div_ceil(BLOCK))?;
            let until = end.min((block + blocks) * BLOCK);
            let (this, after) = std::mem::take(&mut rest).split_at_mut((until - at) as usize);
            if own {
                self.file.read_exact_at(this, self.place(at))?;
            } else {
                self.base.read(at, this)?;
            }
            (rest, at) = (after, until);
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.by_region(at..at + bytes.len() as u64, |part| {
            self.copy_up_ends(&part)?;
            let from = (part.start - at) as usize;
            self.file.write_all_at(&bytes[from..from + (part.end - part.start) as usize], self.place(part.start))?;
            self.own(part)
        })
    }

    fn zero(&self, range: Range<u64>, may_trim: bool) -> Result<(), Failure> {
        self.by_region(range, |part| self.make_zero(part, may_trim))
    }

    /// The blocks that lie wholly in `range` read as zeroes; the base keeps what it holds.
    fn trim(&self, range: Range<u64>) -> Result<(), Failure> {
        let start = range.start.next_multiple_of(BLOCK);
        let end = if range.end == self.size { range.end } else { range.end / BLOCK * BLOCK };
        self.zero(start..end, true)
    }

    fn flush(&self) -> Result<(), Failure> {
        let _alone = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failed.load(Ordering::Acquire) {
            return Err(Failure::new(Errno::Eio, "a sync of the overlay failed before"));
        }
        let changed = self.map.changed();
        let done = self.file.sync_data().and_then(|()| {
            if changed.is_empty() {
                return Ok(());
            }
            self.map.write(&self.file, &changed)?;
            self.file.sync_data()
        });
        if done.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        Ok(done?)
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<(u64, Status)>, Failure> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end && found.len() < MOST_EXTENTS {
            let (own, blocks) = self.run(at / BLOCK, range.end.div_ceil(BLOCK))?;
            let until = range.end.min((at / BLOCK + blocks) * BLOCK);
            let known = if own { vec![self.own_status(at..until)?] } else { self.base.status(at..until)? };
            let before = at;
            for (len, status) in known {
                let len = len.min(until - at);
                at += len;
                found.push((len, status));
            }
            if at == before {
                // A base that says nothing: it has to be read.
                found.push((until - at, Status::Data));
                at = until;
            }
        }
        Ok(found)
    }
}

/// Bytes of the head before its hash.
const BODY: usize = 8 + 4 + 4 + 8 + 32;

fn head(size: u64, identity: &[u8; 32]) -> [u8; BLOCK as usize] {
    let block = (BLOCK as u32).to_be_bytes();
    let body = [MAGIC, &FORMAT.to_be_bytes()[..], &block, &size.to_be_bytes(), identity].concat();
    let mut head = [0; BLOCK as usize];
    head[..BODY].copy_from_slice(&body);
    head[BODY..BODY + 32].copy_from_slice(blake3::hash(&body).as_bytes());
    head
}

/// Where blocks begin: behind the head and the map.
fn blocks_at(size: u64) -> u64 {
    BLOCK + size.div_ceil(BLOCK).div_ceil(8).next_multiple_of(BLOCK)
}

fn lock(file: &File, path: &Path) -> Result<(), OverlayError> {
    file.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => OverlayError::InUse { path: path.to_owned() },
        std::fs::TryLockError::Error(cause) => OverlayError::File { what: "lock", path: path.to_owned(), cause },
    })
}
