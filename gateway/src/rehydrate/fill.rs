//! Writing: by several threads, no faster than agreed, and so that a killed run goes on from the last byte that is durable.

use super::extents::Extents;
use super::runs::Phase;
use super::{RehydrateError, Rehydration};
use dedupe::{BLOCK, BlockNumber, BlockRun, ByteOffset, Content, Progress};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use targets::Filling;

/// Bytes between two moments at which everything before is made durable and noted. A killed run writes so much again, and what was written while the
/// last of these moments went on. The others write meanwhile, so a disk that is synced this often still runs at its full speed.
const NOTED_EVERY: u64 = 64 << 20;
/// A wait for the rate is cut into pieces so long, so that stopping does not wait for it.
const PATIENCE: Duration = Duration::from_millis(100);

/// Which stretches are done, so that everything below a byte can be said to be.
struct Done {
    finished: BTreeSet<usize>,
    /// Stretches from the first on that are all done.
    low: usize,
    since_noted: u64,
    /// Somebody makes durable what is done; the others go on meanwhile.
    is_noting: bool,
}

/// Writes what has to be written, from where the run stopped.
pub(super) fn write(
    rehydration: &Rehydration<'_>,
    filling: &dyn Filling,
    extents: &Extents,
    progress: &Progress,
) -> Result<(), RehydrateError> {
    let up_to = match rehydration.run().phase {
        Phase::Writing { up_to } => up_to,
        _ => return Ok(()),
    };
    let mut stretches = extents.stretches()?;
    stretches.retain(|start| *start >= up_to);
    progress.done.store(0, Ordering::Relaxed);
    let todo = rehydration.plan.data_bytes + rehydration.plan.zero_bytes;
    progress.total.store(if extents.scope().is_all() { rehydration.plan.size } else { todo }, Ordering::Relaxed);
    progress.add(if extents.scope().is_all() { up_to } else { 0 });
    let shape = rehydration.asked.target.shape();
    let pace = Pace::new(rehydration.asked.limits.bytes_per_second, shape.most);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Done { finished: BTreeSet::new(), low: 0, since_noted: 0, is_noting: false });
    let work = || -> Result<(), RehydrateError> {
        let mut batch = Batch::new(shape.most);
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(stretch) = stretches.get(at) else { return Ok(()) };
            if at == stretches.len() / 2 {
                dedupe::crash_point("gateway.rehydrate.middle");
            }
            let (mut written, mut covered) = (0, *stretch);
            for (range, content) in extents.of(*stretch)? {
                stop_if(progress)?;
                if extents.scope().is_all() {
                    progress.add(range.end - covered); // holes between count as done
                    covered = range.end;
                }
                match content {
                    Content::Zero => filling.zero(range.clone())?,
                    Content::Data => {
                        written += range.end - range.start;
                        for start in range.clone().step_by(shape.most) {
                            let piece = start..range.end.min(start + shape.most as u64);
                            if !batch.takes(&piece) {
                                batch.write(rehydration, filling, &pace, progress)?;
                            }
                            batch.add(piece);
                        }
                    }
                }
                if !extents.scope().is_all() {
                    progress.add(range.end - range.start);
                }
            }
            batch.write(rehydration, filling, &pace, progress)?;
            note(rehydration, filling, &done, (at, written), &stretches)?;
        }
    };
    in_parallel(shape.parallel.min(stretches.len().max(1)), work)?;
    let rest = done.into_inner().expect("no worker panicked").since_noted;
    rehydration.change(|run| run.written += rest)
}

/// Pieces that are read out of the store at once, so that a chunk that reaches into several of them is unpacked once.
struct Batch {
    pieces: Vec<Range<u64>>,
    /// Blocks of the pieces, in bytes.
    len: usize,
    buffer: Vec<u8>,
}

impl Batch {
    /// For so many bytes, whole blocks, and at least one piece.
    fn new(most: usize) -> Batch {
        Batch { pieces: Vec::new(), len: 0, buffer: vec![0; most.next_multiple_of(BLOCK)] }
    }

    /// Bytes of whole blocks that a piece needs: only a volume's last piece ends within one.
    fn room(piece: &Range<u64>) -> usize {
        ((piece.end - piece.start) as usize).next_multiple_of(BLOCK)
    }

    fn takes(&self, piece: &Range<u64>) -> bool {
        self.len + Self::room(piece) <= self.buffer.len()
    }

    fn add(&mut self, piece: Range<u64>) {
        self.len += Self::room(&piece);
        self.pieces.push(piece);
    }

    fn write(
        &mut self,
        rehydration: &Rehydration<'_>,
        filling: &dyn Filling,
        pace: &Pace,
        progress: &Progress,
    ) -> Result<(), RehydrateError> {
        let run = |piece: &Range<u64>| BlockRun {
            first: BlockNumber(piece.start / BLOCK as u64),
            count: (Self::room(piece) / BLOCK) as u64,
        };
        let runs: Vec<BlockRun> = self.pieces.iter().map(run).collect();
        let bytes = &mut self.buffer[..self.len];
        bytes.fill(0);
        rehydration.view.read_blocks(&runs, bytes)?;
        let mut from = 0;
        for piece in self.pieces.drain(..) {
            let len = (piece.end - piece.start) as usize;
            pace.take(len, progress)?;
            filling.apply(ByteOffset(piece.start), &bytes[from..from + len])?;
            progress.stored.fetch_add(len as u64, Ordering::Relaxed);
            from += Self::room(&piece);
        }
        self.len = 0;
        Ok(())
    }
}

/// A stretch is done. Now and then everything before is made durable and noted.
fn note(
    rehydration: &Rehydration<'_>,
    filling: &dyn Filling,
    all: &Mutex<Done>,
    (at, written): (usize, u64),
    stretches: &[u64],
) -> Result<(), RehydrateError> {
    let mut lock = all.lock().expect("no holder panics");
    let done = &mut *lock;
    done.finished.insert(at);
    done.since_noted += written;
    loop {
        let low = done.low;
        if !done.finished.remove(&low) {
            break;
        }
        done.low += 1;
    }
    if done.since_noted < NOTED_EVERY || done.is_noting {
        return Ok(());
    }
    let Some(up_to) = stretches.get(done.low).copied() else { return Ok(()) };
    let written = std::mem::take(&mut done.since_noted);
    // One at a time: nobody notes less after more. Everything below `up_to` was written before this flush begins.
    done.is_noting = true;
    drop(lock);
    let noted = filling.flush().map_err(RehydrateError::from).and_then(|()| {
        rehydration.change(|run| {
            run.written += written;
            run.phase = Phase::Writing { up_to };
        })
    });
    all.lock().expect("no holder panics").is_noting = false;
    noted
}

fn stop_if(progress: &Progress) -> Result<(), RehydrateError> {
    if progress.is_cancelled() { Err(RehydrateError::Cancelled) } else { Ok(()) }
}

/// How fast is written.
struct Pace(Option<DefaultDirectRateLimiter>);

impl Pace {
    fn new(rate: Option<std::num::NonZeroU64>, most: usize) -> Pace {
        let quota = rate.map(|rate| {
            let rate = NonZeroU32::try_from(u32::try_from(rate.get()).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MAX);
            let burst = NonZeroU32::new(u32::try_from(most).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(rate).allow_burst(burst)
        });
        Pace(quota.map(RateLimiter::direct))
    }

    /// Waits until so many bytes may be written.
    fn take(&self, bytes: usize, progress: &Progress) -> Result<(), RehydrateError> {
        let (Some(limiter), Some(bytes)) = (&self.0, u32::try_from(bytes).ok().and_then(NonZeroU32::new)) else {
            return Ok(());
        };
        let clock = DefaultClock::default();
        while let Err(wait) = limiter.check_n(bytes).expect("a piece is never larger than the burst") {
            stop_if(progress)?;
            std::thread::sleep(wait.wait_time_from(clock.now()).min(PATIENCE));
        }
        Ok(())
    }
}

/// Runs `work` on several threads; each takes its share by itself. The first error is returned.
pub(super) fn in_parallel<E: Send>(threads: usize, work: impl Fn() -> Result<(), E> + Sync) -> Result<(), E> {
    let results: Vec<Result<(), E>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(&work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    results.into_iter().collect()
}
