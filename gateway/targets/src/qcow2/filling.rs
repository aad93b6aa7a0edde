//! An image that is being filled by one run.

use super::chain::{Lock, Record, UNFINISHED};
use super::served::Served;
use super::{MOST, Qcow2};
use crate::error::TargetError;
use crate::raw::{Stamp, sync_folder_of};
use crate::tags;
use crate::target::{Filling, Point, Work};
use dedupe::{ByteCount, ByteOffset, UnixMillis};
use nbd::{Client, ClientError};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

/// Disks are whole sectors.
const SECTOR: u64 = 512;
/// What `base:allocation` says of a range that reads as zeroes (NBD_STATE_ZERO).
const READS_AS_ZEROES: u32 = 2;

/// Bytes of the disk that holds a volume.
pub(super) fn disk(size: ByteCount) -> u64 {
    size.0.next_multiple_of(SECTOR)
}

/// See the module's documentation.
pub(super) struct Open<'a> {
    target: &'a Qcow2,
    work: Work,
    path: PathBuf,
    unfinished: PathBuf,
    served: RwLock<State>,
    _lock: Lock,
}

enum State {
    Writing(Served),
    Reading(Served),
    Closed,
}

impl<'a> Open<'a> {
    pub(super) fn new(target: &'a Qcow2, work: &Work, lock: Lock) -> Result<Open<'a>, TargetError> {
        let path = target.path_of(work);
        let unfinished = path.with_added_extension(UNFINISHED);
        let served = RwLock::new(State::Writing(Served::open(&unfinished, false, &target.stop)?));
        Ok(Open { target, work: work.clone(), path, unfinished, served, _lock: lock })
    }

    fn with<T>(&self, what: impl FnOnce(&Client) -> Result<T, ClientError>) -> Result<T, TargetError> {
        match &*self.served.read().unwrap_or_else(PoisonError::into_inner) {
            State::Writing(served) | State::Reading(served) => {
                what(served.client()?).map_err(|error| served.failed(&error.to_string()))
            }
            State::Closed => Err(TargetError::Conflict(format!(
                "{} could not be opened again; run it again",
                self.unfinished.display()
            ))),
        }
    }

    /// Makes what lies between the volume's end and the sector's zeroes: a larger volume may lie under it.
    fn clear_tail(&self) -> Result<(), TargetError> {
        let (size, inside) = (self.work.size.0, (self.work.size.0 % SECTOR) as usize);
        if inside == 0 {
            return Ok(());
        }
        let mut sector = [0; SECTOR as usize];
        self.with(|client| {
            client.read(size - inside as u64, &mut sector)?;
            sector[inside..].fill(0);
            client.write(size - inside as u64, &sector)
        })
    }
}

impl Filling for Open<'_> {
    fn apply(&self, at: ByteOffset, bytes: &[u8]) -> Result<(), TargetError> {
        if (bytes.len() as u64).is_multiple_of(SECTOR) {
            return self.with(|client| client.write(at.0, bytes));
        }
        let mut padded = bytes.to_vec();
        padded.resize(disk(ByteCount(bytes.len() as u64)) as usize, 0);
        self.with(|client| client.write(at.0, &padded))
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.with(|client| client.zero(range.start..disk(ByteCount(range.end)), true))
    }

    fn flush(&self) -> Result<(), TargetError> {
        self.with(Client::flush)
    }

    fn complete(&self) -> Result<(), TargetError> {
        if matches!(&*self.served.read().unwrap_or_else(PoisonError::into_inner), State::Reading(_)) {
            return Ok(());
        }
        self.clear_tail()?;
        self.flush()?;
        let mut state = self.served.write().unwrap_or_else(PoisonError::into_inner);
        if let State::Writing(served) = std::mem::replace(&mut *state, State::Closed) {
            served.close()?;
        }
        if !self.target.is_sound(&self.unfinished)? {
            return Err(TargetError::Conflict(format!(
                "`qemu-img check` finds errors in {}; give the run up, then run it again",
                self.unfinished.display()
            )));
        }
        let file = File::open(&self.unfinished).map_err(TargetError::io("open", &self.unfinished))?;
        file.sync_all().map_err(TargetError::io("sync", &self.unfinished))?;
        // What is read next should come from the disk. Best effort.
        let _advice = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        *state = State::Reading(Served::open(&self.unfinished, true, &self.target.stop)?);
        Ok(())
    }

    fn read(&self, at: ByteOffset, buffer: &mut [u8]) -> Result<(), TargetError> {
        let whole = buffer.len() / SECTOR as usize * SECTOR as usize;
        let (sectors, rest) = buffer.split_at_mut(whole);
        self.with(|client| {
            for (piece, bytes) in sectors.chunks_mut(MOST).enumerate() {
                client.read(at.0 + (piece * MOST) as u64, bytes)?;
            }
            if !rest.is_empty() {
                let mut sector = [0; SECTOR as usize];
                client.read(at.0 + whole as u64, &mut sector)?;
                rest.copy_from_slice(&sector[..rest.len()]);
            }
            Ok(())
        })
    }

    fn is_hole(&self, range: Range<u64>) -> bool {
        let range = range.start..disk(ByteCount(range.end));
        let status = self.with(|client| client.block_status("base:allocation", range));
        status.is_ok_and(|extents| extents.iter().all(|(_, flags)| flags & READS_AS_ZEROES != 0))
    }

    fn finish(&self, now: UnixMillis) -> Result<Point, TargetError> {
        let point = self.work.point(self.path.display().to_string(), now);
        let mut tags = tags::of_point(&self.work.image, &point);
        tags.push((tags::RUN, self.work.run.to_string()));
        if self.unfinished.try_exists().map_err(TargetError::io("look at", &self.unfinished))? {
            // First what it is, then its name: without either it is no point.
            Record::new(tags, Some(Stamp::of(&self.unfinished)?)).write(&self.path)?;
            std::fs::rename(&self.unfinished, &self.path)
                .and_then(|()| sync_folder_of(&self.path))
                .map_err(TargetError::io("rename", &self.unfinished))?;
        }
        Record::remove(&self.unfinished)?;
        Ok(point)
    }
}

/// A run that had finished before: nothing is left to do, and nothing of it can be changed.
pub(super) struct Finished(pub(super) Point);

impl Finished {
    fn refuse<T>(&self) -> Result<T, TargetError> {
        Err(TargetError::Conflict(format!("{} is a point already; plan anew", self.0.id)))
    }
}

impl Filling for Finished {
    fn apply(&self, _: ByteOffset, _: &[u8]) -> Result<(), TargetError> {
        self.refuse()
    }

    fn zero(&self, _: Range<u64>) -> Result<(), TargetError> {
        self.refuse()
    }

    fn flush(&self) -> Result<(), TargetError> {
        Ok(())
    }

    fn complete(&self) -> Result<(), TargetError> {
        Ok(())
    }

    fn read(&self, _: ByteOffset, _: &mut [u8]) -> Result<(), TargetError> {
        self.refuse()
    }

    fn finish(&self, _: UnixMillis) -> Result<Point, TargetError> {
        Ok(self.0.clone())
    }
}
