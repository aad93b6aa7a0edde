//! Capturing a volume: a full re-read, slab by slab on several threads, that stores only what differs from the generation before.
//!
//! Each worker takes the next slab, reads its data in strides of [`STRIDE`] into one buffer of its own, and feeds a [`dedupe::SlabScan`]. Holes are never
//! read. Finished slabs are made durable every [`CHECKPOINT_BYTES`] of new data or [`CHECKPOINT_TIME`]; after an interruption the same draft goes on behind
//! them if the source can be told to be unchanged since, and begins anew otherwise.

use crate::journal::{Journal, JournalError};
use crate::source::{Source, SourceError, careful};
use dedupe::{
    BLOCK, ByteOffset, Draft, Generation, GenerationId, LEAF, LineageId, NewGeneration, Progress, SLAB, SlabNumber,
    Store, StoreError, UnixMillis, crash_point,
};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of one read: large enough that a disk streams and the call costs nothing, small enough to stay in the second-level cache while it is hashed.
const STRIDE: usize = 1 << 20;
/// New bytes after which finished slabs are made durable: what a crash may cost in work.
const CHECKPOINT_BYTES: u64 = 256 << 20;
/// Time after which finished slabs are made durable.
const CHECKPOINT_TIME: Duration = Duration::from_secs(5);
/// Unreadable ranges that are listed; a disk with more is dead, and the list must not fill the memory.
const MAX_UNREADABLE: usize = 10_000;

/// What is done when sectors of a source cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnReadError {
    /// The capture fails and names them.
    #[default]
    Stop,
    /// They are zero in the generation, and are listed with it wherever it is shown.
    List,
}

/// What is captured, and with what.
pub struct Capture<'a> {
    /// The store that the generation goes into.
    pub store: &'a Arc<Store>,
    /// Where unreadable ranges are remembered.
    pub journal: &'a Journal,
    /// The volume's lineage.
    pub lineage: LineageId,
    /// The volume.
    pub source: &'a dyn Source,
    /// Its file or device, for messages.
    pub path: PathBuf,
    /// Threads.
    pub workers: usize,
    /// What is done when sectors cannot be read.
    pub on_read_error: OnReadError,
    /// Bytes read, bytes in all, and the wish to stop.
    pub progress: &'a Progress,
}

/// A finished capture.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The sealed generation.
    pub generation: Generation,
    /// Bytes of blocks that differ from the generation before.
    pub dirty_bytes: u64,
    /// Bytes of these that are not zeroes now.
    pub new_bytes: u64,
    /// Ranges that could not be read and are zero in the generation.
    pub unreadable: Vec<Range<u64>>,
    /// The source was written to while it was read: the generation is what was read, as after a crash of the host at best.
    pub moved: bool,
    /// Time that it took, without what an interrupted run took before.
    pub elapsed: Duration,
    /// CPU time of all its threads.
    pub cpu: Duration,
}

/// Why a capture brought no generation.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The source cannot be opened or read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Sectors cannot be read, and the operator did not allow that.
    #[error(
        "{path} has unreadable sectors: bytes {ranges}; replace the disk, or accept zeroes there, listed, with `volume add --on-read-error list`"
    )]
    Unreadable {
        /// The file or device.
        path: PathBuf,
        /// The first ranges, as text.
        ranges: String,
    },
    /// The store failed.
    #[error("cannot store what was captured: {0}")]
    Store(#[from] StoreError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Asked to stop. The next capture goes on from here where that is possible.
    #[error("the capture was stopped before its end")]
    Stopped,
}

impl CaptureError {
    /// Whether the disk is full: ends by itself when there is room.
    pub fn is_no_room(&self) -> bool {
        match self {
            CaptureError::Store(error) => error.is_no_room(),
            CaptureError::Journal(error) => error.is_no_room(),
            _ => false,
        }
    }

    /// Whether the draft may go on later. Otherwise what was read does not belong together any more.
    fn keeps_draft(&self) -> bool {
        matches!(self, CaptureError::Stopped | CaptureError::Store(_) | CaptureError::Journal(_))
    }
}

impl Capture<'_> {
    /// Captures the volume and seals the generation. Blocks; `now` gives the time.
    pub fn run(&self, now: impl Fn() -> UnixMillis) -> Result<Captured, CaptureError> {
        let began = clock();
        let cpu_before = thread_cpu();
        let draft = self.draft(now())?;
        let scanned = self.scan(&draft).and_then(|(cpu, unreadable)| {
            self.source.check()?;
            Ok((cpu, unreadable))
        });
        let (cpu, unreadable) = match scanned {
            Ok(scanned) => scanned,
            Err(error) => return Err(self.give_up(&draft, error)),
        };
        if !unreadable.is_empty() {
            self.journal.set_unreadable(draft.generation().id, &unreadable)?;
        }
        let moved = self.source_token() != draft.generation().source;
        let generation = draft.seal(now())?;
        crash_point("edge.capture.sealed");
        let stats = generation.stats;
        Ok(Captured {
            dirty_bytes: (stats.new_blocks + stats.zeroed_blocks) * BLOCK as u64,
            new_bytes: stats.new_blocks * BLOCK as u64,
            generation,
            unreadable,
            moved,
            elapsed: began.elapsed(),
            cpu: cpu + thread_cpu().saturating_sub(cpu_before),
        })
    }

    /// The interrupted draft if the source is still what it was, else a new one.
    fn draft(&self, now: UnixMillis) -> Result<Arc<Draft>, CaptureError> {
        let generations = self.store.generations(self.lineage)?;
        let (size, source) = (self.source.size(), self.source_token());
        if let Some(found) = generations.iter().find(|generation| !generation.is_sealed()) {
            let draft = self.store.draft(NewGeneration {
                id: found.id,
                lineage: found.lineage,
                parent: found.parent,
                size: found.size,
                captured_at: found.captured_at,
                source: found.source.clone(),
            })?;
            if found.size == size && found.source == source && !source.is_empty() {
                return Ok(draft);
            }
            draft.discard()?;
        }
        let parent = generations.iter().rev().find(|generation| generation.is_sealed()).map(|latest| latest.id);
        let id = GenerationId::random();
        Ok(self.store.draft(NewGeneration { id, lineage: self.lineage, parent, size, captured_at: now, source })?)
    }

    /// What the source looks like now; empty where it cannot be told.
    fn source_token(&self) -> Vec<u8> {
        // Asked anew each time: the open source remembers what it was.
        let identity = self.source.identity();
        identity.map_or(Vec::new(), |identity| postcard::to_allocvec(&identity).expect("plain numbers serialise"))
    }

    fn give_up(&self, draft: &Draft, error: CaptureError) -> CaptureError {
        let settled = if error.keeps_draft() { draft.checkpoint() } else { draft.discard() };
        if let Err(second) = settled {
            // The first error says why; the draft is looked at again by the next capture in any case.
            tracing::warn!(error = %second, path = %self.path.display(), "cannot settle the draft of a failed capture");
        }
        error
    }

    /// Scans all slabs that the draft lacks. Returns the workers' CPU time and what could not be read.
    fn scan(&self, draft: &Arc<Draft>) -> Result<(Duration, Vec<Range<u64>>), CaptureError> {
        let size = self.source.size();
        let first = draft.scanned().0;
        self.progress.total.store(size.0, Ordering::Relaxed);
        self.progress.done.store((first * SLAB as u64).min(size.0), Ordering::Relaxed);
        let known = self.journal.unreadable(draft.generation().id)?;
        let shared = Shared {
            next: AtomicU64::new(first),
            slabs: size.slabs(),
            failed: AtomicBool::new(false),
            unsaved: AtomicU64::new(0),
            saved_at: Mutex::new(clock()),
            unreadable: Mutex::new(known),
        };
        let results: Vec<Result<Duration, CaptureError>> = std::thread::scope(|scope| {
            let work = || {
                let result = self.work(draft, &shared);
                shared.failed.fetch_or(result.is_err(), Ordering::Relaxed);
                result
            };
            let threads: Vec<_> = (0..self.workers.max(1)).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut cpu = Duration::ZERO;
        for result in results {
            cpu += result?;
        }
        if self.progress.is_cancelled() {
            return Err(CaptureError::Stopped);
        }
        let mut unreadable = shared.unreadable.into_inner().unwrap_or_else(PoisonError::into_inner);
        unreadable.sort_unstable_by_key(|range| range.start);
        Ok((cpu, unreadable))
    }

    /// One worker: slab after slab until there is none.
    fn work(&self, draft: &Arc<Draft>, shared: &Shared) -> Result<Duration, CaptureError> {
        let began = thread_cpu();
        let mut buffer = vec![0; STRIDE];
        while !shared.failed.load(Ordering::Relaxed) && !self.progress.is_cancelled() {
            let slab = shared.next.fetch_add(1, Ordering::Relaxed);
            if slab >= shared.slabs {
                break;
            }
            let new = self.slab(draft, SlabNumber(slab), &mut buffer, shared)?;
            crash_point("edge.capture.slab");
            self.save(draft, shared, new)?;
        }
        Ok(thread_cpu().saturating_sub(began))
    }

    /// Reads and compares one slab; returns its new bytes.
    fn slab(
        &self,
        draft: &Arc<Draft>,
        slab: SlabNumber,
        buffer: &mut [u8],
        shared: &Shared,
    ) -> Result<u64, CaptureError> {
        let mut scan = draft.scan(slab)?;
        let start = slab.offset().0;
        let end = start + scan.len() as u64;
        let mut at = start;
        while at < end {
            let data = self.source.next_data(at..end)?.map_or(end..end, |data| whole_leaves(data, at..end));
            scan.hole((data.start - at) as usize)?;
            self.progress.add(data.start - at);
            at = data.start;
            while at < data.end {
                let len = (data.end - at).min(buffer.len() as u64) as usize;
                let piece = &mut buffer[..len];
                self.read(at, piece, shared)?;
                scan.data(piece)?;
                self.progress.add(len as u64);
                at += len as u64;
            }
        }
        let report = scan.finish()?;
        let new = report.new_blocks * BLOCK as u64;
        self.progress.stored.fetch_add(new, Ordering::Relaxed);
        Ok(new)
    }

    fn read(&self, at: u64, piece: &mut [u8], shared: &Shared) -> Result<(), CaptureError> {
        let bad = careful::read(self.source, ByteOffset(at), piece)?;
        if bad.is_empty() {
            return Ok(());
        }
        let unreadable = || CaptureError::Unreadable { path: self.path.clone(), ranges: listed(&bad) };
        tracing::warn!(path = %self.path.display(), ranges = %listed(&bad), "unreadable sectors");
        if self.on_read_error == OnReadError::Stop {
            return Err(unreadable());
        }
        let mut all = shared.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() + bad.len() > MAX_UNREADABLE {
            return Err(unreadable());
        }
        all.extend(bad);
        Ok(())
    }

    /// Makes finished slabs durable when it is time, on whichever worker notices; the others read on.
    fn save(&self, draft: &Draft, shared: &Shared, new: u64) -> Result<(), CaptureError> {
        let unsaved = shared.unsaved.fetch_add(new, Ordering::Relaxed) + new;
        let Ok(mut saved_at) = shared.saved_at.try_lock() else { return Ok(()) };
        if unsaved < CHECKPOINT_BYTES && saved_at.elapsed() < CHECKPOINT_TIME {
            return Ok(());
        }
        shared.unsaved.store(0, Ordering::Relaxed);
        // Before the slabs that hold them: a resumed draft must know its unreadable ranges.
        let unreadable = shared.unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !unreadable.is_empty() {
            self.journal.set_unreadable(draft.generation().id, &unreadable)?;
        }
        draft.checkpoint()?;
        *saved_at = clock();
        Ok(())
    }
}

/// What the workers of one capture share.
struct Shared {
    next: AtomicU64,
    slabs: u64,
    failed: AtomicBool,
    /// New bytes since the last checkpoint.
    unsaved: AtomicU64,
    saved_at: Mutex<Instant>,
    unreadable: Mutex<Vec<Range<u64>>>,
}

/// Widens a range to whole leaves, within `bounds` (whose start is a leaf's).
fn whole_leaves(range: Range<u64>, bounds: Range<u64>) -> Range<u64> {
    let leaf = LEAF as u64;
    let start = (range.start / leaf * leaf).max(bounds.start);
    let end = range.end.next_multiple_of(leaf).min(bounds.end);
    start..end.max(start)
}

/// Ranges as text, the first few of them.
pub(crate) fn listed(ranges: &[Range<u64>]) -> String {
    const SHOWN: usize = 8;
    let mut text: Vec<String> =
        ranges.iter().take(SHOWN).map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
    if ranges.len() > SHOWN {
        text.push(format!("and {} more", ranges.len() - SHOWN));
    }
    text.join(", ")
}

/// A capture runs on plain threads and paces its checkpoints by itself.
#[allow(clippy::disallowed_methods, reason = "the shell of a capture is where its time is asked")]
fn clock() -> Instant {
    Instant::now()
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
