//! A generation to a file or block device: plan, show, execute, prove.
//!
//! A record beside the target says which generation it holds. With it only what differs is written; without it everything, and holes
//! stay holes. Then the target is read back and its root compared, so that the proof is about the disk and not about our bookkeeping; a target that
//! somebody else touched is found there and written anew.
//!
//! A crash at any moment is harmless: the record is removed, durably, before the first byte is written, and written again after the proof.

mod record;
mod target;

pub use target::TargetError;

use crate::files::FileError;
use dedupe::{
    BLOCK, ByteOffset, Content, Generation, GenerationId, Progress, Root, SLAB, SlabNumber, Store, StoreError, View,
};
use record::{Record, Records};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use target::Target;

/// Bytes that one worker reads from the store and writes at once.
const STEP: usize = 1 << 20;
/// Workers at most: beyond this the target's disk is the limit.
const MAX_WORKERS: usize = 8;

/// Why a generation could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RehydrateError {
    /// The target cannot be used, read or written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The record beside the target cannot be written.
    #[error(transparent)]
    Record(#[from] FileError),
    /// The store failed.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// A draft is asked for.
    #[error("generation {0} is not complete; only sealed generations can be rebuilt")]
    Draft(GenerationId),
    /// What was read back is something else, also after everything was written anew.
    #[error(
        "{target} reads back as {found} instead of {wanted}: its disk does not keep what is written to it, or something else writes to it"
    )]
    Unproved {
        /// The target.
        target: PathBuf,
        /// What it hashes to.
        found: String,
        /// What it should hash to.
        wanted: Root,
    },
    /// Asked to stop. The target is not usable; doing it again goes over all of it.
    #[error("cancelled; the target is incomplete, run it again")]
    Cancelled,
}

/// What is going to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The target.
    pub target: PathBuf,
    /// The generation.
    #[serde(with = "crate::admin::as_text")]
    pub generation: GenerationId,
    /// Its number for people.
    pub number: u64,
    /// Size of the volume in bytes.
    pub size: u64,
    /// The generation that the target holds now, by number, when only what differs is written.
    pub from: Option<u64>,
    /// Why everything is written, when it is.
    pub whole_because: Option<String>,
    /// Bytes to write.
    pub data_bytes: u64,
    /// Bytes to make zero.
    pub zero_bytes: u64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// What was planned.
    pub plan: Plan,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes read back.
    pub verified_bytes: u64,
    /// Whether the target had been touched by somebody else and was written anew.
    pub repaired: bool,
    /// The root that was proved; with `quick` of what was written only.
    pub root: String,
    /// Whether only what was written was read back.
    pub quick: bool,
}

/// A generation on its way to a target.
pub struct Rehydration {
    store: Arc<Store>,
    view: View,
    root: Root,
    target: Target,
    records: Records,
    base: Option<Generation>,
    plan: Plan,
}

impl Rehydration {
    /// Looks at the target and decides what has to be written. Changes nothing. `state` is where records of block devices lie.
    pub fn plan(store: &Arc<Store>, id: GenerationId, to: &Path, state: &Path) -> Result<Rehydration, RehydrateError> {
        let view = store.view(id)?;
        let generation = view.generation().clone();
        let root = generation.sealed.ok_or(RehydrateError::Draft(id))?.root;
        let target = Target::open(to, generation.size)?;
        let records = Records::of(&target, state);
        let (base, whole_because) = match held(store, &records, &target, &generation)? {
            Ok(base) => (Some(base), None),
            Err(why) => (None, Some(why.to_owned())),
        };
        let mut rehydration = Rehydration {
            store: store.clone(),
            view,
            root,
            records,
            plan: Plan {
                target: to.to_owned(),
                generation: id,
                number: generation.number,
                size: generation.size.0,
                from: base.as_ref().map(|base| base.number),
                whole_because,
                data_bytes: 0,
                zero_bytes: 0,
            },
            target,
            base,
        };
        let slabs = rehydration.slabs(rehydration.base.as_ref())?;
        for slab in slabs {
            for (range, content) in rehydration.extents(slab, rehydration.base.as_ref())? {
                match content {
                    Content::Data => rehydration.plan.data_bytes += range.end - range.start,
                    Content::Zero => rehydration.plan.zero_bytes += range.end - range.start,
                }
            }
        }
        Ok(rehydration)
    }

    /// What is going to be done.
    pub fn shown(&self) -> &Plan {
        &self.plan
    }

    /// Does it. `phase` is told what is being done whenever that changes; `progress` counts bytes of the phase, and those written.
    pub fn execute(
        self,
        quick: bool,
        progress: &Progress,
        phase: &dyn Fn(&'static str),
    ) -> Result<Done, RehydrateError> {
        self.records.forget()?;
        let fresh = self.target.prepare(self.base.is_none())?;
        phase("writing");
        let written = self.write(self.base.as_ref(), fresh, progress)?;
        self.target.sync()?;
        phase("reading back");
        let mut repaired = false;
        let verified_bytes = if quick {
            self.check_pieces(&written, progress)?
        } else {
            let mut found = self.read_back(progress)?;
            if found != Some(self.root) && self.base.is_some() {
                repaired = true;
                tracing::warn!(target = %self.plan.target.display(), "the target was touched since; it is written anew");
                phase("writing anew");
                self.write(None, false, progress)?;
                self.target.sync()?;
                phase("reading back");
                found = self.read_back(progress)?;
            }
            if found != Some(self.root) {
                return Err(self.unproved(found.map_or("nothing".into(), |root| root.to_string())));
            }
            self.plan.size
        };
        self.remember()?;
        Ok(Done {
            written_bytes: progress.stored.load(Ordering::Relaxed),
            verified_bytes,
            repaired,
            root: self.root.to_string(),
            quick,
            plan: self.plan,
        })
    }

    /// Writes what differs from `base`. `fresh` says that the target reads as zeroes, so that holes need no work.
    fn write(&self, base: Option<&Generation>, fresh: bool, progress: &Progress) -> Result<Vec<Piece>, RehydrateError> {
        let slabs = self.slabs(base)?;
        let todo = self.plan.data_bytes + if fresh { 0 } else { self.plan.zero_bytes };
        progress.done.store(0, Ordering::Relaxed);
        progress.total.store(if base.is_some() || fresh { todo } else { self.plan.size }, Ordering::Relaxed);
        let (next, pieces) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || -> Result<(), RehydrateError> {
            let mut buffer = vec![0; STEP];
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(slab) = slabs.get(at) else { return Ok(()) };
                if at == slabs.len() / 2 {
                    dedupe::crash_point("gateway.rehydrate.middle");
                }
                for (range, content) in self.extents(*slab, base)? {
                    if progress.is_cancelled() {
                        return Err(RehydrateError::Cancelled);
                    }
                    match content {
                        Content::Zero if fresh => {}
                        Content::Zero => {
                            self.target.zero(range.clone())?;
                            progress.add(range.end - range.start);
                        }
                        Content::Data => self.copy(range, &mut buffer, progress, &pieces)?,
                    }
                }
            }
        };
        in_parallel(slabs.len(), work)?;
        Ok(pieces.into_inner().expect("no worker panicked"))
    }

    fn copy(
        &self,
        range: Range<u64>,
        buffer: &mut [u8],
        progress: &Progress,
        pieces: &Mutex<Vec<Piece>>,
    ) -> Result<(), RehydrateError> {
        for start in range.clone().step_by(STEP) {
            let len = (range.end - start).min(STEP as u64) as usize;
            self.view.read(ByteOffset(start), &mut buffer[..len])?;
            self.target.write(start, &buffer[..len])?;
            let hash = blake3::hash(&buffer[..len]);
            pieces.lock().expect("no worker panics while it holds them").push(Piece { start, len, hash });
            progress.stored.fetch_add(len as u64, Ordering::Relaxed);
            progress.add(len as u64);
        }
        Ok(())
    }

    /// Reads the whole target and computes its root; `None` when it was cancelled.
    fn read_back(&self, progress: &Progress) -> Result<Option<Root>, RehydrateError> {
        self.target.drop_cache();
        progress.done.store(0, Ordering::Relaxed);
        let size = self.view.size();
        let root = dedupe::root_of(
            size,
            workers(),
            progress,
            |start, len| self.target.is_hole(start, len),
            |at, buffer| self.target.read(at, buffer),
        )?;
        if root.is_none() { Err(RehydrateError::Cancelled) } else { Ok(root) }
    }

    /// Reads only what was written.
    fn check_pieces(&self, pieces: &[Piece], progress: &Progress) -> Result<u64, RehydrateError> {
        self.target.drop_cache();
        let total: u64 = pieces.iter().map(|piece| piece.len as u64).sum();
        progress.done.store(0, Ordering::Relaxed);
        progress.total.store(total, Ordering::Relaxed);
        let next = AtomicUsize::new(0);
        in_parallel(pieces.len(), || {
            let mut buffer = vec![0; STEP];
            while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.target.read(piece.start, &mut buffer[..piece.len])?;
                if blake3::hash(&buffer[..piece.len]) != piece.hash {
                    return Err(self.unproved(format!("something else at byte {}", piece.start)));
                }
                progress.add(piece.len as u64);
            }
            Ok(())
        })?;
        Ok(total)
    }

    fn remember(&self) -> Result<(), RehydrateError> {
        let generation = self.view.generation();
        let record = Record::new(generation, self.root, self.target.stamp()?);
        Ok(self.records.remember(&record)?)
    }

    fn unproved(&self, found: String) -> RehydrateError {
        RehydrateError::Unproved { target: self.plan.target.clone(), found, wanted: self.root }
    }

    /// Slabs that have something to be written.
    fn slabs(&self, base: Option<&Generation>) -> Result<Vec<SlabNumber>, RehydrateError> {
        let generation = self.view.generation();
        match base {
            Some(base) if base.id == generation.id => Ok(Vec::new()),
            Some(base) => {
                let mut slabs = self.store.changed_slabs(Some(base), generation)?;
                slabs.retain(|slab| slab.offset().0 < generation.size.0);
                Ok(slabs)
            }
            None => Ok((0..generation.size.slabs()).map(SlabNumber).collect()),
        }
    }

    /// What has to be written of one slab, as byte ranges in address order.
    fn extents(
        &self,
        slab: SlabNumber,
        base: Option<&Generation>,
    ) -> Result<Vec<(Range<u64>, Content)>, RehydrateError> {
        let generation = self.view.generation();
        let Some(base) = base else { return Ok(self.view.runs(slab)?) };
        let delta = self.store.slab_delta(Some(base), generation, slab, false)?;
        let data = delta.data.iter().map(|(block, _)| (block.offset().0, Content::Data));
        let mut blocks: Vec<_> = data.chain(delta.zero.iter().map(|block| (block.offset().0, Content::Zero))).collect();
        blocks.sort_unstable_by_key(|(start, _)| *start);
        let mut extents: Vec<(Range<u64>, Content)> = Vec::new();
        for (start, content) in blocks {
            let end = (start + BLOCK as u64).min(generation.size.0);
            match extents.last_mut() {
                Some((last, same)) if last.end == start && *same == content => last.end = end,
                _ => extents.push((start..end, content)),
            }
        }
        Ok(extents)
    }
}

/// Bytes that were written, and what they were.
struct Piece {
    start: u64,
    len: usize,
    hash: blake3::Hash,
}

/// The generation that the target holds according to its record, or why everything has to be written.
fn held(
    store: &Store,
    records: &Records,
    target: &Target,
    generation: &Generation,
) -> Result<Result<Generation, &'static str>, RehydrateError> {
    if target.is_new() {
        return Ok(Err("the target is new"));
    }
    let Some(record) = records.read() else { return Ok(Err("nothing says what the target holds")) };
    if !record.is_stamped(&target.stamp()?) {
        return Ok(Err("the target was touched since it was last written"));
    }
    if record.lineage != generation.lineage {
        return Ok(Err("the target holds another volume"));
    }
    let known = store.generation(record.generation)?;
    if target.is_device() && known.as_ref().is_some_and(|base| base.size < generation.size) {
        return Ok(Err("the volume has grown, and what lies behind its old end on the device is unknown"));
    }
    match known {
        Some(base)
            if base.sealed.is_some_and(|sealed| sealed.root == record.root) && base.number <= generation.number =>
        {
            Ok(Ok(base))
        }
        Some(base) if base.number > generation.number => Ok(Err("the target holds a later generation")),
        _ => Ok(Err("the generation that the target holds is kept no more")),
    }
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS)
}

/// Runs `work` on several threads; each takes its share by itself. The first error is returned.
fn in_parallel<E: Send>(pieces: usize, work: impl Fn() -> Result<(), E> + Sync) -> Result<(), E> {
    let results: Vec<Result<(), E>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers().min(pieces.max(1))).map(|_| scope.spawn(&work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    results.into_iter().collect()
}

/// Reads an image and computes its root, holes at memory speed; `None` when it was cancelled.
pub fn root_of_image(path: &Path, progress: &Progress) -> Result<Option<Root>, TargetError> {
    let image = Target::open_to_read(path)?;
    let hole = |start, len| image.is_hole(start, len);
    dedupe::root_of(image.size(), workers(), progress, hole, |at, buffer| image.read(at, buffer))
}

/// The root of what the store holds of a generation. A wrong one is found here before somebody needs the generation.
pub fn root_of_generation(store: &Arc<Store>, id: GenerationId, progress: &Progress) -> Result<Root, RehydrateError> {
    let view = store.view(id)?;
    let is_zero = |start: u64, len: u64| {
        let runs = view.runs(SlabNumber(start / SLAB as u64)).unwrap_or_default();
        let mut within = runs.iter().filter(|(range, _)| range.start < start + len && start < range.end).peekable();
        within.peek().is_some() && within.all(|(_, content)| *content == Content::Zero)
    };
    let read = |at: u64, buffer: &mut [u8]| view.read(ByteOffset(at), buffer);
    let root = dedupe::root_of(view.size(), workers(), progress, is_zero, read)?;
    root.ok_or(RehydrateError::Cancelled)
}

const _: () = assert!(SLAB.is_multiple_of(STEP), "a slab is written in whole steps");
