//! Reading back: the proof that a target holds what it should.

use super::RehydrateError;
use super::extents::Extents;
use super::fill::in_parallel;
use dedupe::{ByteCount, ByteOffset, Content, GenerationId, Progress, Root, SLAB, SlabNumber, Store, View};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use targets::raw::Whole;
use targets::{Filling, TargetError};

/// Bytes that are read at once.
const STEP: usize = 1 << 20;
/// Threads at most that read an image of this machine.
const MOST_PARALLEL: usize = 8;

/// All of it, as a root; `None` when it was cancelled.
pub(super) fn whole(
    filling: &dyn Filling,
    size: ByteCount,
    parallel: usize,
    progress: &Progress,
) -> Result<Option<Root>, RehydrateError> {
    progress.done.store(0, Ordering::Relaxed);
    let hole = |start, len| filling.is_hole(start..start + len);
    let read = |at, buffer: &mut [u8]| filling.read(ByteOffset(at), buffer);
    Ok(dedupe::root_of(size, parallel, progress, hole, read)?)
}

/// What was written, and `share` per cent of the steps of the rest, compared with the store. Returns the bytes that were compared, or the first byte of a step
/// that is something else.
pub(super) fn parts(
    filling: &dyn Filling,
    view: &View,
    extents: &Extents,
    share: u8,
    progress: &Progress,
) -> Result<Result<u64, u64>, RehydrateError> {
    let steps = steps(view, extents, share)?;
    let total: u64 = steps.iter().map(|step| step.end - step.start).sum();
    progress.done.store(0, Ordering::Relaxed);
    progress.total.store(total, Ordering::Relaxed);
    let next = AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(None);
    in_parallel(parallel(), || -> Result<(), RehydrateError> {
        let (mut found, mut wanted) = (vec![0; STEP], vec![0; STEP]);
        while let Some(step) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
            if progress.is_cancelled() {
                return Err(RehydrateError::Cancelled);
            }
            let len = (step.end - step.start) as usize;
            filling.read(ByteOffset(step.start), &mut found[..len])?;
            view.read(ByteOffset(step.start), &mut wanted[..len])?;
            if found[..len] != wanted[..len] {
                *wrong.lock().expect("it is only set") = Some(step.start);
                return Ok(());
            }
            progress.add(len as u64);
        }
        Ok(())
    })?;
    let wrong = *wrong.lock().expect("it is only set");
    Ok(wrong.map_or(Ok(total), Err))
}

/// Steps to compare, ascending.
fn steps(view: &View, extents: &Extents, share: u8) -> Result<Vec<Range<u64>>, RehydrateError> {
    let mut steps: Vec<Range<u64>> = Vec::new();
    for stretch in extents.stretches()? {
        for (range, _) in extents.of(stretch)? {
            let starts = range.clone().step_by(STEP);
            steps.extend(starts.map(|start| start..(start + STEP as u64).min(range.end)));
        }
    }
    let size = view.size().0;
    if share > 0 {
        let all = size.div_ceil(STEP as u64);
        let wanted = (all * u64::from(share)).div_ceil(100);
        for _ in 0..wanted {
            let mut random = [0; 8];
            getrandom::fill(&mut random).expect("the operating system has a random source");
            let start = u64::from_le_bytes(random) % all.max(1) * STEP as u64;
            steps.push(start..(start + STEP as u64).min(size));
        }
        steps.sort_unstable_by_key(|step| step.start);
        steps.dedup();
    }
    Ok(steps)
}

fn parallel() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST_PARALLEL)
}

/// Reads an image and computes its root, holes at memory speed; `None` when it was cancelled.
pub fn root_of_image(path: &Path, progress: &Progress) -> Result<Option<Root>, TargetError> {
    let image = Whole::open(path)?;
    let hole = |start, len| image.is_hole(start, len);
    dedupe::root_of(image.size(), parallel(), progress, hole, |at, buffer| image.read(at, buffer))
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
    let root = dedupe::root_of(view.size(), parallel(), progress, is_zero, read)?;
    root.ok_or(RehydrateError::Cancelled)
}
