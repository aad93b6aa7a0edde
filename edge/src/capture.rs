//! Capturing a volume, slab by slab on several threads; only what differs from the generation before is stored.
//!
//! Everything is read, or, where the source follows its changes, only those and a sample of the rest ([`reading`]). A block of the sample that differs
//! although nothing was said to have changed there ends the belief in the tracker: the same capture then reads everything.
//!
//! Each worker takes the next slab, decides what is done with each part of it ([`steps`]), reads as much at once as the source likes
//! ([`Source::at_once`]) into one buffer of its own, and feeds a [`dedupe::SlabScan`]. Holes are never read. Finished slabs are made durable every [`CHECKPOINT_BYTES`] of new data or [`CHECKPOINT_TIME`]; after an interruption the same draft goes on behind
//! them if the source can be told to be unchanged since, and begins anew otherwise.

mod reading;
pub mod sample;
mod steps;

use crate::budget;
use crate::journal::{Journal, JournalError};
use crate::source::tracking::{Stamp, Unknown};
use crate::source::{AT_ONCE, Source, SourceError, Wanted, careful};
use crate::tracks::{Demoted, Kept, Tracks};
use dedupe::{
    BLOCK, ByteOffset, Draft, Generation, GenerationId, LineageId, NewGeneration, Progress, SLAB, SlabNumber, Store,
    StoreError, UnixMillis, crash_point,
};
use nix::time::{ClockId, clock_gettime};
pub use reading::How;
use reading::{Reading, ReadingError, united, without};
use sample::Sampling;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use steps::{Step, What};

/// New bytes after which finished slabs are made durable: what a crash may cost in work.
const CHECKPOINT_BYTES: u64 = 256 << 20;
/// Time after which finished slabs are made durable.
const CHECKPOINT_TIME: Duration = Duration::from_secs(5);
/// Unreadable ranges that are listed; a disk with more is dead, and the list must not fill the memory.
const MAX_UNREADABLE: usize = 10_000;

/// Ranges that differ beside what was said to have changed of which account is kept: one is enough to end the belief.
const MAX_BESIDE: usize = 1000;

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
    /// Its file, device or address, for messages.
    pub place: String,
    /// Threads.
    pub workers: usize,
    /// What is done when sectors cannot be read.
    pub on_read_error: OnReadError,
    /// How much is read beside what changed.
    pub sampling: Sampling,
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
    /// How its bytes were come by.
    pub how: How,
    /// Bytes that were read from the source.
    pub read_bytes: u64,
    /// The source's tracker was found lying in this capture, which read everything then.
    pub demoted: Option<Demoted>,
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
        "{place} has unreadable sectors: bytes {ranges}; replace the disk, or accept zeroes there, listed, with `volume add --on-read-error list`"
    )]
    Unreadable {
        /// The file, device or address.
        place: String,
        /// The first ranges, as text.
        ranges: String,
    },
    /// The store failed.
    #[error("cannot store what was captured: {0}")]
    Store(#[from] StoreError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What uses the volume could not be frozen, or not thawed.
    #[error(transparent)]
    Freeze(#[from] crate::freeze::FreezeError),
    /// The source cannot say any more what changed, after it did so.
    #[error("what changed is not known any more: {0}")]
    Unknown(#[from] Unknown),
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
        let generations = self.store.generations(self.lineage)?;
        let parent = generations.iter().rev().find(|generation| generation.is_sealed());
        let tracks = self.journal.tracks(self.lineage)?;
        let tracker = self.source.tracking();
        // Before anything is asked or read: what changes from now on belongs to the next generation.
        let stamp = tracker.map(|tracker| tracker.begin());
        let (reading, how) = self.decide(tracker, stamp.as_ref(), parent, &tracks)?;
        let read = AtomicU64::new(0);
        let (pass, how, demoted) = self.verified(parent, &reading, how, &tracks, &read, &now)?;
        let draft = &pass.draft;
        if !pass.unreadable.is_empty() {
            self.journal.set_unreadable(draft.generation().id, &pass.unreadable)?;
        }
        let stamp = stamp.and_then(Result::ok);
        if tracker.is_some() {
            self.keep(draft, parent, &reading, &how, stamp.clone())?;
            crash_point("edge.capture.stamp");
        }
        let moved = self.source_token() != draft.generation().source;
        let generation = draft.seal(now())?;
        crash_point("edge.capture.sealed");
        if let (Some(tracker), Some(stamp)) = (tracker, &stamp) {
            tracker.done(generation.id, stamp);
        }
        let stats = generation.stats;
        Ok(Captured {
            dirty_bytes: (stats.new_blocks + stats.zeroed_blocks) * BLOCK as u64,
            new_bytes: stats.new_blocks * BLOCK as u64,
            generation,
            unreadable: pass.unreadable,
            moved,
            how,
            read_bytes: read.into_inner(),
            demoted,
            elapsed: began.elapsed(),
            cpu: pass.cpu + thread_cpu().saturating_sub(cpu_before),
        })
    }

    /// One pass as `reading` says, and one over everything if that turned out not to be enough.
    fn verified(
        &self,
        parent: Option<&Generation>,
        reading: &Reading<'_>,
        how: How,
        tracks: &Tracks,
        read: &AtomicU64,
        now: &impl Fn() -> UnixMillis,
    ) -> Result<(Pass, How, Option<Demoted>), CaptureError> {
        if let How::Reread { why } = &how {
            tracing::info!(place = self.place, why, "everything is read");
        }
        let (why, demoted) = match self.pass(parent, reading, read, now()) {
            Err(CaptureError::Unknown(why)) => (why.to_string(), None),
            Err(error) => return Err(error),
            Ok(pass) => match self.missed(&pass, parent, tracks) {
                Ok(missed) if missed.is_empty() => return Ok((pass, how, None)),
                Err(why) => {
                    pass.draft.discard()?;
                    (why.to_string(), None)
                }
                Ok(missed) => {
                    let demoted = self.demote(&pass, parent, tracks, &missed, now())?;
                    pass.draft.discard()?;
                    (demoted.to_string(), Some(demoted))
                }
            },
        };
        tracing::warn!(place = self.place, why, "everything is read after all");
        let pass = self.pass(parent, &Reading::All, read, now())?;
        Ok((pass, How::Reread { why }, demoted))
    }

    /// Ranges that differ from the generation before, and that the source does not even now say to have changed: what was written since it was asked
    /// first is no lie.
    fn missed(&self, pass: &Pass, parent: Option<&Generation>, tracks: &Tracks) -> Result<Vec<Range<u64>>, Unknown> {
        let kept = parent.and_then(|parent| tracks.of(parent.id)).and_then(|kept| kept.stamp.as_ref());
        let (Some(tracker), Some(since), false) = (self.source.tracking(), kept, pass.beside.is_empty()) else {
            return Ok(Vec::new());
        };
        let changes = tracker.changed_since(since)?;
        let mut missed = Vec::new();
        for range in &pass.beside {
            missed.extend(without(std::slice::from_ref(range), &changes.within(range.clone())?));
        }
        Ok(missed)
    }

    /// Ends the belief in the tracker, durably, before anything else is done.
    fn demote(
        &self,
        pass: &Pass,
        parent: Option<&Generation>,
        tracks: &Tracks,
        missed: &[Range<u64>],
        at: UnixMillis,
    ) -> Result<Demoted, CaptureError> {
        let whole = parent.and_then(|parent| tracks.of(parent.id)).and_then(|kept| kept.whole);
        let generation = pass.draft.generation().number;
        let demoted = Demoted { at, generation, whole, ranges: listed(missed) };
        self.journal.change_tracks(self.lineage, |tracks| tracks.demoted = Some(demoted.clone()))?;
        tracing::error!(
            place = self.place,
            ranges = demoted.ranges,
            "the change tracker is not believed any more: {demoted}"
        );
        Ok(demoted)
    }

    /// Remembers what belongs to a draft before it is sealed: were it the other way round, a crash would leave a generation without its stamp.
    fn keep(
        &self,
        draft: &Draft,
        parent: Option<&Generation>,
        reading: &Reading<'_>,
        how: &How,
        stamp: Option<Stamp>,
    ) -> Result<(), JournalError> {
        let Generation { id, number, .. } = draft.generation();
        let parent = parent.map(|parent| parent.id);
        self.journal.change_tracks(self.lineage, |tracks| {
            let before = parent.and_then(|parent| tracks.of(parent));
            let (whole, next) = before.map_or((None, 0), |kept| (kept.whole, kept.next));
            let (whole, next) = match (how, reading) {
                (How::Changes { .. }, Reading::Changed(changed)) => (whole, changed.sample.next),
                _ => (Some(number), next),
            };
            tracks.keep(Kept { generation: id, stamp: stamp.clone(), whole, next }, parent);
        })
    }

    /// Reads the volume once into a draft. What an error leaves is settled.
    fn pass(
        &self,
        parent: Option<&Generation>,
        reading: &Reading<'_>,
        read: &AtomicU64,
        now: UnixMillis,
    ) -> Result<Pass, CaptureError> {
        let draft = self.draft(parent, now)?;
        let scanned = self.scan(&draft, reading, read).and_then(|pass| {
            self.source.check()?;
            Ok(pass)
        });
        scanned.map_err(|error| self.give_up(&draft, error))
    }

    /// The interrupted draft if the source is still what it was, else a new one.
    fn draft(&self, parent: Option<&Generation>, now: UnixMillis) -> Result<Arc<Draft>, CaptureError> {
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
        let (id, parent) = (GenerationId::random(), parent.map(|parent| parent.id));
        Ok(self.store.draft(NewGeneration { id, lineage: self.lineage, parent, size, captured_at: now, source })?)
    }

    /// What the source looks like now; empty where it cannot be told, and where changes are followed: a draft that went on would hold bytes of two
    /// points in time, and have the stamp of the later one.
    fn source_token(&self) -> Vec<u8> {
        if self.source.tracking().is_some() {
            return Vec::new();
        }
        // Asked anew each time: the open source remembers what it was.
        let identity = self.source.identity();
        identity.map_or(Vec::new(), |identity| postcard::to_allocvec(&identity).expect("plain numbers serialise"))
    }

    fn give_up(&self, draft: &Draft, error: CaptureError) -> CaptureError {
        let settled = if error.keeps_draft() { draft.checkpoint() } else { draft.discard() };
        if let Err(second) = settled {
            // The first error says why; the draft is looked at again by the next capture in any case.
            tracing::warn!(error = %second, place = self.place, "cannot settle the draft of a failed capture");
        }
        error
    }

    /// Scans all slabs that the draft lacks.
    fn scan(&self, draft: &Arc<Draft>, reading: &Reading<'_>, read: &AtomicU64) -> Result<Pass, CaptureError> {
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
            read,
            beside: Mutex::default(),
        };
        let results: Vec<Result<Duration, CaptureError>> = std::thread::scope(|scope| {
            let work = || {
                let result = self.work(draft, reading, &shared);
                shared.failed.fetch_or(result.is_err(), Ordering::Relaxed);
                result
            };
            let threads: Vec<_> = (0..self.threads()).map(|_| scope.spawn(work)).collect();
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
        // Zeroes in place of what cannot be read are nobody's lie.
        let beside = united(shared.beside.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter());
        let beside = without(&beside, &united(unreadable.iter().cloned()));
        Ok(Pass { draft: draft.clone(), cpu, unreadable, beside })
    }

    /// Fewer for a source that has much under way for each.
    fn threads(&self) -> usize {
        let far = self.source.at_once() > AT_ONCE;
        if far { budget::far_workers(self.workers) } else { self.workers }.max(1)
    }

    /// One worker: slab after slab until there is none.
    fn work(&self, draft: &Arc<Draft>, reading: &Reading<'_>, shared: &Shared<'_>) -> Result<Duration, CaptureError> {
        let began = thread_cpu();
        let mut buffer = vec![0; self.source.at_once()];
        while !shared.failed.load(Ordering::Relaxed) && !self.progress.is_cancelled() {
            let slab = shared.next.fetch_add(1, Ordering::Relaxed);
            if slab >= shared.slabs {
                break;
            }
            let new = self.slab(draft, reading, SlabNumber(slab), &mut buffer, shared)?;
            crash_point("edge.capture.slab");
            self.save(draft, shared, new)?;
        }
        Ok(thread_cpu().saturating_sub(began))
    }

    /// Reads and compares one slab; returns its new bytes.
    fn slab(
        &self,
        draft: &Arc<Draft>,
        reading: &Reading<'_>,
        slab: SlabNumber,
        buffer: &mut [u8],
        shared: &Shared<'_>,
    ) -> Result<u64, CaptureError> {
        let start = slab.offset().0;
        let range = start..self.source.size().0.min(start + SLAB as u64);
        let (steps, told) = reading.steps(self, range.clone(), buffer.len())?;
        if steps.iter().all(|step| step.what == What::Keep) {
            draft.keep(slab.0..slab.0 + 1);
            self.progress.add(range.end - range.start);
            return Ok(0);
        }
        let mut scan = draft.scan(slab)?;
        let mut left = &steps[..];
        while !left.is_empty() {
            let (now, later) = left.split_at(steps::that_fit(left, buffer.len()));
            self.read(now, buffer, shared)?;
            let mut from = 0;
            for step in now {
                match step.what {
                    What::Hole => scan.hole(step.len())?,
                    What::Keep => scan.keep(step.len())?,
                    What::Read => scan.data(&buffer[from..from + step.len()])?,
                }
                from += step.reads();
                self.progress.add(step.len() as u64);
            }
            left = later;
        }
        if let Some(told) = told {
            let differing = scan.differing().iter();
            let differing: Vec<_> =
                differing.map(|at| start + u64::from(at.start)..range.end.min(start + u64::from(at.end))).collect();
            shared.note_beside(without(&differing, &told));
        }
        let report = scan.finish()?;
        let new = report.new_blocks * BLOCK as u64;
        self.progress.stored.fetch_add(new, Ordering::Relaxed);
        Ok(new)
    }

    /// Fills `buffer` with what `steps` read, one after the other.
    fn read(&self, steps: &[Step], mut buffer: &mut [u8], shared: &Shared<'_>) -> Result<(), CaptureError> {
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        for step in steps.iter().filter(|step| step.reads() > 0) {
            let (piece, rest) = buffer.split_at_mut(step.reads());
            wanted.push((ByteOffset(step.range.start), piece));
            buffer = rest;
        }
        shared.read.fetch_add(wanted.iter().map(|(_, piece)| piece.len() as u64).sum(), Ordering::Relaxed);
        let bad = careful::read_all(self.source, &mut wanted)?;
        if bad.is_empty() {
            return Ok(());
        }
        let unreadable = || CaptureError::Unreadable { place: self.place.clone(), ranges: listed(&bad) };
        tracing::warn!(place = self.place, ranges = %listed(&bad), "unreadable sectors");
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
    fn save(&self, draft: &Draft, shared: &Shared<'_>, new: u64) -> Result<(), CaptureError> {
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
struct Shared<'a> {
    next: AtomicU64,
    slabs: u64,
    failed: AtomicBool,
    /// New bytes since the last checkpoint.
    unsaved: AtomicU64,
    saved_at: Mutex<Instant>,
    unreadable: Mutex<Vec<Range<u64>>>,
    /// Bytes read from the source.
    read: &'a AtomicU64,
    /// Blocks that differ beside what was said to have changed.
    beside: Mutex<Vec<Range<u64>>>,
}

impl Shared<'_> {
    fn note_beside(&self, ranges: Vec<Range<u64>>) {
        let mut beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_BESIDE.saturating_sub(beside.len());
        beside.extend(ranges.into_iter().take(room));
    }
}

/// What one pass over the volume brought.
struct Pass {
    draft: Arc<Draft>,
    /// Of the workers.
    cpu: Duration,
    /// Ranges that could not be read, ascending.
    unreadable: Vec<Range<u64>>,
    /// Blocks that differ from the generation before beside what was said to have changed, ascending.
    beside: Vec<Range<u64>>,
}

impl From<ReadingError> for CaptureError {
    fn from(error: ReadingError) -> CaptureError {
        match error {
            ReadingError::Source(error) => error.into(),
            ReadingError::Unknown(error) => error.into(),
        }
    }
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
pub(crate) mod tests;
