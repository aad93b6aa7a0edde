//! A blob that is being filled by one run, under a lease.

use super::record::{self, Record};
use super::{Azure, blobs, vhd};
use crate::error::TargetError;
use crate::target::{Filling, Point, Work};
use dedupe::{ByteOffset, RunId, UnixMillis};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Seconds that a lease lasts by itself: the longest that ends without us, so that a process that was killed holds nobody up for longer.
const LEASE: u64 = 60;
/// It is taken anew before a request when it is older than this.
const RENEW: Duration = Duration::from_secs(20);
/// Bytes of which one question tells where there are holes.
const WINDOW: u64 = 256 << 20;
/// Windows that are remembered: more than there are threads.
const MOST_WINDOWS: usize = 32;

/// The right to write a blob, named after the run: the same run has it again at once after a crash.
pub(super) struct Lease<'a> {
    azure: &'a Azure,
    name: String,
    id: String,
    taken: Mutex<Option<Instant>>,
}

impl<'a> Lease<'a> {
    pub(super) fn new(azure: &'a Azure, name: &str, run: RunId) -> Lease<'a> {
        let run = run.to_string();
        let id = [&run[..8], &run[8..12], &run[12..16], &run[16..20], &run[20..]].join("-");
        Lease { azure, name: name.to_owned(), id, taken: Mutex::new(None) }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Takes it; `false`: somebody else has it.
    pub(super) fn take(&self) -> Result<bool, TargetError> {
        self.take_into(&mut lock(&self.taken))
    }

    #[allow(clippy::disallowed_methods, reason = "the service counts a lease's time by the clock")]
    fn take_into(&self, taken: &mut Option<Instant>) -> Result<bool, TargetError> {
        let now = Instant::now();
        let is_ours = self.azure.blobs.lease(&self.name, &self.id, LEASE)?;
        *taken = is_ours.then_some(now);
        Ok(is_ours)
    }

    /// Before each request: takes it anew when it is about to end.
    #[allow(clippy::disallowed_methods, reason = "the service counts a lease's time by the clock")]
    fn keep(&self) -> Result<(), TargetError> {
        let mut taken = lock(&self.taken);
        if taken.is_some_and(|taken| Instant::now().duration_since(taken) < RENEW) {
            return Ok(());
        }
        match self.take_into(&mut taken)? {
            true => Ok(()),
            false => Err(self.azure.busy(&self.name)),
        }
    }

    pub(super) fn release(&self) -> Result<(), TargetError> {
        *lock(&self.taken) = None;
        self.azure.blobs.release(&self.name, &self.id)
    }
}

/// See the module's documentation.
pub(super) struct Open<'a> {
    azure: &'a Azure,
    work: Work,
    lease: Lease<'a>,
    record: Mutex<Option<Record>>,
    windows: Mutex<BTreeMap<u64, Vec<Range<u64>>>>,
}

impl<'a> Open<'a> {
    pub(super) fn new(azure: &'a Azure, work: &Work, name: String) -> Open<'a> {
        let lease = Lease::new(azure, &name, work.run);
        Open { azure, work: work.clone(), lease, record: Mutex::new(None), windows: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.lease.name
    }

    pub(super) fn lease(&self) -> &Lease<'a> {
        &self.lease
    }

    /// What was written down when the run began.
    pub(super) fn remember(&self, record: Record) {
        *lock(&self.record) = Some(record);
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.lease.keep()?;
        lock(&self.windows).clear();
        self.azure.blobs.put(self.name(), self.lease.id(), at, bytes)
    }

    fn clear(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.lease.keep()?;
        lock(&self.windows).clear();
        self.azure.blobs.clear(self.name(), self.lease.id(), &range)
    }

    /// Makes what lies between the volume's end and the disk's zeroes: a larger volume may have been there before.
    fn clear_tail(&self) -> Result<(), TargetError> {
        let (size, disk) = (self.work.size.0, vhd::disk(self.work.size));
        let (sector, inside) = (size / 512 * 512, (size % 512) as usize);
        if inside > 0 {
            let mut bytes = [0; 512];
            self.azure.blobs.get(self.name(), sector, &mut bytes)?;
            if bytes[inside..].iter().any(|byte| *byte != 0) {
                bytes[inside..].fill(0);
                self.put(sector, &bytes)?;
            }
        }
        match size.next_multiple_of(512) {
            end if end < disk => self.clear(end..disk),
            _ => Ok(()),
        }
    }

    /// The snapshot of this run, if there is one; of several the first, and the others go.
    fn point(&self) -> Result<Option<Point>, TargetError> {
        let found = self.azure.blobs.find(self.name())?;
        let mut ours = found.snapshots.iter().filter(|listed| record::run(listed) == Some(self.work.run));
        let Some(first) = ours.next() else { return Ok(None) };
        for other in ours {
            self.azure.blobs.remove_snapshot(self.name(), other.snapshot.as_deref().unwrap_or_default())?;
        }
        let id = self.azure.id_of(self.name(), first.snapshot.as_deref().unwrap_or_default());
        Ok(record::point(&id, first))
    }

    /// First what the blob is, then its snapshot, which takes that over in one step. Until then it is no point.
    fn make_point(&self, now: UnixMillis) -> Result<Point, TargetError> {
        let gone = || {
            let address = self.azure.blobs.address(self.name());
            TargetError::Conflict(format!(
                "the snapshot of {address} was removed just now; look who does that, then run it again"
            ))
        };
        self.lease.keep()?;
        let record = lock(&self.record).clone().ok_or_else(gone)?;
        let metadata = record.metadata_of_point(&self.work, &self.work.point(String::new(), now));
        let etag = self.azure.blobs.set_metadata(self.name(), self.lease.id(), &metadata)?;
        self.azure.blobs.snapshot(self.name(), self.lease.id(), &etag)?;
        self.point()?.ok_or_else(gone)
    }
}

impl Filling for Open<'_> {
    fn apply(&self, at: ByteOffset, bytes: &[u8]) -> Result<(), TargetError> {
        match bytes.len() % 512 {
            0 => self.put(at.0, bytes),
            // The volume's end, within a page.
            _ => {
                let mut padded = bytes.to_vec();
                padded.resize(bytes.len().next_multiple_of(512), 0);
                self.put(at.0, &padded)
            }
        }
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        match range.is_empty() {
            true => Ok(()),
            false => self.clear(range.start..range.end.next_multiple_of(512)),
        }
    }

    /// Each request is durable when it is answered.
    fn flush(&self) -> Result<(), TargetError> {
        Ok(())
    }

    fn complete(&self) -> Result<(), TargetError> {
        self.clear_tail()?;
        let footer = vhd::footer(self.work.image.lineage, self.work.size, self.work.captured);
        self.put(vhd::disk(self.work.size), &footer)
    }

    fn read(&self, at: ByteOffset, buffer: &mut [u8]) -> Result<(), TargetError> {
        let mut at = at.0;
        for piece in buffer.chunks_mut(blobs::MOST) {
            self.azure.blobs.get(self.name(), at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn is_hole(&self, range: Range<u64>) -> bool {
        let end = vhd::disk(self.work.size);
        let windows = range.start / WINDOW..range.end.div_ceil(WINDOW);
        windows.into_iter().all(|window| {
            let within = window * WINDOW..((window + 1) * WINDOW).min(end);
            let mut known = lock(&self.windows);
            if !known.contains_key(&window) {
                // Asked under the lock, so that threads that look at one window ask once. An error only means that it is read.
                let Ok(ranges) = self.azure.blobs.ranges(self.name(), &within) else { return false };
                if known.len() >= MOST_WINDOWS {
                    known.clear();
                }
                known.insert(window, ranges);
            }
            known[&window].iter().all(|data| data.end <= range.start || data.start >= range.end)
        })
    }

    fn finish(&self, now: UnixMillis) -> Result<Point, TargetError> {
        let point = match self.point()? {
            Some(point) => point, // finished before, and its answer was lost
            None => self.make_point(now)?,
        };
        // The point is there, come what may; a lease that is not given back ends by itself.
        if let Err(error) = self.lease.release() {
            tracing::info!(%error, "the lease could not be given back");
        }
        Ok(point)
    }
}

/// What is behind these locks is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
