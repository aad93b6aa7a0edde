//! One restore at work: part after part is brought here and put into its place, then all of it is read back.
//!
//! ```text
//!   Writing ──all in place──► Proving ──root is right──► Done
//!      ▲                        │ wrong once: everything anew, all of it from the gateway
//!      └────────────────────────┘ wrong again: Failed
//! ```
//!
//! Everything before the record's cursor is in its place, durably. A step that was cut off, at whatever point, is done again from the cursor: the same blocks
//! get the same bytes, and the parcel that it needs is on the disk already.

use super::place::{PlaceError, place};
use super::pull::{Pull, PullError};
use super::record::{Phase, Record};
use super::target::{Target, TargetError, is_named};
use crate::files;
use crate::pipeline::blocking;
use dedupe::{BlockNumber, ByteCount, GenerationId, Progress, Root, Store, StoreError, Taken, Wanted, crash_point};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::message::{MAX_ABSENT, MAX_FETCH};

/// Blocks of one step at most, 1 GiB: what is read from the local store again when the process is killed.
const SPAN: u64 = (1 << 30) / 4096;
/// After a full disk, an old gateway or a base that cannot be told it is looked again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// Why a restore ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// What is needed cannot be had.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The local store.
    #[error("the local store: {0}")]
    Store(#[from] StoreError),
    /// The record.
    #[error("cannot note how far the restore is in {path}: {source}")]
    Record {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What was read back is something else, again.
    #[error(
        "what was written reads back as {found} instead of {wanted}, also when all of it came from the gateway: the target's disk does not keep what is written to it, or something else writes to it"
    )]
    Unproved {
        /// What it hashes to.
        found: Root,
        /// What it should hash to.
        wanted: Root,
    },
    /// The daemon stops, or somebody cancelled.
    #[error("stopped")]
    Stopped,
}

/// A restore of the running daemon.
pub(crate) struct Job {
    pub(super) store: Arc<Store>,
    pub(super) folder: PathBuf,
    record: Mutex<Record>,
    /// Ends it for good.
    pub(super) cancelled: CancellationToken,
    /// Bytes read back, and whether to stop.
    pub(super) progress: Arc<Progress>,
    pub(super) fetched: Arc<AtomicU64>,
    pub(super) waits: Arc<Mutex<Option<String>>>,
    /// Since when it runs in this process, and how far it was then: blocks in place, bytes fetched.
    pub(super) began: (Instant, u64, u64),
    pub(super) over: watch::Sender<bool>,
}

impl Job {
    pub(super) fn new(record: Record, store: Arc<Store>, folder: PathBuf) -> Job {
        Job {
            store,
            folder,
            cancelled: CancellationToken::new(),
            progress: Arc::default(),
            fetched: Arc::new(AtomicU64::new(record.fetched)),
            waits: Arc::default(),
            began: (Instant::now(), record.cursor.0, record.fetched),
            over: watch::Sender::new(record.phase.is_over()),
            record: Mutex::new(record),
        }
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Record {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // Each change is one assignment of what is true.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record, durably.
    pub(super) async fn note(&self, change: impl FnOnce(&mut Record)) -> Result<(), JobError> {
        let record = {
            let mut record = self.lock();
            change(&mut record);
            record.fetched = self.fetched.load(Ordering::Relaxed);
            record.clone()
        };
        let folder = self.folder.clone();
        let stored = blocking(move || record.store(&folder)).await;
        stored.map_err(|source| JobError::Record { path: self.folder.clone(), source })
    }

    fn is_stopping(&self) -> bool {
        self.progress.is_cancelled()
    }

    /// Works until it is over. What can pass is waited for.
    pub(super) async fn work(&self, pull: &Pull) -> Result<(), JobError> {
        loop {
            let phase = self.record().phase;
            let worked = match phase {
                Phase::Writing => self.write(pull).await,
                Phase::Proving => self.prove().await,
                Phase::Done { .. } | Phase::Failed { .. } | Phase::Cancelled => return Ok(()),
            };
            match worked {
                Err(error) if passes(&error) => {
                    tracing::warn!(%error, "a restore waits");
                    self.wait_for(Some(error.to_string()));
                    self.pause().await?;
                }
                worked => worked?,
            }
        }
    }

    async fn pause(&self) -> Result<(), JobError> {
        let deadline = Instant::now() + AGAIN;
        while Instant::now() < deadline {
            if self.is_stopping() {
                return Err(JobError::Stopped);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn write(&self, pull: &Pull) -> Result<(), JobError> {
        let record = self.record();
        let (to, size, stamp) = (record.to.clone(), record.size, record.stamp);
        let (target, is_new) = blocking(move || Target::open(&to, size, stamp)).await?;
        let target = Arc::new(target);
        self.note(|record| {
            record.stamp = Some(target.stamp());
            if is_new {
                record.cursor = BlockNumber(0);
            }
        })
        .await?;
        let end = ByteCount(record.size).blocks();
        let mut help = Help::default();
        while self.record().cursor.0 < end {
            if self.is_stopping() {
                return Err(JobError::Stopped);
            }
            let base = match self.record().whole {
                true => None,
                false => self.base(pull, &mut help).await?,
            };
            self.step(pull, &target, base, &mut help, BlockNumber(end)).await?;
        }
        blocking(move || target.sync()).await?;
        self.note(|record| record.phase = Phase::Proving).await
    }

    /// What the gateway is asked to build on: the generation itself where it is here, else the nearest one that both ends hold.
    async fn base(&self, pull: &Pull, help: &mut Help) -> Result<Option<GenerationId>, JobError> {
        let (store, record, known) = (self.store.clone(), self.record(), help.base);
        let is_here = move |id| store.generation(id).map(|found| found.is_some_and(|found| found.is_sealed()));
        let looked = is_here.clone();
        if blocking(move || looked(record.generation)).await? {
            return Ok(Some(record.generation));
        }
        if let Some(base) = known {
            match base {
                Some(id) if !blocking(move || is_here(id)).await? => {}
                base => return Ok(base),
            }
        }
        let base = super::nearest(&self.store, pull, record.lineage, record.generation);
        let base = tokio::select! {
            base = base => base?,
            () = self.stopped() => return Err(JobError::Stopped),
        };
        help.base = Some(base);
        Ok(base)
    }

    async fn stopped(&self) {
        while !self.is_stopping() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Brings one part here, if anything of it is missing, and puts it into its place.
    async fn step(
        &self,
        pull: &Pull,
        target: &Arc<Target>,
        base: Option<GenerationId>,
        help: &mut Help,
        end: BlockNumber,
    ) -> Result<(), JobError> {
        let record = self.record();
        let span_end = BlockNumber((record.cursor.0 + SPAN).min(end.0));
        let base = base.filter(|_| !help.bare);
        let asked = self.wanted(&record, base, span_end, help).await?;
        let (taken, until) = match asked {
            Asked::Nothing(until) => (Taken::default(), until),
            Asked::Part(wanted) => {
                let part = tokio::select! {
                    part = pull.part(&wanted) => part,
                    () = self.stopped() => return Err(JobError::Stopped),
                };
                match part {
                    Ok(part) => part,
                    Err(PullError::NoBase(id)) => {
                        tracing::info!(base = %id, "a part is fetched without it");
                        help.missing(&wanted);
                        return Ok(pull.discard().await?);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let (store, place_on, progress) = (self.store.clone(), target.clone(), self.progress.clone());
        let cursor = record.cursor;
        let placed = blocking(move || {
            let view = base.map(|id| store.view(id)).transpose().map_err(PlaceError::Base)?;
            place(&place_on, view.as_ref(), &taken, cursor..until, &progress)?;
            place_on.sync()?;
            // A generation that was forgotten meanwhile was read as another one.
            base.map(|id| store.view(id)).transpose().map_err(PlaceError::Base)?;
            Ok::<_, PlaceError>(())
        });
        match placed.await {
            Ok(()) => {}
            Err(PlaceError::Stopped) => return Err(JobError::Stopped),
            Err(PlaceError::Target(error)) => return Err(error.into()),
            Err(PlaceError::Base(error)) => {
                tracing::warn!(%error, "the local store does not help with a part: all of it is fetched");
                help.bare = true;
                return Ok(pull.discard().await?);
            }
        }
        crash_point("edge.restore.placed");
        *help = Help { bare: false, ..*help };
        self.note(|record| record.cursor = until).await?;
        Ok(pull.discard().await?)
    }

    /// What has to be asked for so that the next blocks can be put into their places.
    async fn wanted(
        &self,
        record: &Record,
        base: Option<GenerationId>,
        end: BlockNumber,
        help: &Help,
    ) -> Result<Asked, JobError> {
        let mut wanted = Wanted {
            generation: record.generation,
            base,
            start: record.cursor,
            end,
            absent: Vec::new(),
            held: Vec::new(),
            most: MAX_FETCH,
        };
        let Some(base) = base else { return Ok(Asked::Part(wanted)) };
        let (store, start) = (self.store.clone(), record.cursor);
        let looked = blocking(move || match store.generation(base)? {
            Some(generation) => store.absent(&generation, start, end, MAX_ABSENT),
            None => Err(StoreError::NoGeneration(base)),
        });
        (wanted.absent, wanted.end) = looked.await?;
        if base == record.generation {
            let clear = wanted.absent.first().map_or(wanted.end, |run| run.first);
            if clear > start {
                return Ok(Asked::Nothing(clear));
            }
        } else if wanted.absent.is_empty() && !help.no_copies {
            wanted.held = vec![base];
        }
        Ok(Asked::Part(wanted))
    }

    async fn prove(&self) -> Result<(), JobError> {
        let record = self.record();
        self.wait_for(None);
        let (progress, to, size, stamp) = (self.progress.clone(), record.to.clone(), record.size, record.stamp);
        progress.done.store(0, Ordering::Relaxed);
        let read = blocking(move || {
            if is_named(&to, stamp) {
                return Ok(None);
            }
            let (target, is_new) = Target::open(&to, size, stamp)?;
            // A file that vanished before it was proved has to be written anew.
            let root = if is_new { None } else { Some(target.root(&progress)?) };
            Ok::<_, TargetError>(Some((target, root)))
        });
        let done = |record: &mut Record| record.phase = Phase::Done { at: wire::clock::machine_time().0 };
        // It was proved and named, and the daemon killed before it noted that.
        let Some((target, found)) = read.await? else { return self.note(done).await };
        match found {
            None => self.note(|record| (record.phase, record.cursor) = (Phase::Writing, BlockNumber(0))).await,
            Some(None) => Err(JobError::Stopped),
            Some(Some(found)) if found == record.root => {
                blocking(move || target.finish()).await?;
                crash_point("edge.restore.named");
                self.note(done).await
            }
            Some(Some(found)) if record.whole => Err(JobError::Unproved { found, wanted: record.root }),
            Some(Some(found)) => {
                tracing::error!(%found, wanted = %record.root, "a restored volume reads back as something else; all of it is fetched from the gateway");
                let anew = |record: &mut Record| {
                    (record.whole, record.cursor, record.phase) = (true, BlockNumber(0), Phase::Writing);
                };
                self.note(anew).await
            }
        }
    }

    fn wait_for(&self, what: Option<String>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// What it waits for.
    pub(super) fn waits(&self) -> Option<String> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a step asks for.
enum Asked {
    /// Nothing: up to this block all is here.
    Nothing(BlockNumber),
    /// This.
    Part(Wanted),
}

/// How far the local store helps.
#[derive(Clone, Copy, Default)]
struct Help {
    /// The base that was chosen; `Some(None)`: there is none.
    base: Option<Option<GenerationId>>,
    /// The next part is fetched as if nothing were here.
    bare: bool,
    /// Blocks are not copied from elsewhere any more.
    no_copies: bool,
}

impl Help {
    /// What this question built on is missing at one of the ends.
    fn missing(&mut self, wanted: &Wanted) {
        match wanted.held.is_empty() {
            true => self.bare = true,
            false => self.no_copies = true,
        }
    }
}

/// Whether waiting can help.
fn passes(error: &JobError) -> bool {
    match error {
        JobError::Pull(PullError::Old) => true,
        JobError::Pull(PullError::File { source, .. }) | JobError::Record { source, .. } => files::is_no_room(source),
        JobError::Target(TargetError::Io { source, .. }) => files::is_no_room(source),
        JobError::Store(StoreError::NoGeneration(_)) => true, // forgotten between two looks: another base is chosen
        _ => false,
    }
}
