//! Making parcels: what to send, what to refer to, which bases to code against.
//!
//! The encoder owns no state that matters: everything it decides from is in the store (generations, parcels sent, anchors) or comes
//! with the job. After a restart it goes on from the job's cursor.

use crate::anchors::{self, DENSEST, Seen};
use crate::bases::{Base, choose};
use crate::codec::{self, CodecError, CodecMemory, Effort};
use crate::delta::{FoundMarks, blocks_of, runs_of};
use crate::draft::mark_sample;
use crate::error::StoreError;
use crate::generation::Generation;
use crate::id::{BLOCK, BlockNumber, BlockRun, GenerationId, LineageId, Mark, PackId, SlabNumber};
use crate::index;
use crate::parcel::{self, Copied, Header};
use crate::resemblance;
use crate::slab::Slab;
use crate::storage::PackClass;
use crate::store::{Store, View};
use redb::ReadableDatabase;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Memory that the encoder may take, in parts. `Default` fits an edge with a ceiling of 1 GiB: about 650 MiB at the peak.
#[derive(Clone, Copy, Debug)]
pub struct EncoderOptions {
    /// Bytes made new by one parcel.
    pub parcel: usize,
    /// Bytes of old blocks chosen by anchors.
    pub chosen: usize,
    /// Bytes of parcels sent just before.
    pub recent: usize,
    /// Bytes of the anchors' index on disk.
    pub anchors: u64,
    /// zstd's tables.
    pub codec: CodecMemory,
}

impl Default for EncoderOptions {
    fn default() -> Self {
        EncoderOptions {
            parcel: 32 << 20,
            chosen: 64 << 20,
            recent: 64 << 20,
            anchors: 4 << 30,
            codec: CodecMemory { long_log: 24, chain_log: 26 },
        }
    }
}

/// Blocks each side of a chosen one that are taken along.
const WIDEN: i64 = 2;
/// With a sparse index: blocks each side of a hit that are read and sampled anew at [`DENSE`].
const REACH: i64 = 128;
/// Sample rate (log2) of that.
const DENSE: u32 = 7;
/// Blocks that a question's window has: a window is asked when a sample in it or beside it was found.
const WINDOW: usize = 256;

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Job {
    /// The newest generation that the receiver holds, sealed here too; `None` for a seed.
    pub base: Option<GenerationId>,
    /// The generation to send, sealed here.
    pub target: GenerationId,
    /// The first block that no parcel has covered yet.
    pub cursor: BlockNumber,
    /// Number of the next parcel.
    pub number: u32,
    /// Send every block of each leaf that differs, with no references: after a root that came out wrong.
    pub plain: bool,
}

/// One parcel to be, before its bytes are read.
#[derive(Debug)]
pub struct Plan {
    base: Option<Generation>,
    target: Generation,
    number: u32,
    plain: bool,
    data: Vec<(BlockNumber, Mark)>,
    zero: Vec<BlockNumber>,
    /// For each of `data`: where the receiver has it already.
    copies: Vec<Option<(GenerationId, BlockNumber)>>,
    asked: Vec<usize>,
    cursor: BlockNumber,
}

impl Plan {
    /// Where the next plan begins.
    pub fn cursor(&self) -> BlockNumber {
        self.cursor
    }

    /// Blocks with bytes that the parcel covers.
    pub fn blocks(&self) -> u64 {
        self.data.len() as u64
    }

    fn open(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.data.len()).filter(|at| self.copies[*at].is_none())
    }

    /// A sample of the marks whose blocks the receiver may hold: asked first, since it is a 64th of all. Empty: nothing to ask.
    pub fn samples(&mut self) -> Vec<Mark> {
        if self.plain {
            return Vec::new();
        }
        self.asked = self.open().filter(|at| mark_sample(self.data[*at].1).is_some()).collect();
        self.asked.iter().map(|at| self.data[*at].1).collect()
    }

    /// The marks worth asking after the answer to [`Plan::samples`]: those near a sample that was found. Empty: nothing to ask.
    pub fn narrow(&mut self, found: &[FoundMarks]) -> Vec<Mark> {
        let mut near = HashSet::new();
        for run in found {
            for at in run.at..run.at.saturating_add(run.count).min(self.asked.len() as u32) {
                let window = self.asked[at as usize] / WINDOW;
                near.extend([window.saturating_sub(1), window, window + 1]);
            }
        }
        self.asked = self.open().filter(|at| near.contains(&(at / WINDOW))).collect();
        self.asked.iter().map(|at| self.data[*at].1).collect()
    }

    /// Takes the answer to the marks that were asked last.
    pub fn take_answer(&mut self, found: &[FoundMarks]) {
        for run in found {
            for step in 0..run.count {
                let Some(at) = self.asked.get(run.at as usize + step as usize) else { break };
                self.copies[*at] = Some((run.generation, BlockNumber(run.first.0 + u64::from(step))));
            }
        }
        self.asked.clear();
    }

    /// Forgets references to a generation that the receiver turned out not to hold.
    pub fn without(&mut self, gone: GenerationId) {
        self.copies.iter_mut().filter(|copy| copy.is_some_and(|(id, _)| id == gone)).for_each(|copy| *copy = None);
    }
}

/// A parcel, ready to be sent.
#[derive(Debug)]
pub struct Encoded {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where the next plan begins.
    pub cursor: BlockNumber,
    /// What it took.
    pub stats: ParcelStats,
}

/// What a parcel took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ParcelStats {
    /// Bytes whose coding is in the payload.
    pub fresh_bytes: u64,
    /// Bytes referred to.
    pub copied_bytes: u64,
    /// Bytes that became zeroes.
    pub zeroed_bytes: u64,
    /// Bytes of prefix: chosen, recent, same addresses.
    pub prefix_bytes: [u64; 3],
    /// Bytes of the header as sent.
    pub header_bytes: u64,
    /// Bytes of the payload as sent.
    pub payload_bytes: u64,
    /// Seconds of one core that zstd took.
    pub code_seconds: f64,
    /// Seconds of one core that choosing took.
    pub choose_seconds: f64,
}

/// An encoder failed.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The store failed. [`StoreError::Gone`]: the target's own bytes were lost, so it cannot be sent.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// zstd failed; out of memory, most likely.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// CPU seconds of this thread: what work costs, whatever else the machine does.
fn cpu_seconds() -> f64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    now.map_or(0.0, |now| now.tv_sec() as f64 + now.tv_nsec() as f64 * 1e-9)
}

/// Makes parcels from a store.
pub struct Encoder {
    store: Arc<Store>,
    options: EncoderOptions,
}

impl Encoder {
    /// An encoder over this store.
    pub fn new(store: Arc<Store>, options: EncoderOptions) -> Encoder {
        Encoder { store, options }
    }

    /// Plans the next parcel; `None` when nothing is left to send. References to what this store itself knows the receiver to hold
    /// are in it already.
    pub fn plan(&self, job: &Job, held: &dyn Fn(GenerationId) -> bool) -> Result<Option<Plan>, StoreError> {
        let target = self.store.must_have(job.target)?;
        let base = job.base.map(|id| self.store.must_have(id)).transpose()?;
        let most = self.options.parcel.min(parcel::MAX_FRESH) / BLOCK;
        let (mut data, mut zero, mut cursor) = (Vec::new(), Vec::new(), job.cursor);
        'slabs: loop {
            let batch = self.store.changed_from(base.as_ref(), &target, cursor.in_slab().0)?;
            let Some(last) = batch.last().copied() else {
                cursor = BlockNumber(target.size.blocks());
                break;
            };
            for slab in batch {
                let delta = self.store.slab_delta(base.as_ref(), &target, slab, job.plain)?;
                let room = most - data.len();
                let new: Vec<_> = delta.data.into_iter().filter(|(block, _)| *block >= cursor).collect();
                let stop = new.get(room).map(|(block, _)| *block);
                data.extend(new.into_iter().take(room));
                zero.extend(
                    delta.zero.into_iter().filter(|block| *block >= cursor && stop.is_none_or(|stop| *block < stop)),
                );
                if let Some(stop) = stop {
                    cursor = stop;
                    break 'slabs;
                }
                cursor = SlabNumber(slab.0 + 1).first_block();
                if data.len() == most || zero.len() >= MAX_ZERO {
                    break 'slabs;
                }
            }
            cursor = SlabNumber(last.0 + 1).first_block();
        }
        if data.is_empty() && zero.is_empty() {
            return Ok(None);
        }
        let copies = vec![None; data.len()];
        let (number, plain) = (job.number, job.plain);
        let mut plan = Plan { base, target, number, plain, data, zero, copies, asked: Vec::new(), cursor };
        if !plain {
            self.refer_to_own(&mut plan, held)?;
        }
        Ok(Some(plan))
    }

    /// References to blocks that moved, or that another volume of the site has, need no question.
    fn refer_to_own(&self, plan: &mut Plan, held: &dyn Fn(GenerationId) -> bool) -> Result<(), StoreError> {
        let marks = plan.data.iter().map(|(_, mark)| *mark).collect::<Vec<_>>();
        let found = self.store.find_marks_in(&marks, &|lineage| self.store.newest_held(lineage, held))?;
        plan.asked = (0..plan.data.len()).collect();
        plan.take_answer(&found);
        Ok(())
    }

    /// Encodes a plan. `held` says which generations the receiver holds, the draft not counted.
    pub fn encode(
        &self,
        plan: Plan,
        effort: Effort,
        held: &dyn Fn(GenerationId) -> bool,
    ) -> Result<Encoded, EncodeError> {
        let started = cpu_seconds();
        let fresh_blocks: Vec<BlockNumber> = plan.open().map(|at| plan.data[at].0).collect();
        let fresh_runs = runs_of(fresh_blocks.iter().copied());
        let target = self.store.view(plan.target.id)?;
        let mut fresh = vec![0; fresh_blocks.len() * BLOCK];
        target.read_blocks(&fresh_runs, &mut fresh)?;

        let mut presence = Presence::new(&self.store);
        let mut parts: Vec<(View, Vec<BlockRun>)> = Vec::new();
        let mut sources = Sources::new(&self.store, &plan, held)?;
        // Third part: the same addresses.
        let (same, without_old) = match &plan.base {
            Some(base) => self.same(&self.store.view(base.id)?, &fresh_runs, &mut presence)?,
            None => Default::default(),
        };
        // Second part: what was sent just before.
        let count = (self.options.recent / self.options.parcel.max(1)) as u32;
        let count = count.min(plan.number);
        let recent =
            self.store.recent(plan.target.id, plan.number, count).map_err(|_| StoreError::Corrupt("parcels"))?;
        // First part: what anchors find.
        let chosen = if plan.plain {
            Vec::new()
        } else {
            self.chosen(&plan, &fresh, &same, &recent, &mut sources, &mut presence)?
        };
        for (source, runs) in &chosen {
            parts.push((sources.view(*source)?, runs.clone()));
        }
        parts.extend(recent.into_iter().map(|runs| (target.clone(), runs)));
        if let Some(base) = &plan.base {
            parts.push((self.store.view(base.id)?, same.clone()));
        }
        let lens: Vec<usize> = parts.iter().map(|(_, runs)| parcel::blocks_in(runs) as usize * BLOCK).collect();
        let start: usize = lens.iter().sum();
        let mut buffer = vec![0; start + fresh.len()];
        let mut at = 0;
        for ((view, runs), len) in parts.iter().zip(&lens) {
            view.read_blocks(runs, &mut buffer[at..at + len])?;
            at += len;
        }
        buffer[start..].copy_from_slice(&fresh);
        drop(fresh);
        let choose_seconds = cpu_seconds() - started;
        let started = cpu_seconds();
        let payload = codec::encode(&buffer, start, effort, self.options.codec)?;
        let code_seconds = cpu_seconds() - started;

        let (copied, copied_hash) = self.copied(&plan, &mut sources, &target)?;
        let header = Header {
            generation: plan.target.id,
            number: plan.number,
            sources: sources.ids(),
            base: plan.base.as_ref().map(|base| base.id),
            fresh: fresh_runs,
            zero: runs_of(plan.zero.iter().copied()),
            copied,
            chosen: chosen.iter().map(|(source, runs)| (*source as u32, runs.clone())).collect(),
            recent: count,
            without_old,
            fresh_hash: *blake3::hash(&buffer[start..]).as_bytes(),
            copied_hash,
        };
        let bytes = parcel::assemble(&header, &payload);
        self.remember(&plan, &header, &buffer[start..], &fresh_blocks)?;
        let prefix_of = |from: usize, to: usize| lens[from..to].iter().map(|len| *len as u64).sum();
        let (first, second) = (chosen.len(), chosen.len() + count as usize);
        let stats = ParcelStats {
            fresh_bytes: (buffer.len() - start) as u64,
            copied_bytes: header.copied.iter().map(|copy| copy.count).sum::<u64>() * BLOCK as u64,
            zeroed_bytes: plan.zero.len() as u64 * BLOCK as u64,
            prefix_bytes: [prefix_of(0, first), prefix_of(first, second), prefix_of(second, lens.len())],
            header_bytes: (bytes.len() - payload.len()) as u64,
            payload_bytes: payload.len() as u64,
            code_seconds,
            choose_seconds,
        };
        Ok(Encoded { bytes, cursor: plan.cursor, stats })
    }

    /// Old blocks at the same addresses that are here, and fresh blocks whose old bytes are here no more.
    fn same(
        &self,
        base: &View,
        fresh: &[BlockRun],
        presence: &mut Presence<'_>,
    ) -> Result<(Vec<BlockRun>, Vec<BlockRun>), StoreError> {
        let all = self.store.same_addresses(base, fresh, &[])?;
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for block in blocks_of(&all) {
            if presence.has(base, block)? { here.push(block) } else { gone.push(block) }
        }
        Ok((runs_of(here), runs_of(gone)))
    }

    fn chosen(
        &self,
        plan: &Plan,
        fresh: &[u8],
        same: &[BlockRun],
        recent: &[Vec<BlockRun>],
        sources: &mut Sources<'_>,
        presence: &mut Presence<'_>,
    ) -> Result<Vec<(usize, Vec<BlockRun>)>, StoreError> {
        let rate = self.store.anchor_rate()?;
        let mut seen = self.seen(fresh, rate)?;
        let mut pairs = sources.resolve(&mut seen)?;

        let mut given: HashSet<Base> = HashSet::new();
        if let Some(base) = &plan.base {
            let source = sources.index(base.id);
            given.extend(blocks_of(same).map(|block| Base::new(source, block.0)));
        }
        let own = sources.index(plan.target.id);
        given.extend(recent.iter().flat_map(|runs| blocks_of(runs)).map(|block| Base::new(own, block.0)));

        let budget = self.options.chosen / BLOCK;
        let mut chosen = if rate > DENSEST {
            let near = choose(&mut pairs, &given, REACH, 2 * budget, |base| sources.exists(base));
            let mut pairs = self.sample_densely(&near, fresh, sources, presence)?;
            pairs.extend(self.sample_given(&given, sources, presence)?);
            choose(&mut pairs, &given, WIDEN, budget, |base| sources.exists(base))
        } else {
            choose(&mut pairs, &given, WIDEN, budget, |base| sources.exists(base))
        };
        let mut failed = None;
        chosen.retain(|base| {
            match sources.view(base.source()).and_then(|view| presence.has(&view, BlockNumber(base.block()))) {
                Ok(here) => here,
                Err(e) => {
                    failed = Some(e);
                    false
                }
            }
        });
        if let Some(e) = failed {
            return Err(e);
        }
        Ok(chosen
            .chunk_by(|a, b| a.source() == b.source())
            .map(|part| (part[0].source(), runs_of(part.iter().map(|base| BlockNumber(base.block())))))
            .collect())
    }

    /// Where anchors of the new bytes were seen; and for blocks of which none was, where a resembling block was.
    fn seen(&self, fresh: &[u8], rate: u32) -> Result<Vec<(u64, Seen)>, StoreError> {
        let mut anchors = Vec::with_capacity(fresh.len() >> rate);
        anchors::scan(fresh, rate, |at, hash| anchors.push((hash, at / BLOCK)));
        let mut hashes: Vec<u64> = anchors.iter().map(|(hash, _)| *hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let mut seen = self.store.anchors(&hashes)?;
        let found: HashSet<u64> = seen.iter().map(|(hash, _)| *hash).collect();
        let mut covered = vec![false; fresh.len() / BLOCK];
        for (hash, block) in anchors {
            covered[block] |= found.contains(&hash);
        }
        let lone = fresh.chunks_exact(BLOCK).zip(covered).filter(|(_, covered)| !covered);
        let features = lone.flat_map(|(block, _)| resemblance::features(block)).filter(|hash| hash >> (64 - rate) == 0);
        let mut features: Vec<u64> = features.collect();
        features.sort_unstable();
        features.dedup();
        seen.extend(self.store.anchors(&features)?);
        Ok(seen)
    }

    /// A sparse index finds neighbourhoods; anchors sampled densely there, for this parcel only, find the blocks.
    fn sample_densely(
        &self,
        near: &[Base],
        fresh: &[u8],
        sources: &mut Sources<'_>,
        presence: &mut Presence<'_>,
    ) -> Result<Vec<(u64, Base)>, StoreError> {
        let mut wanted = HashSet::new();
        anchors::scan(fresh, DENSE, |_, hash| {
            wanted.insert(hash);
        });
        self.sample(near, &wanted, sources, presence)
    }

    /// What the prefix holds anyway belongs in, so that its anchors are seen to be answered.
    fn sample_given(
        &self,
        given: &HashSet<Base>,
        sources: &mut Sources<'_>,
        presence: &mut Presence<'_>,
    ) -> Result<Vec<(u64, Base)>, StoreError> {
        let mut given: Vec<Base> = given.iter().copied().collect();
        given.sort_unstable();
        self.sample(&given, &HashSet::new(), sources, presence)
    }

    /// Anchors at [`DENSE`] of these blocks; only the wanted ones, unless none are named.
    fn sample(
        &self,
        bases: &[Base],
        wanted: &HashSet<u64>,
        sources: &mut Sources<'_>,
        presence: &mut Presence<'_>,
    ) -> Result<Vec<(u64, Base)>, StoreError> {
        let mut pairs = Vec::new();
        let mut buffer = Vec::new();
        for part in bases.chunk_by(|a, b| a.source() == b.source()) {
            let view = sources.view(part[0].source())?;
            for batch in part.chunks(1024) {
                let mut blocks = Vec::with_capacity(batch.len());
                for base in batch {
                    if presence.has(&view, BlockNumber(base.block()))? {
                        blocks.push(BlockNumber(base.block()));
                    }
                }
                buffer.clear();
                buffer.resize(blocks.len() * BLOCK, 0);
                view.read_blocks(&runs_of(blocks.iter().copied()), &mut buffer)?;
                anchors::scan(&buffer, DENSE, |at, hash| {
                    if wanted.is_empty() || wanted.contains(&hash) {
                        pairs.push((hash, Base::new(part[0].source(), blocks[at / BLOCK].0)));
                    }
                });
            }
        }
        Ok(pairs)
    }

    /// References as runs, and the hash of what they stand for.
    fn copied(
        &self,
        plan: &Plan,
        sources: &mut Sources<'_>,
        target: &View,
    ) -> Result<(Vec<Copied>, [u8; 32]), StoreError> {
        let mut copied: Vec<Copied> = Vec::new();
        for ((to, _), copy) in plan.data.iter().zip(&plan.copies) {
            let Some((id, from)) = copy else { continue };
            let source = sources.index(*id) as u32;
            match copied.last_mut() {
                Some(last)
                    if last.source == source
                        && last.to.0 + last.count == to.0
                        && last.from.0 + last.count == from.0 =>
                {
                    last.count += 1;
                }
                _ => copied.push(Copied { to: *to, count: 1, source, from: *from }),
            }
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::new();
        for batch in copied.chunks(64) {
            let runs: Vec<BlockRun> = batch.iter().map(|copy| BlockRun { first: copy.to, count: copy.count }).collect();
            buffer.clear();
            buffer.resize(parcel::blocks_in(&runs) as usize * BLOCK, 0);
            target.read_blocks(&runs, &mut buffer)?;
            hasher.update(&buffer);
        }
        Ok((copied, *hasher.finalize().as_bytes()))
    }

    /// The receiver comes to hold this generation without parcels, as a seed by courier: later parcels may use its blocks as bases. Reads all of it; can be
    /// done again.
    ///
    /// # Errors
    /// [`StoreError::Gone`] for evicted bytes.
    pub fn anchor(&self, id: GenerationId) -> Result<(), StoreError> {
        self.store.anchor_all(id, self.options.anchors)
    }

    /// The receiver holds these blocks from now on: later parcels may use them as bases.
    fn remember(&self, plan: &Plan, header: &Header, fresh: &[u8], blocks: &[BlockNumber]) -> Result<(), StoreError> {
        let lineage = self.store.lineage_number(plan.target.lineage)?;
        let transaction = self.store.db.begin_write()?;
        {
            let mut parcels = transaction.open_table(index::PARCELS)?;
            let key = index::parcel_key(plan.target.id, plan.number);
            parcels.insert(&key, parcel::encode_runs(&header.fresh).as_slice())?;
            let (first, last) =
                (index::parcel_key(plan.target.id, plan.number + 1), index::parcel_key(plan.target.id, u32::MAX));
            if plan.number < u32::MAX {
                parcels.retain_in::<&[u8; 20], _>(&first..=&last, |_, _| false)?; // of an earlier attempt
            }
        }
        let (order, budget) = (plan.target.number, self.options.anchors);
        self.store.add_anchors(&transaction, fresh, lineage, order, blocks, budget)?;
        // What was referred to is as good a base later on: a shared file that is edited here was once never found again.
        let copied: Vec<BlockNumber> = plan
            .data
            .iter()
            .zip(&plan.copies)
            .filter(|(_, copy)| copy.is_some())
            .map(|((block, _), _)| *block)
            .collect();
        let target = self.store.view(plan.target.id)?;
        for batch in copied.chunks(1024) {
            let mut bytes = vec![0; batch.len() * BLOCK];
            target.read_blocks(&runs_of(batch.iter().copied()), &mut bytes)?;
            self.store.add_anchors(&transaction, &bytes, lineage, order, batch, budget)?;
        }
        Ok(transaction.commit()?)
    }
}

/// Blocks of zeroes that one parcel names at most: as runs they are small, but the list is in memory.
const MAX_ZERO: usize = 1 << 20;

/// The generations that a parcel's header names, and what anchors stand for in them.
struct Sources<'a> {
    store: &'a Arc<Store>,
    target: Generation,
    /// Blocks of the target that were sent in parcels before this one, sorted.
    sent: Vec<BlockRun>,
    /// The newest generation that the receiver holds, by short number of its lineage.
    held: HashMap<u16, Generation>,
    own: u16,
    views: Vec<View>,
}

impl<'a> Sources<'a> {
    fn new(store: &'a Arc<Store>, plan: &Plan, is_held: &dyn Fn(GenerationId) -> bool) -> Result<Self, StoreError> {
        let mut held = HashMap::new();
        let mut own = None;
        for (number, lineage) in store.lineage_numbers()? {
            if lineage == plan.target.lineage {
                own = Some(number);
            }
            let newest = match &plan.base {
                Some(base) if base.lineage == lineage => Some(base.clone()),
                _ if lineage == plan.target.lineage => None,
                _ => store.newest_held(lineage, is_held)?,
            };
            held.extend(newest.map(|generation| (number, generation)));
        }
        let own = match own {
            Some(own) => own,
            None => store.lineage_number(plan.target.lineage)?,
        };
        let parcels =
            store.recent(plan.target.id, plan.number, plan.number).map_err(|_| StoreError::Corrupt("parcels"))?;
        let sent = parcels.into_iter().flatten().collect();
        Ok(Sources { store, target: plan.target.clone(), sent, held, own, views: Vec::new() })
    }

    fn index(&mut self, id: GenerationId) -> usize {
        if let Some(at) = self.views.iter().position(|view| view.generation().id == id) {
            return at;
        }
        // A generation of another site is named, but never read here.
        let view = self.store.view(id).unwrap_or_else(|_| View::named(self.store, id, &self.target));
        self.views.push(view);
        self.views.len() - 1
    }

    fn view(&self, index: usize) -> Result<View, StoreError> {
        self.views.get(index).cloned().ok_or(StoreError::Corrupt("a base's source"))
    }

    fn ids(&self) -> Vec<GenerationId> {
        self.views.iter().map(|view| view.generation().id).collect()
    }

    fn was_sent(&self, block: u64) -> bool {
        let at = self.sent.partition_point(|run| run.first.0 + run.count <= block);
        self.sent.get(at).is_some_and(|run| run.first.0 <= block)
    }

    fn exists(&self, base: Base) -> bool {
        match self.views.get(base.source()) {
            Some(view) if view.generation().id == self.target.id => self.was_sent(base.block()),
            Some(view) => base.block() < view.size().blocks(),
            None => false,
        }
    }

    /// What anchors were seen in, as blocks that the receiver holds now: unchanged since, or sent in this generation.
    fn resolve(&mut self, seen: &mut [(u64, Seen)]) -> Result<Vec<(u64, Base)>, StoreError> {
        // By place, so that each slab's record is looked at once.
        seen.sort_unstable_by_key(|(_, place)| *place);
        let mut pairs = Vec::with_capacity(seen.len());
        let mut last: Option<(Seen, Option<Base>)> = None;
        for (hash, place) in seen {
            let base = match last {
                Some((same, base)) if same == *place => base,
                _ => self.resolve_one(*place)?,
            };
            last = Some((*place, base));
            pairs.extend(base.map(|base| (*hash, base)));
        }
        Ok(pairs)
    }

    fn resolve_one(&mut self, place: Seen) -> Result<Option<Base>, StoreError> {
        let block = place.block();
        if place.lineage() == self.own
            && place.order(self.target.number) == Some(self.target.number)
            && self.was_sent(block.0)
        {
            let index = self.index(self.target.id);
            return Ok(Some(Base::new(index, block.0)));
        }
        let Some(held) = self.held.get(&place.lineage()).cloned() else { return Ok(None) };
        let newest = held.number.max(self.target.number);
        let Some(order) = place.order(newest) else { return Ok(None) };
        if block.0 >= held.size.blocks() {
            return Ok(None);
        }
        let (slab, at) = block.in_slab();
        let (then, now) =
            (self.store.slab_row(held.lineage, slab, order)?, self.store.slab_row(held.lineage, slab, held.number)?);
        let same = match (then, now) {
            (Some((a, _)), Some((b, _))) if a == b => true,
            (Some((_, then)), Some((_, now))) => {
                let mark = |slab: Option<Arc<Slab>>| slab.and_then(|slab| slab.marks.get(at).copied());
                let then = mark(self.store.slab_of_row(then)?);
                then.is_some() && then == mark(self.store.slab_of_row(now)?)
            }
            _ => false,
        };
        if !same {
            return Ok(None);
        }
        let index = self.index(held.id);
        Ok(Some(Base::new(index, block.0)))
    }
}

/// Whether blocks are here or were evicted; asks the index once per pack and parcel.
struct Presence<'a> {
    store: &'a Arc<Store>,
    packs: HashMap<PackId, bool>,
    slab: Option<(GenerationId, SlabNumber, Option<Arc<Slab>>)>,
}

impl<'a> Presence<'a> {
    fn new(store: &'a Arc<Store>) -> Self {
        Presence { store, packs: HashMap::new(), slab: None }
    }

    fn has(&mut self, view: &View, block: BlockNumber) -> Result<bool, StoreError> {
        let (number, at) = block.in_slab();
        let id = view.generation().id;
        if self.slab.as_ref().is_none_or(|(of, slab, _)| (*of, *slab) != (id, number)) {
            self.slab = Some((id, number, view.record(number)?));
        }
        let record = self.slab.as_ref().and_then(|(_, _, record)| record.clone());
        let Some(record) = record else { return Ok(true) };
        for piece in record.pieces_in((at * BLOCK) as u32..((at + 1) * BLOCK) as u32) {
            let pack = piece.place.pack;
            let here = match self.packs.get(&pack) {
                Some(here) => *here,
                None => {
                    let here = self.store.has_pack(PackClass::Data, pack)?;
                    self.packs.insert(pack, here);
                    here
                }
            };
            if !here {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Store {
    pub(crate) fn has_pack(&self, class: PackClass, pack: PackId) -> Result<bool, StoreError> {
        let table = self.db.begin_read()?.open_table(index::PACKS)?;
        Ok(table.get(&index::pack_key(class, pack))?.is_some())
    }

    /// The newest sealed generation of a lineage that the other end holds too.
    pub(crate) fn newest_held(
        &self,
        lineage: LineageId,
        held: &dyn Fn(GenerationId) -> bool,
    ) -> Result<Option<Generation>, StoreError> {
        Ok(self
            .generations(lineage)?
            .into_iter()
            .rev()
            .find(|generation| generation.is_sealed() && held(generation.id)))
    }
}
