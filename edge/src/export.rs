//! A generation as a read-only block device: what is here is read from the local store, what is missing is fetched when somebody reads it.
//!
//! ```text
//!   host's file system ── NBD, a socket file ──► Exported ──► local store, where the generation is here
//!                                                   │
//!                                                   ├──► cache: grains of 64 KiB, in a file without a name
//!                                                   └──► pull ═══ gateway: grains that nobody has read yet
//! ```
//!
//! So whoever wants one file back mounts the device and copies it, and only what that reads crosses the line, inside of the policy, once.

use crate::daemon::Daemon;
use crate::files;
use crate::pipeline::blocking;
use crate::restore::pull::{Pull, PullError};
use crate::restore::{Both, Chosen, PlanError, nearest_of};
use crate::text;
use dedupe::{
    BLOCK, BlockNumber, BlockRun, ByteOffset, Content, GenerationId, SLAB, SlabNumber, Store, StoreError, Taken, View,
    Wanted,
};
use nbd::{Errno, Export, Failure, Status};
use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wire::message::{MAX_ABSENT, MAX_FETCH};

/// Bytes that are fetched and kept as one: what a file system reads around what it looks for, and a third of a second of a 2 Mbit/s line at 3 : 1.
const GRAIN: u64 = 64 << 10;
const BLOCKS: u64 = GRAIN / BLOCK as u64;
/// Bytes that the cache of one export may take on the disk of the state directory. What is read after that pushes out what was read first.
const CACHE: u64 = 4 << 30;
/// Grains of one question at most: 8 MiB.
const AT_ONCE: u64 = MAX_FETCH as u64 / BLOCKS;
/// Bytes of requests and answers in memory: one of the greatest length, 32 MiB, and some small ones beside it.
const REQUESTS: usize = 48 << 20;
/// Between two words to whoever asked for the export.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Why a generation is not served.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such generation, or it cannot be told.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The socket.
    #[error(
        "cannot listen on {path}: {source}; name a path that is not there yet, in a folder that the daemon may write to"
    )]
    Socket {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The cache.
    #[error("cannot make a cache in {path}: {source}")]
    Cache {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The socket's path.
    #[error("{0} has to be an absolute path, because the daemon runs in another directory")]
    Relative(PathBuf),
}

/// What is to be served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// The volume's name, or the id of a lineage.
    pub volume: String,
    /// `latest`, a number as the gateway counts, or an id.
    pub generation: String,
    /// Where the socket is made.
    pub socket: PathBuf,
    /// Who asks.
    pub actor: String,
}

/// What an export has cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// The generation.
    pub generation: String,
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes that were read through the socket.
    pub read_bytes: u64,
    /// Bytes that came over the line for it.
    pub fetched_bytes: u64,
}

/// Serves a generation until `until` is over or the daemon stops; `show` is told now and then what was read and fetched.
pub(crate) async fn serve(
    daemon: &Daemon,
    wish: &Wish,
    until: impl Future<Output = ()>,
    mut show: impl FnMut(String),
) -> Result<Served, ExportError> {
    let exported = Arc::new(Exported::open(daemon, wish).await?);
    let _noted = daemon.note_export();
    let (listener, _file) = listen(&wish.socket)?;
    let exports = nbd::Exports::new();
    exports.put("", exported.clone());
    let gone = exported.gone.clone();
    let _also_when_nobody_waits_for_this = gone.clone().drop_guard();
    let limits =
        nbd::Limits { connections: 16, workers: 4, bytes: REQUESTS, all_bytes: REQUESTS, ..Default::default() };
    let serving = nbd::serve(nbd::Listener::Unix(listener), exports, limits, None, gone.clone());
    tokio::pin!(serving, until);
    let mut clock = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            () = &mut serving => break,
            () = &mut until => {
                gone.cancel();
                serving.await;
                break;
            }
            _ = clock.tick() => show(exported.said(&wish.socket)),
        }
    }
    Ok(exported.served())
}

/// A socket to which only its owner may connect, and its file.
fn listen(path: &Path) -> Result<(UnixListener, SocketFile), ExportError> {
    if !path.is_absolute() {
        return Err(ExportError::Relative(path.to_owned()));
    }
    let failed = |source| ExportError::Socket { path: path.to_owned(), source };
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok((listener, file))
}

/// A socket's file, which is removed in the end.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.0);
    }
}

/// A generation that is served.
pub(crate) struct Exported {
    store: Arc<Store>,
    generation: GenerationId,
    size: u64,
    /// What the gateway is asked to build on; the generation itself where it is here.
    base: Option<GenerationId>,
    pull: Pull,
    cache: Mutex<Cache>,
    /// One question at a time: the line has room for one, and the next reader may find what it wants in the answer.
    asking: tokio::sync::Mutex<()>,
    read: AtomicU64,
    /// Nobody is served any more: whoever waits for the line is let go.
    gone: CancellationToken,
    runtime: Handle,
}

impl Exported {
    async fn open(daemon: &Daemon, wish: &Wish) -> Result<Exported, ExportError> {
        let both = Both::look(daemon, &wish.volume).await?;
        let (chosen, local, remote) = both.choose(&wish.volume, &wish.generation)?;
        let base = if chosen.is_here { Some(chosen.id) } else { nearest_of(&local, &remote, chosen.number) };
        let folder = daemon.config().state.join("restores");
        let name = format!("export-{}", GenerationId::random());
        let cache = folder.join(format!("{name}.cache"));
        let made = blocking(move || Cache::make(&cache)).await;
        let cache = made.map_err(|source| ExportError::Cache { path: folder.clone(), source })?;
        Ok(Exported::new(daemon, &chosen, base, cache, folder.join(format!("{name}.part")), wish.actor.clone()))
    }

    fn new(
        daemon: &Daemon,
        chosen: &Chosen,
        base: Option<GenerationId>,
        cache: Cache,
        part: PathBuf,
        actor: String,
    ) -> Exported {
        let store = daemon.disk().store.clone();
        Exported {
            generation: chosen.id,
            size: chosen.size,
            base,
            pull: Pull {
                link: daemon.link().clone(),
                store: store.clone(),
                part,
                actor,
                priority: true, // somebody waits for each block
                fetched: Arc::default(),
                waits: Arc::default(),
            },
            store,
            cache: Mutex::new(cache),
            asking: tokio::sync::Mutex::default(),
            read: AtomicU64::new(0),
            gone: daemon.stopping().child_token(),
            runtime: Handle::current(),
        }
    }

    fn served(&self) -> Served {
        Served {
            generation: self.generation.to_string(),
            size: self.size,
            read_bytes: self.read.load(Ordering::Relaxed),
            fetched_bytes: self.pull.fetched.load(Ordering::Relaxed),
        }
    }

    fn said(&self, socket: &Path) -> String {
        let Served { read_bytes, fetched_bytes, .. } = self.served();
        let waits = self.pull.waits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let waits = waits.map(|why| format!("; waits: {why}")).unwrap_or_default();
        let (read, fetched) = (text::bytes(read_bytes), text::bytes(fetched_bytes));
        format!("served at {}: {read} read, {fetched} over the line{waits}", socket.display())
    }

    /// The bytes of a grain range of the generation, from here or over the line, into the cache.
    async fn bring(&self, grains: Range<u64>) -> Result<(), Failure> {
        let _turn = self.asking.lock().await;
        let mut bare = false;
        loop {
            let Some(missing) = self.lock().missing(grains.clone()) else { return Ok(()) };
            let missing = missing.start..missing.end.min(missing.start + AT_ONCE);
            match self.bring_part(missing, bare).await? {
                Brought::Kept => bare = false,
                Brought::WithoutBase => bare = true,
            }
        }
    }

    async fn bring_part(&self, grains: Range<u64>, bare: bool) -> Result<Brought, Failure> {
        let blocks = self.size.div_ceil(BLOCK as u64);
        let (start, end) = (grains.start * BLOCKS, (grains.end * BLOCKS).min(blocks));
        let base = self.base.filter(|_| !bare);
        let wanted = Wanted {
            generation: self.generation,
            base,
            start: BlockNumber(start),
            end: BlockNumber(end),
            absent: self.absent(base, start, end).await?,
            held: Vec::new(),
            most: MAX_FETCH,
        };
        let part = tokio::select! {
            part = self.pull.part(&wanted) => part,
            () = self.gone.cancelled() => return Err(Failure::new(Errno::Eshutdown, "the export ends")),
        };
        let (taken, until) = match part {
            Ok(part) => part,
            Err(PullError::NoBase(_)) if !bare => {
                self.discard().await?;
                return Ok(Brought::WithoutBase);
            }
            Err(error) => return Err(Failure::new(Errno::Eio, error.to_string())),
        };
        // Only whole grains are kept: an answer that had no more room is asked for the rest.
        let ends = if until.0 == end { grains.end } else { until.0 / BLOCKS };
        if ends == grains.start {
            return Err(Failure::new(Errno::Eio, "the gateway brings less than one grain"));
        }
        let store = self.store.clone();
        let composed = blocking(move || {
            let view = base.map(|id| store.view(id)).transpose()?;
            let mut bytes = vec![0; ((ends - grains.start) * GRAIN) as usize];
            compose(view.as_ref(), &taken, start, &mut bytes)?;
            // A generation that was forgotten meanwhile was read as another one.
            base.map(|id| store.view(id)).transpose()?;
            Ok::<_, StoreError>((grains.start, bytes))
        });
        match composed.await {
            Ok((first, bytes)) => {
                self.lock().keep(first, &bytes)?;
                self.discard().await?;
                Ok(Brought::Kept)
            }
            Err(error) if !bare => {
                tracing::warn!(%error, "the local store does not help with a part of an export");
                self.discard().await?;
                Ok(Brought::WithoutBase)
            }
            Err(error) => Err(Failure::new(Errno::Eio, error.to_string())),
        }
    }

    async fn absent(&self, base: Option<GenerationId>, start: u64, end: u64) -> Result<Vec<BlockRun>, Failure> {
        let Some(base) = base else { return Ok(Vec::new()) };
        let store = self.store.clone();
        let absent = blocking(move || match store.generation(base)? {
            Some(generation) => store.absent(&generation, BlockNumber(start), BlockNumber(end), MAX_ABSENT),
            None => Ok((Vec::new(), BlockNumber(end))), // found missing when it is built on
        });
        match absent.await {
            Ok((runs, _)) => Ok(runs),
            Err(error) => Err(Failure::new(Errno::Eio, error.to_string())),
        }
    }

    async fn discard(&self) -> Result<(), Failure> {
        self.pull.discard().await.map_err(|error| Failure::new(Errno::Eio, error.to_string()))
    }

    /// Reads from the local store, where the generation is here with all that is asked for.
    fn read_here(&self, at: u64, into: &mut [u8]) -> bool {
        if self.base != Some(self.generation) {
            return false;
        }
        let read = self.store.view(self.generation).and_then(|view| view.read(ByteOffset(at), into));
        read.is_ok() && self.store.view(self.generation).is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        // What is noted as kept was written before.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Brought {
    Kept,
    WithoutBase,
}

/// The bytes of blocks from `start` on: the base's, but for what was taken.
fn compose(base: Option<&View>, taken: &Taken, start: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
    let (first, end) = (start * BLOCK as u64, start * BLOCK as u64 + bytes.len() as u64);
    let within = |run: &BlockRun| {
        let (from, to) = (run.first.offset().0.max(first), (run.first.0 + run.count) * BLOCK as u64);
        from..to.min(end).max(from)
    };
    if let Some(base) = base {
        // Run by run, so that blocks that are gone and were taken are not asked for here.
        let replaced: BTreeSet<u64> = taken
            .data
            .iter()
            .map(|(run, _)| run)
            .chain(&taken.zero)
            .flat_map(|run| run.first.0..run.first.0 + run.count)
            .collect();
        let here = |block: &u64| !replaced.contains(block);
        for block in (start..start + (bytes.len() / BLOCK) as u64).filter(here) {
            let at = ((block - start) as usize) * BLOCK;
            base.read(BlockNumber(block).offset(), &mut bytes[at..at + BLOCK])?;
        }
    }
    for (run, at) in &taken.data {
        let range = within(run);
        let from = at + (range.start - run.first.offset().0.min(range.start)) as usize;
        let to = (range.start - first) as usize;
        let len = (range.end - range.start) as usize;
        bytes[to..to + len].copy_from_slice(&taken.bytes[from..from + len]);
    }
    Ok(())
}

impl Export for Exported {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Failure> {
        self.read.fetch_add(into.len() as u64, Ordering::Relaxed);
        if into.is_empty() || self.read_here(at, into) {
            return Ok(());
        }
        let end = at + into.len() as u64;
        // In steps that the cache holds at once, so that what one needs is not pushed out by the next.
        let mut from = at;
        while from < end {
            let to = end.min((from / GRAIN + AT_ONCE) * GRAIN);
            let grains = from / GRAIN..to.div_ceil(GRAIN);
            let part = &mut into[(from - at) as usize..(to - at) as usize];
            loop {
                if self.lock().read(grains.clone(), from, part)? {
                    break;
                }
                self.runtime.block_on(self.bring(grains.clone()))?;
            }
            from = to;
        }
        Ok(())
    }

    fn write(&self, _at: u64, _bytes: &[u8]) -> Result<(), Failure> {
        Err(Failure::read_only())
    }

    fn zero(&self, _range: Range<u64>, _may_trim: bool) -> Result<(), Failure> {
        Err(Failure::read_only())
    }

    fn trim(&self, _range: Range<u64>) -> Result<(), Failure> {
        Err(Failure::read_only())
    }

    fn flush(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Holes are known where the generation is here; of the rest nothing is known before it is fetched.
    fn status(&self, range: Range<u64>) -> Result<Vec<(u64, Status)>, Failure> {
        let all = vec![(range.end - range.start, Status::Data)];
        if self.base != Some(self.generation) {
            return Ok(all);
        }
        let slab = SlabNumber(range.start / SLAB as u64);
        let runs = self.store.view(self.generation).and_then(|view| view.runs(slab));
        let Ok(runs) = runs else { return Ok(all) };
        let extents = runs.into_iter().filter_map(|(run, content)| {
            let len = run.end.min(range.end).saturating_sub(run.start.max(range.start));
            let status = if content == Content::Zero { Status::Hole } else { Status::Data };
            (len > 0).then_some((len, status))
        });
        let extents: Vec<(u64, Status)> = extents.collect();
        Ok(if extents.is_empty() { all } else { extents })
    }
}

/// Grains that were fetched, in a file without a name: it is gone with the daemon.
#[derive(Debug)]
struct Cache {
    file: File,
    held: BTreeSet<u64>,
    /// In the order in which they came.
    order: VecDeque<u64>,
    most: usize,
}

impl Cache {
    fn make(path: &Path) -> io::Result<Cache> {
        let file = files::nameless(path)?;
        Ok(Cache { file, held: BTreeSet::new(), order: VecDeque::new(), most: (CACHE / GRAIN) as usize })
    }

    /// The first run of grains that is not held; `None`: all are.
    fn missing(&self, grains: Range<u64>) -> Option<Range<u64>> {
        let start = grains.clone().find(|grain| !self.held.contains(grain))?;
        let end = (start..grains.end).find(|grain| self.held.contains(grain)).unwrap_or(grains.end);
        Some(start..end)
    }

    /// Fills `into` with the bytes at `at`, which lie within `grains`, if all of these are held.
    fn read(&self, grains: Range<u64>, at: u64, into: &mut [u8]) -> Result<bool, Failure> {
        if self.missing(grains).is_some() {
            return Ok(false);
        }
        self.file.read_exact_at(into, at)?;
        Ok(true)
    }

    /// Keeps whole grains from number `first` on.
    fn keep(&mut self, first: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all_at(bytes, first * GRAIN)?;
        for grain in first..first + bytes.len() as u64 / GRAIN {
            if self.held.insert(grain) {
                self.order.push_back(grain);
            }
        }
        while self.order.len() > self.most {
            let Some(oldest) = self.order.pop_front() else { break };
            self.held.remove(&oldest);
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // Where holes cannot be made the room is used anew by nobody; that costs room and nothing else.
            let _kept = fallocate(&self.file, flags, (oldest * GRAIN) as i64, GRAIN as i64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(most: usize) -> Cache {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let cache = Cache { most, ..Cache::make(&path).unwrap() };
        assert!(!path.exists(), "it has no name");
        cache
    }

    #[test]
    fn a_cache_gives_what_it_was_given_and_forgets_the_oldest() {
        let mut cache = cache(3);
        let grain = |byte: u8| vec![byte; GRAIN as usize];
        assert_eq!(cache.missing(4..9), Some(4..9));
        cache.keep(5, &[grain(5), grain(6)].concat()).unwrap();
        assert_eq!(cache.missing(4..9), Some(4..5));
        assert_eq!(cache.missing(5..9), Some(7..9));
        let mut bytes = [0; 10];
        assert!(cache.read(5..7, 6 * GRAIN - 5, &mut bytes).unwrap());
        assert_eq!(bytes, [5, 5, 5, 5, 5, 6, 6, 6, 6, 6]);
        assert!(!cache.read(6..8, 7 * GRAIN - 5, &mut bytes).unwrap());
        cache.keep(8, &[grain(8), grain(9)].concat()).unwrap();
        assert_eq!(cache.missing(5..10), Some(5..6), "the oldest is gone");
        assert_eq!(cache.missing(6..7), None);
    }

    #[test]
    fn taken_blocks_lie_where_they_belong() {
        let run = |first, count| BlockRun { first: BlockNumber(first), count };
        let bytes: Vec<u8> = (1..=5u8).flat_map(|byte| vec![byte; BLOCK]).collect();
        // Two blocks of the part's end, and of a run that goes on behind it.
        let taken = Taken { data: vec![(run(100, 1), 0), (run(103, 4), BLOCK)], zero: Vec::new(), bytes };
        let mut into = vec![9; 5 * BLOCK];
        into.fill(0);
        compose(None, &taken, 100, &mut into).unwrap();
        let firsts: Vec<u8> = into.chunks(BLOCK).map(|block| block[0]).collect();
        assert_eq!(firsts, [1, 0, 0, 2, 3]);
        assert!(into.chunks(BLOCK).all(|block| block.iter().all(|byte| *byte == block[0])));
    }
}
