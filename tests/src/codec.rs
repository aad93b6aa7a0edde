//! The codec between two stores of this process: capture, plan, ask, encode, ingest, seal, without daemons and without a line.
//!
//! Shows what the codec costs and reaches by itself; [`crate::wan`] has the figures that count.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dedupe::{
    BlockNumber, ByteCount, Effort, Encoder, GenerationId, Job, Keys, Kind, Lineage, LineageId, LocalPacks, Mark,
    NewGeneration, Progress, Root, Store, StoreOptions, UnixMillis, Workspace,
};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sluice_edge::budget::Budget;
use sluice_edge::capture::sample::Sampling;
use sluice_edge::capture::{Capture, Captured, OnReadError};
use sluice_edge::journal::Journal;
use sluice_edge::source::Source;
use sluice_edge::source::file::FileSource;

/// One end of a codec under test: a store in a folder.
pub struct End {
    folder: PathBuf,
    /// The store.
    pub store: Arc<Store>,
}

impl End {
    /// A new store in `folder`.
    pub fn make(folder: &Path, options: StoreOptions) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let packs = Arc::new(LocalPacks::open(&folder.join("packs"))?);
        let store = Store::open(&folder.join("index.redb"), packs, Keys::new(1, [7; 32]), options)?;
        Ok(Self { folder: folder.to_path_buf(), store })
    }
}

/// A site's volume with its end, and what it took to bring a generation across.
pub struct Sender {
    end: End,
    journal: Journal,
    encoder: Encoder,
    lineage: LineageId,
    held: Vec<GenerationId>,
    workers: usize,
}

/// What one generation took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The volume.
    pub volume: String,
    /// `seed`, or `g0-g1` and so on.
    pub step: String,
    /// Bytes of all parcels.
    pub coded: u64,
    /// Bytes of questions and answers: six for a mark asked, 24 for a run found.
    pub asked: u64,
    /// Parcels.
    pub parcels: u32,
    /// Bytes that were coded, referred to, and zeroed.
    pub fresh: u64,
    /// Bytes that travelled as references.
    pub copied: u64,
    /// Bytes of blocks that changed.
    pub dirty: u64,
    /// Seconds and CPU seconds of the capture.
    pub capture: [f64; 2],
    /// CPU seconds: choosing bases, zstd.
    pub encode: [f64; 2],
    /// CPU seconds of the receiver.
    pub ingest_cpu: f64,
    /// Bytes of prefix that the receiver built.
    pub prefix: u64,
}

impl Figures {
    /// Bytes that would travel, before packets and encryption.
    pub fn total(&self) -> u64 {
        self.coded + self.asked
    }
}

impl Sender {
    /// A volume called `name` in a store of its own, with the memory that an edge with this ceiling has.
    pub fn make(folder: &Path, name: &str, memory: ByteCount, workers: usize) -> Result<Self> {
        let budget = Budget::of(memory, workers);
        let options = StoreOptions {
            index_cache: budget.index_cache,
            record_cache: budget.record_cache,
            pack_target: budget.pack,
        };
        let end = End::make(folder, options)?;
        let lineage = LineageId::random();
        end.store.put_lineage(&Lineage {
            id: lineage,
            kind: Kind::Volume,
            name: name.into(),
            site: None,
            fork_of: None,
        })?;
        let journal = Journal::open(&end.folder.join("spool.redb"))?;
        let encoder = Encoder::new(Arc::clone(&end.store), budget.encoder_options(ByteCount(200_000_000_000)));
        Ok(Self { end, journal, encoder, lineage, held: Vec::new(), workers })
    }

    /// Captures `image` as the next generation.
    pub fn capture(&self, image: &Path) -> Result<Captured> {
        self.capture_from(&FileSource::open(image)?, &image.display().to_string(), Sampling::default())
    }

    /// Captures `source`, which messages call `place`, as the next generation.
    pub fn capture_from(&self, source: &dyn Source, place: &str, sampling: Sampling) -> Result<Captured> {
        let capture = Capture {
            store: &self.end.store,
            journal: &self.journal,
            lineage: self.lineage,
            source,
            place: place.into(),
            workers: self.workers,
            on_read_error: OnReadError::Stop,
            sampling,
            progress: &Progress::default(),
        };
        Ok(capture.run(|| UnixMillis(1))?)
    }

    /// The first parcel of a captured generation, without questions and bases.
    pub fn first_parcel(&self, captured: &Captured) -> Result<Vec<u8>> {
        let job = Job { base: None, target: captured.generation.id, cursor: BlockNumber(0), number: 0, plain: true };
        let plan = self.encoder.plan(&job, &|_| false)?.context("an empty generation has no parcel")?;
        Ok(self.encoder.encode(plan, Effort::Quick, &|_| false)?.bytes)
    }

    /// Brings a captured generation to `receiver`, which verifies it.
    pub fn send(&mut self, captured: &Captured, receiver: &End, effort: Effort) -> Result<Figures> {
        let generation = &captured.generation;
        let base = self.held.last().copied();
        let lineage = self.end.store.lineage(self.lineage)?.context("the lineage was put there")?;
        receiver.store.put_lineage(&lineage)?;
        let draft = receiver.store.draft(NewGeneration {
            id: generation.id,
            lineage: self.lineage,
            parent: base,
            size: generation.size,
            captured_at: generation.captured_at,
            source: Vec::new(),
        })?;
        let mut figures = Figures { dirty: captured.dirty_bytes, ..Figures::default() };
        figures.capture = [captured.elapsed.as_secs_f64(), captured.cpu.as_secs_f64()];
        let held = |id: GenerationId| self.held.contains(&id);
        let (mut cursor, mut workspace) = (BlockNumber(0), Workspace::default());
        for number in 0.. {
            let job = Job { base, target: generation.id, cursor, number, plain: false };
            let Some(mut plan) = self.encoder.plan(&job, &held)? else { break };
            figures.asked += ask(&mut plan, receiver)?;
            let encoded = self.encoder.encode(plan, effort, &held)?;
            let before = cpu_of_this_thread();
            let report = draft.ingest(number, &encoded.bytes, &mut workspace)?;
            figures.ingest_cpu += (cpu_of_this_thread() - before).as_secs_f64();
            figures.prefix += report.prefix_bytes;
            figures.coded += encoded.bytes.len() as u64;
            figures.fresh += encoded.stats.fresh_bytes;
            figures.copied += encoded.stats.copied_bytes;
            figures.encode[0] += encoded.stats.choose_seconds;
            figures.encode[1] += encoded.stats.code_seconds;
            figures.parcels += 1;
            cursor = encoded.cursor;
        }
        draft.seal_as(root_of(captured)?, UnixMillis(2))?;
        self.held.push(generation.id);
        Ok(figures)
    }
}

/// Asks the receiver about the plan's blocks as a session does; gives the bytes of it.
fn ask(plan: &mut dedupe::Plan, receiver: &End) -> Result<u64> {
    const MARK: u64 = size_of::<Mark>() as u64;
    const RUN: u64 = 24;
    let samples = plan.samples();
    let found = receiver.store.find_marks(&samples)?;
    let marks = plan.narrow(&found);
    let mut bytes = (samples.len() + marks.len()) as u64 * MARK + found.len() as u64 * RUN;
    let found = receiver.store.find_marks(&marks)?;
    bytes += found.len() as u64 * RUN;
    plan.take_answer(&found);
    Ok(bytes)
}

fn root_of(captured: &Captured) -> Result<Root> {
    Ok(captured.generation.sealed.context("a captured generation is sealed")?.root)
}

/// CPU time that this thread has used.
pub fn cpu_of_this_thread() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Runs `work` and gives its result with its seconds and this thread's CPU seconds.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, f64, f64) {
    let (started, cpu) = (Instant::now(), cpu_of_this_thread());
    let result = work();
    (result, started.elapsed().as_secs_f64(), (cpu_of_this_thread() - cpu).as_secs_f64())
}
