//! Taking a parcel in: build its prefix, decode, verify, store, commit. One commit per parcel, so that an acknowledged parcel is
//! durable whole, and one that is not acknowledged left nothing behind that anybody sees.

use crate::codec;
use crate::delta::blocks_of;
use crate::draft::{Also, Draft, mark_of};
use crate::error::{IngestError, StoreError};
use crate::generation::Generation;
use crate::id::{BLOCK, BlockNumber, BlockRun, GenerationId, LEAF, Mark, SLAB, SlabNumber};
use crate::index;
use crate::pack;
use crate::parcel::{self, Copied, Header, MAX_PREFIX};
use crate::recent::Recent;
use crate::root;
use crate::slab::{Piece, Slab};
use crate::store::{Store, View, lock, placed, slab_len};
use redb::ReadableDatabase;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use zstd::zstd_safe::CCtx;

/// What a parcel brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestReport {
    /// Blocks whose bytes it carried.
    pub fresh_blocks: u64,
    /// Blocks that it referred to.
    pub copied_blocks: u64,
    /// Blocks that became zeroes.
    pub zeroed_blocks: u64,
    /// Bytes of its prefix.
    pub prefix_bytes: u64,
}

/// Buffers of one decode worker, kept from parcel to parcel: fresh memory costs a page fault for every 4 KiB, a sixth of the whole work.
///
/// Grows to [`MAX_PREFIX`] + [`SLAB`] + [`MAX_RECENT`](crate::recent::MAX_RECENT) bytes.
#[derive(Debug, Default)]
pub struct Workspace {
    prefix: Vec<u8>,
    leaves: Vec<u8>,
    recent: Recent,
}

impl Workspace {
    /// Whether it holds the last parcels of `draft`, so that the next one is taken in faster with it than with another.
    pub fn knows(&self, draft: &Arc<Draft>) -> bool {
        self.recent.is_of(draft)
    }
}

/// What one slab gets from a parcel.
#[derive(Default)]
struct Changes {
    fresh: Vec<(BlockRun, usize)>,
    zero: Vec<BlockRun>,
    copied: Vec<Copied>,
}

impl Draft {
    /// Number of the parcel that is due.
    pub fn next_parcel(&self) -> u32 {
        lock(&self.generation).stats.parcels
    }

    /// Takes parcel `number` in; durable and verified when it returns.
    ///
    /// Memory: at most the workspace, [`parcel::MAX_FRESH`] bytes and one pack.
    ///
    /// # Errors
    /// After an error nothing of the parcel is kept, and the same parcel, or another encoding of it, may come again.
    pub fn ingest(
        self: &Arc<Self>,
        number: u32,
        bytes: &[u8],
        workspace: &mut Workspace,
    ) -> Result<IngestReport, IngestError> {
        let due = self.next_parcel();
        if number != due {
            return Err(IngestError::WrongNumber { want: due, got: number });
        }
        let (header, payload) = parcel::parse(bytes).map_err(|e| IngestError::Damaged(e.0))?;
        let generation = self.generation();
        if header.generation != generation.id || header.number != number {
            return Err(IngestError::Damaged("it belongs to another generation or place"));
        }
        let result = self.take(&header, payload, bytes.len() as u64, workspace);
        if result.is_err() {
            self.reset();
        }
        result
    }

    fn take(
        self: &Arc<Self>,
        header: &Header,
        payload: &[u8],
        coded: u64,
        workspace: &mut Workspace,
    ) -> Result<IngestReport, IngestError> {
        let generation = self.generation();
        let last = generation.size.blocks();
        let runs = header.fresh.iter().chain(&header.zero).map(|run| run.first.0 + run.count);
        if runs.chain(header.copied.iter().map(|copy| copy.to.0 + copy.count)).any(|end| end > last) {
            return Err(IngestError::Damaged("it goes beyond the volume's end"));
        }
        let sources = self.sources(header)?;
        workspace.recent.turn_to(self);
        let prefix = self.prefix(header, &sources, &workspace.recent, &mut workspace.prefix)?;
        let prefix_bytes = prefix.len() as u64;
        let mut fresh = workspace.recent.buffer(header.fresh_len());
        codec::decode(prefix, payload, header.fresh_len(), &mut fresh)
            .map_err(|_| IngestError::Damaged("its payload does not unpack"))?;
        if *blake3::hash(&fresh).as_bytes() != header.fresh_hash {
            return Err(IngestError::Damaged("its payload hashes to something else"));
        }
        let report = IngestReport {
            fresh_blocks: parcel::blocks_in(&header.fresh),
            copied_blocks: header.copied.iter().map(|copy| copy.count).sum(),
            zeroed_blocks: parcel::blocks_in(&header.zero),
            prefix_bytes,
        };
        let mut context = pack::fast_context();
        let mut copied_hash = blake3::Hasher::new();
        for (slab, changes) in by_slab(header) {
            let leaves = &mut workspace.leaves;
            let row =
                self.change(&generation, slab, &changes, &fresh, &sources, leaves, &mut context, &mut copied_hash)?;
            lock(&self.sink).rows.push((slab, row));
        }
        if !header.copied.is_empty() && *copied_hash.finalize().as_bytes() != header.copied_hash {
            // A short hash collided, or the source changed: the encoder sends the bytes instead.
            return Err(IngestError::MissingBase(header.sources[header.copied[0].source as usize]));
        }
        {
            let stats = &mut lock(&self.sink).stats;
            stats.new_blocks += report.fresh_blocks;
            stats.copied_blocks += report.copied_blocks;
            stats.zeroed_blocks += report.zeroed_blocks;
            stats.coded_bytes += coded;
        }
        crate::crash_point("dedupe.ingest.decoded");
        self.commit(Also { parcel: Some((header.number, parcel::encode_runs(&header.fresh))), sealed: None })?;
        workspace.recent.keep(&header.fresh, fresh);
        Ok(report)
    }

    fn sources(&self, header: &Header) -> Result<Vec<View>, IngestError> {
        header.sources.iter().map(|id| self.source(*id)).collect()
    }

    /// A sealed generation, or this draft itself as far as committed.
    fn source(&self, id: GenerationId) -> Result<View, IngestError> {
        let view = match self.store.view(id) {
            Ok(view) => view,
            Err(StoreError::NoGeneration(_)) => return Err(IngestError::MissingBase(id)),
            Err(e) => return Err(e.into()),
        };
        match view.generation().is_sealed() || id == self.generation().id {
            true => Ok(view),
            false => Err(IngestError::MissingBase(id)),
        }
    }

    /// Only the site's own bytes may be in a prefix: whoever may compose one can guess its bytes one by one, since `fresh_hash` says for each guess
    /// whether it was right. Copies may be of any site: their hash can only be guessed for whole blocks.
    fn of_own_site(&self, view: View) -> Result<View, IngestError> {
        let site = |lineage| Ok::<_, StoreError>(self.store.lineage(lineage)?.map(|lineage| lineage.site));
        match site(view.generation().lineage)? == site(self.generation().lineage)? {
            true => Ok(view),
            false => Err(IngestError::MissingBase(view.generation().id)),
        }
    }

    fn prefix<'a>(
        &self,
        header: &Header,
        sources: &[View],
        recent: &Recent,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], IngestError> {
        let mut parts: Vec<(View, Vec<BlockRun>)> = Vec::new();
        for (source, runs) in &header.chosen {
            parts.push((self.of_own_site(sources[*source as usize].clone())?, runs.clone()));
        }
        for runs in self.store.recent(header.generation, header.number, header.recent)? {
            parts.push((self.source(header.generation)?, runs));
        }
        if let Some(base) = header.base {
            let view = self.of_own_site(self.source(base)?)?;
            let runs = self.store.same_addresses(&view, &header.fresh, &header.without_old).map_err(missing(base))?;
            parts.push((view, runs));
        }
        let blocks: u64 = parts.iter().map(|(_, runs)| parcel::blocks_in(runs)).fold(0, u64::saturating_add);
        if blocks > (MAX_PREFIX / BLOCK) as u64 {
            return Err(IngestError::Damaged("it asks for more bases than a parcel may"));
        }
        buffer.resize(blocks as usize * BLOCK, 0);
        let prefix = &mut buffer[..];
        let mut at = 0;
        for (view, runs) in parts {
            let len = parcel::blocks_in(&runs) as usize * BLOCK;
            let (id, into) = (view.generation().id, &mut prefix[at..at + len]);
            let placed = placed(&runs);
            let rest = if id == header.generation { recent.fill(&placed, into) } else { placed };
            for (run, to) in &rest {
                into[*to..*to + run.count as usize * BLOCK].fill(0); // the buffer held other bytes
            }
            view.read_placed(&rest, into).map_err(missing(id))?;
            at += len;
        }
        Ok(prefix)
    }

    /// The slab's new record; `None` when it is all zeroes.
    #[expect(clippy::too_many_arguments, reason = "one step of `take`, split out for its length")]
    fn change(
        &self,
        generation: &Generation,
        slab: SlabNumber,
        changes: &Changes,
        fresh: &[u8],
        sources: &[View],
        buffer: &mut Vec<u8>,
        context: &mut CCtx<'static>,
        copied_hash: &mut blake3::Hasher,
    ) -> Result<Option<Slab>, IngestError> {
        let first = slab.first_block().0;
        let span = |from: BlockNumber, count: u64| {
            ((from.0 - first) as usize * BLOCK) as u32..((from.0 - first + count) as usize * BLOCK) as u32
        };
        let old = self.store.slab(generation.lineage, slab, generation.number)?;
        let mut new = old.as_deref().cloned().unwrap_or_else(|| Slab::zero(slab_len(generation.size, slab) as u32));
        let mut touched = BTreeSet::new();
        let mut touch = |range: &std::ops::Range<u32>| {
            touched.extend(range.start as usize / LEAF..(range.end as usize).div_ceil(LEAF))
        };
        // Copies first take their pieces from the records as they were before this parcel.
        for copy in &changes.copied {
            let range = span(copy.to, copy.count);
            touch(&range);
            let pieces = self.pieces_of(&sources[copy.source as usize], copy, range.start)?;
            new.splice(range, pieces);
        }
        let zero = changes.zero.iter().map(|run| span(run.first, run.count));
        let written = changes.fresh.iter().map(|(run, _)| span(run.first, run.count));
        for range in zero.chain(written) {
            touch(&range);
            new.splice(range, []);
        }
        touched.retain(|leaf| *leaf < new.leaves.len());
        // A leaf that is new as a whole is hashed where it lies; the others are put together from what they were.
        let whole = whole_leaves(&new, first, changes);
        for (number, from) in &whole {
            let range = new.leaf_range(*number);
            new.leaves[*number] = root::leaf(slab.offset().0 + range.start as u64, &fresh[*from..*from + range.len()]);
        }
        let all: Vec<usize> = touched.iter().copied().collect();
        touched.retain(|leaf| !whole.contains_key(leaf));
        let touched: Vec<usize> = touched.into_iter().collect();
        let bytes = self.leaves(&new, &touched, buffer)?;
        let place_of = |at: u32| {
            let leaf = at as usize / LEAF;
            touched.binary_search(&leaf).expect("every changed leaf is listed") * LEAF + at as usize % LEAF
        };
        for copy in &changes.copied {
            for at in span(copy.to, copy.count).step_by(BLOCK) {
                let place = place_of(at);
                copied_hash.update(&bytes[place..place + BLOCK]);
                new.marks[at as usize / BLOCK] = Mark::of(&bytes[place..place + BLOCK]);
            }
        }
        for run in &changes.zero {
            let range = span(run.first, run.count);
            new.marks[range.start as usize / BLOCK..range.end as usize / BLOCK].fill(Mark::ZERO);
        }
        for (run, from) in &changes.fresh {
            let range = span(run.first, run.count);
            for (at, block) in range.clone().step_by(BLOCK).zip(fresh[*from..].chunks_exact(BLOCK)) {
                if !whole.contains_key(&(at as usize / LEAF)) {
                    let place = place_of(at);
                    bytes[place..place + BLOCK].copy_from_slice(block);
                }
                new.marks[at as usize / BLOCK] = mark_of(block);
            }
            let pieces = self.put_run(context, range.start as usize, &fresh[*from..*from + range.len()])?;
            new.splice(range, pieces);
        }
        for (at, number) in touched.iter().enumerate() {
            let range = new.leaf_range(*number);
            let bytes = &bytes[at * LEAF..at * LEAF + range.len()];
            new.leaves[*number] = root::leaf(slab.offset().0 + range.start as u64, bytes);
        }
        if old.is_none() {
            settle_zero_leaves(&mut new, slab, &all);
        }
        new.settle();
        Ok((!new.is_zero()).then_some(new))
    }

    /// Bytes of leaves as the record says, leaf after leaf.
    fn leaves<'a>(&self, slab: &Slab, leaves: &[usize], buffer: &'a mut Vec<u8>) -> Result<&'a mut [u8], StoreError> {
        buffer.clear();
        buffer.resize(leaves.len() * LEAF, 0);
        let bytes = &mut buffer[..];
        let mut wanted = Vec::new();
        for (at, number) in leaves.iter().enumerate() {
            let start = (number * LEAF) as u32;
            Store::want(slab, start..start + LEAF as u32, at * LEAF, &mut wanted);
        }
        self.store.fetch(&mut wanted, bytes)?;
        Ok(bytes)
    }

    fn pieces_of(&self, source: &View, copy: &Copied, to: u32) -> Result<Vec<Piece>, IngestError> {
        let id = source.generation().id;
        if copy.from.0 + copy.count > source.size().blocks() {
            return Err(IngestError::Damaged("it copies from beyond a volume's end"));
        }
        let mut pieces = Vec::new();
        let (mut at, end) = (copy.from.offset().0, copy.from.offset().0 + copy.count * BLOCK as u64);
        while at < end {
            let slab = SlabNumber(at / SLAB as u64);
            let stop = end.min(slab.offset().0 + SLAB as u64);
            let record = source.record(slab).map_err(missing(id))?;
            let range = (at - slab.offset().0) as u32..(stop - slab.offset().0) as u32;
            let base = to + (at - copy.from.offset().0) as u32;
            for piece in record.iter().flat_map(|record| record.pieces_in(range.clone())) {
                self.store.pin(piece.place.pack, &mut lock(&self.sink).pins);
                pieces.push(Piece { at: base + (piece.at - range.start), ..piece });
            }
            at = stop;
        }
        Ok(pieces)
    }
}

/// Leaves of which every byte is in one fresh run, with the place of their bytes in the payload. A leaf that something is copied into is
/// not among them, since copies are read back.
fn whole_leaves(slab: &Slab, first: u64, changes: &Changes) -> BTreeMap<usize, usize> {
    const PER_LEAF: u64 = (LEAF / BLOCK) as u64;
    let mut whole = BTreeMap::new();
    for (run, from) in &changes.fresh {
        let (start, end) = (run.first.0 - first, run.first.0 - first + run.count);
        for number in start.div_ceil(PER_LEAF)..end.div_ceil(PER_LEAF) {
            let blocks = slab.leaf_range(number as usize).len().div_ceil(BLOCK) as u64;
            if number * PER_LEAF + blocks <= end {
                whole.insert(number as usize, from + (number * PER_LEAF - start) as usize * BLOCK);
            }
        }
    }
    for copy in &changes.copied {
        let (start, end) = (copy.to.0 - first, copy.to.0 - first + copy.count);
        for number in start / PER_LEAF..end.div_ceil(PER_LEAF) {
            whole.remove(&(number as usize));
        }
    }
    whole
}

/// Leaves of a slab that was a hole have no values yet, except those just worked out.
fn settle_zero_leaves(new: &mut Slab, slab: SlabNumber, touched: &[usize]) {
    for number in 0..new.leaves.len() {
        if touched.binary_search(&number).is_err() {
            let range = new.leaf_range(number);
            new.leaves[number] = root::zero_leaf(slab.offset().0 + range.start as u64, range.len());
        }
    }
}

fn missing(base: GenerationId) -> impl Fn(StoreError) -> IngestError {
    move |error| match error {
        StoreError::Gone(_) | StoreError::NoGeneration(_) => IngestError::MissingBase(base),
        other => IngestError::Store(other),
    }
}

/// Splits a parcel's blocks by slab. Fresh runs carry where their bytes begin in the payload.
fn by_slab(header: &Header) -> BTreeMap<SlabNumber, Changes> {
    let mut slabs: BTreeMap<SlabNumber, Changes> = BTreeMap::new();
    let mut at = 0;
    for run in split(&header.fresh) {
        slabs.entry(run.first.in_slab().0).or_default().fresh.push((run, at));
        at += run.count as usize * BLOCK;
    }
    for run in split(&header.zero) {
        slabs.entry(run.first.in_slab().0).or_default().zero.push(run);
    }
    for copy in &header.copied {
        for run in split(&[BlockRun { first: copy.to, count: copy.count }]) {
            let from = BlockNumber(copy.from.0 + (run.first.0 - copy.to.0));
            let part = Copied { to: run.first, count: run.count, source: copy.source, from };
            slabs.entry(run.first.in_slab().0).or_default().copied.push(part);
        }
    }
    slabs
}

/// Cuts runs at slab boundaries.
fn split(runs: &[BlockRun]) -> impl Iterator<Item = BlockRun> + '_ {
    const PER_SLAB: u64 = (SLAB / BLOCK) as u64;
    runs.iter().flat_map(|run| {
        let (mut first, end) = (run.first.0, run.first.0 + run.count);
        std::iter::from_fn(move || {
            let stop = end.min((first / PER_SLAB + 1) * PER_SLAB);
            let part = BlockRun { first: BlockNumber(first), count: stop - first };
            first = stop;
            (part.count > 0).then_some(part)
        })
    })
}

impl Store {
    /// The fresh blocks of the `count` parcels before `number`, oldest first.
    pub(crate) fn recent(
        &self,
        generation: GenerationId,
        number: u32,
        count: u32,
    ) -> Result<Vec<Vec<BlockRun>>, IngestError> {
        let read = || -> Result<Vec<Option<Vec<u8>>>, StoreError> {
            let table = self.db.begin_read()?.open_table(index::PARCELS)?;
            (number.saturating_sub(count)..number)
                .map(|number| Ok(table.get(&index::parcel_key(generation, number))?.map(|row| row.value().to_vec())))
                .collect()
        };
        read()?
            .into_iter()
            .map(|row| match row {
                Some(runs) => parcel::decode_runs(&runs).map_err(|_| StoreError::Corrupt("parcels").into()),
                None => Err(IngestError::MissingBase(generation)),
            })
            .collect()
    }

    /// The blocks of `fresh` that held bytes in `view`, except those of `without`: the third part of a prefix. Blocks of zeroes are
    /// left out, since nothing can be learnt from them; both ends know which they are.
    pub(crate) fn same_addresses(
        &self,
        view: &View,
        fresh: &[BlockRun],
        without: &[BlockRun],
    ) -> Result<Vec<BlockRun>, StoreError> {
        let mut without = blocks_of(without).peekable();
        let mut slab: Option<(SlabNumber, Option<Arc<Slab>>)> = None;
        let mut blocks = Vec::new();
        for block in blocks_of(fresh) {
            while without.peek().is_some_and(|other| *other < block) {
                without.next();
            }
            if without.peek() == Some(&block) || block.0 >= view.size().blocks() {
                continue;
            }
            let (number, at) = block.in_slab();
            if slab.as_ref().is_none_or(|(current, _)| *current != number) {
                slab = Some((number, view.record(number)?));
            }
            let record = slab.as_ref().and_then(|(_, record)| record.as_ref());
            if record.is_some_and(|record| record.marks.get(at).is_some_and(|mark| *mark != Mark::ZERO)) {
                blocks.push(block);
            }
        }
        Ok(crate::delta::runs_of(blocks))
    }
}
