//! A generation in the making: by capture at the edge, by ingest at the gateway. Nobody sees it before it is sealed.

use crate::chunk::{self, ChunkId, VerifiedChunk};
use crate::error::{SealError, StoreError};
use crate::generation::{Generation, GenerationStats, NewGeneration, Sealed};
use crate::id::{
    BLOCK, ByteCount, GenerationId, LEAF, LineageId, Mark, PackId, Root, SLAB, SlabNumber, UnixMillis, is_zero,
};
use crate::index::{self, SlabRow};
use crate::pack::{self, Entry, PackWriter, Place};
use crate::root;
use crate::slab::{Piece, Slab};
use crate::storage::PackClass;
use crate::store::{MARK_SAMPLE, Store, decode, lock, slab_len};
use redb::{ReadableDatabase, ReadableTable, WriteTransaction};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use zstd::zstd_safe::CCtx;

/// New bytes are cut into chunks at the latest when a run has grown to this: bounds the memory of a scan.
const MAX_RUN: usize = 4 << 20;

/// See the module's documentation. All methods may be called from any thread.
pub struct Draft {
    pub(crate) store: Arc<Store>,
    pub(crate) generation: Mutex<Generation>,
    pub(crate) sink: Mutex<Sink>,
}

/// What is not committed yet.
pub(crate) struct Sink {
    data: PackWriter,
    pub(crate) fresh: HashMap<ChunkId, Place>,
    packs: Vec<(PackClass, PackId, u64)>,
    pub(crate) rows: Vec<(SlabNumber, Option<Slab>)>,
    pub(crate) pins: HashSet<PackId>,
    pub(crate) stats: GenerationStats,
    done: BTreeSet<u64>,
}

impl Sink {
    fn new(store: &Store) -> Sink {
        Sink {
            data: PackWriter::new(PackClass::Data, &store.keys),
            fresh: HashMap::new(),
            packs: Vec::new(),
            rows: Vec::new(),
            pins: HashSet::new(),
            stats: GenerationStats::default(),
            done: BTreeSet::new(),
        }
    }
}

/// What goes into a commit beside the slabs.
#[derive(Default)]
pub(crate) struct Also {
    /// A parcel that was taken in: its number and the blocks it carried, encoded.
    pub parcel: Option<(u32, Vec<u8>)>,
    /// The proof: the draft becomes a generation.
    pub sealed: Option<Sealed>,
}

impl Draft {
    pub(crate) fn open(store: Arc<Store>, new: NewGeneration) -> Result<Arc<Draft>, StoreError> {
        if store.lineage(new.lineage)?.is_none() {
            return Err(StoreError::NoLineage(new.lineage));
        }
        let state = |why: String| StoreError::State { generation: new.id, why };
        if let Some(found) = store.generation(new.id)? {
            if found.is_sealed() {
                return Err(state("it is sealed already and never changes".into()));
            }
            if (found.lineage, found.parent, found.size) != (new.lineage, new.parent, new.size) {
                return Err(state("its draft has another lineage, parent or size".into()));
            }
            return Ok(Draft::of(store, found));
        }
        let known = store.generations(new.lineage)?;
        if let Some(draft) = known.iter().find(|generation| !generation.is_sealed()) {
            return Err(state(format!("draft {} of the same volume is not finished; discard it first", draft.id)));
        }
        let latest = known.last();
        if new.parent.is_some() && latest.map(|generation| generation.id) != new.parent {
            return Err(state("it does not build on the newest generation".into()));
        }
        let generation = Generation {
            id: new.id,
            lineage: new.lineage,
            number: latest.map_or(0, |generation| generation.number) + 1,
            parent: new.parent,
            size: new.size,
            captured_at: new.captured_at,
            sealed: None,
            stats: GenerationStats::default(),
            source: new.source,
            scanned: SlabNumber(0),
        };
        let draft = Draft::of(store, generation);
        draft.fit(latest, new.parent.is_some())?;
        draft.commit(Also::default())?;
        Ok(draft)
    }

    fn of(store: Arc<Store>, generation: Generation) -> Arc<Draft> {
        let sink = Mutex::new(Sink::new(&store));
        Arc::new(Draft { store, generation: Mutex::new(generation), sink })
    }

    /// The draft's row as it is now.
    pub fn generation(&self) -> Generation {
        lock(&self.generation).clone()
    }

    /// Makes the slabs of the generation before fit the new size: those beyond the end become zeroes, one whose length changes gets
    /// a record of that length. A seed over something older starts from zeroes.
    fn fit(&self, latest: Option<&Generation>, keep: bool) -> Result<(), StoreError> {
        let Some(latest) = latest else { return Ok(()) };
        let generation = self.generation();
        if keep && generation.size == latest.size {
            return Ok(()); // what each capture comes by: three million records of 50 TB are not to be read for it
        }
        let mut rows = Vec::new();
        for slab in self.store.slabs_with_rows(latest.lineage, latest.number)? {
            let len = slab_len(generation.size, slab);
            let Some(old) = self.store.slab(latest.lineage, slab, latest.number)? else { continue };
            if len == 0 || !keep {
                rows.push((slab, None));
            } else if old.len as usize != len {
                let refitted = self.refit(slab, &old, len)?;
                rows.push((slab, (!refitted.is_zero()).then_some(refitted)));
            }
        }
        lock(&self.sink).rows.extend(rows);
        Ok(())
    }

    fn refit(&self, slab: SlabNumber, old: &Slab, len: usize) -> Result<Slab, StoreError> {
        let mut new = Slab::zero(len as u32);
        new.pieces = old.pieces_in(0..len as u32).collect();
        for number in 0..new.leaves.len() {
            let range = new.leaf_range(number);
            if range == old.leaf_range(number) && number < old.leaves.len() {
                new.leaves[number] = old.leaves[number];
                let first = range.start / BLOCK;
                let marks = old.leaf_marks(number);
                new.marks[first..first + marks.len()].copy_from_slice(marks);
                continue;
            }
            let mut bytes = vec![0; range.len()];
            let mut wanted = Vec::new();
            Store::want(&new, range.start as u32..range.end as u32, 0, &mut wanted);
            self.store.fetch(&mut wanted, &mut bytes)?;
            new.leaves[number] = root::leaf(slab.offset().0 + range.start as u64, &bytes);
            for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
                new.marks[range.start / BLOCK + block] = mark_of(bytes);
            }
        }
        new.settle();
        Ok(new)
    }

    // ---- chunks

    /// Stores a chunk, or finds it stored.
    pub(crate) fn put_chunk(
        &self,
        context: &mut CCtx<'static>,
        chunk: &VerifiedChunk<'_>,
    ) -> Result<Place, StoreError> {
        {
            let mut sink = lock(&self.sink);
            if let Some(place) = sink.fresh.get(&chunk.id()) {
                return Ok(*place);
            }
            let pins = &mut sink.pins;
            if let Some(place) = self.store.find_chunk(chunk.id(), pins)? {
                return Ok(place);
            }
        }
        let coded = pack::compress(context, chunk.bytes());
        let mut sink = lock(&self.sink);
        if let Some(place) = sink.fresh.get(&chunk.id()) {
            return Ok(*place);
        }
        self.add_chunk(&mut sink, chunk.id(), chunk.bytes().len(), &coded)
    }

    /// Adds a chunk that is not stored to the open pack. `coded` is what [`pack::compress`] made of its `raw` bytes.
    pub(crate) fn add_chunk(
        &self,
        sink: &mut Sink,
        id: ChunkId,
        raw: usize,
        coded: &[u8],
    ) -> Result<Place, StoreError> {
        let place = sink.data.add(Entry::Chunk(id), raw, coded);
        sink.fresh.insert(id, place);
        if sink.data.len() >= self.store.options.pack_target {
            self.close_pack(sink)?;
        }
        Ok(place)
    }

    /// Writes the open data pack. When that fails, everything stays as it is for the next try: what slabs refer to is not lost.
    fn close_pack(&self, sink: &mut Sink) -> Result<(), StoreError> {
        self.store.pin(sink.data.pack, &mut sink.pins);
        let len = sink.data.finish(&*self.store.storage)?;
        sink.stats.stored_bytes += len;
        sink.packs.push((PackClass::Data, sink.data.pack, len));
        sink.data = sink.data.next(&self.store.keys);
        Ok(())
    }

    // ---- capture

    /// Begins the scan of one slab. Different slabs may be scanned at once.
    pub fn scan(self: &Arc<Self>, slab: SlabNumber) -> Result<SlabScan, StoreError> {
        let generation = self.generation();
        let len = slab_len(generation.size, slab);
        if len == 0 {
            return Err(StoreError::State {
                generation: generation.id,
                why: format!("slab {slab} lies beyond its end"),
            });
        }
        let old = self.store.slab(generation.lineage, slab, generation.number)?;
        let new = old.as_deref().cloned().unwrap_or_else(|| Slab::zero(len as u32));
        Ok(SlabScan {
            draft: self.clone(),
            slab,
            old,
            new,
            at: 0,
            run: Vec::new(),
            run_at: 0,
            context: pack::fast_context(),
            zero_leaves: Vec::new(),
            changed: false,
            differing: Vec::new(),
            report: SlabReport::default(),
        })
    }

    /// Slabs that are as in the generation before, without being scanned.
    pub fn keep(&self, slabs: Range<u64>) {
        lock(&self.sink).done.extend(slabs);
    }

    /// All slabs below this one were captured before an interruption and need not be scanned again.
    pub fn scanned(&self) -> SlabNumber {
        lock(&self.generation).scanned
    }

    /// Makes all finished slabs durable. Worth calling every few seconds, or every 256 MiB of new bytes.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.commit(Also::default())
    }

    /// Proves the draft and makes it a generation that everybody sees.
    pub fn seal(&self, now: UnixMillis) -> Result<Generation, StoreError> {
        self.checkpoint()?;
        let root = self.store.root(&self.generation())?;
        self.finish(root, now)
    }

    /// As [`Draft::seal`], if the root is what the sender promised.
    pub fn seal_as(&self, promised: Root, now: UnixMillis) -> Result<Generation, SealError> {
        self.checkpoint()?;
        let root = self.store.root(&self.generation())?;
        if root != promised {
            return Err(SealError::WrongRoot(root));
        }
        Ok(self.finish(root, now)?)
    }

    fn finish(&self, root: Root, now: UnixMillis) -> Result<Generation, StoreError> {
        self.commit(Also { sealed: Some(Sealed { root, at: now }), ..Also::default() })?;
        Ok(self.generation())
    }

    /// Forgets the draft and all it wrote.
    pub fn discard(&self) -> Result<(), StoreError> {
        self.reset();
        self.store.discard_draft(&self.generation())
    }

    /// Drops what is not committed.
    pub(crate) fn reset(&self) {
        let mut sink = lock(&self.sink);
        self.store.committed([], &mut sink.pins);
        *sink = Sink::new(&self.store);
    }

    // ---- the commit

    /// Data pack, then records, then the index: each durable before the next names it.
    pub(crate) fn commit(&self, also: Also) -> Result<(), StoreError> {
        let mut sink = lock(&self.sink);
        let mut generation = self.generation();
        if !sink.data.is_empty() {
            self.close_pack(&mut sink)?;
        }
        crate::crash_point("dedupe.commit.data");
        let mut scanned = generation.scanned.0;
        while sink.done.remove(&scanned) {
            scanned += 1;
        }
        generation.scanned = SlabNumber(scanned);
        let add = sink.stats;
        let stats = &mut generation.stats;
        stats.new_blocks += add.new_blocks;
        stats.zeroed_blocks += add.zeroed_blocks;
        stats.copied_blocks += add.copied_blocks;
        stats.stored_bytes += add.stored_bytes;
        stats.coded_bytes += add.coded_bytes;
        if let Some((number, _)) = &also.parcel {
            stats.parcels = number + 1;
        }
        generation.sealed = generation.sealed.or(also.sealed);

        let transaction = self.store.db.begin_write()?;
        let written = self.write_records(&transaction, &mut sink, &generation, &also)?;
        crate::crash_point("dedupe.commit.records");
        self.write_index(&transaction, &sink, &generation, &also, &written)?;
        transaction.commit()?;
        crate::crash_point("dedupe.commit.index");

        let mut old = std::mem::replace(&mut *sink, Sink::new(&self.store));
        sink.done = std::mem::take(&mut old.done);
        self.store.committed(old.fresh.drain(), &mut old.pins);
        *lock(&self.generation) = generation;
        Ok(())
    }

    fn write_records(
        &self,
        transaction: &WriteTransaction,
        sink: &mut Sink,
        generation: &Generation,
        also: &Also,
    ) -> Result<Vec<SlabRow>, StoreError> {
        let mut meta = self.store.meta_pack(transaction)?;
        self.store.pin(meta.pack, &mut sink.pins);
        let mut context = pack::fast_context();
        let mut written = Vec::with_capacity(sink.rows.len());
        for (slab, record) in &sink.rows {
            let entry = |subtree, zero| Entry::Slab {
                lineage: generation.lineage,
                slab: *slab,
                order: generation.number,
                subtree,
                zero,
            };
            written.push(match record {
                None => {
                    meta.note(entry([0; 32], true));
                    SlabRow::ZERO
                }
                Some(record) => {
                    let bytes = record.encode();
                    let place =
                        meta.add(entry(record.subtree, false), bytes.len(), &pack::compress(&mut context, &bytes));
                    SlabRow { place: Some(place), subtree: record.subtree }
                }
            });
        }
        if let Some((number, runs)) = &also.parcel {
            meta.add(
                Entry::Parcel { generation: generation.id, number: *number },
                runs.len(),
                &pack::compress(&mut context, runs),
            );
        }
        let record = postcard::to_stdvec(generation).expect("a generation always encodes");
        meta.add(Entry::Generation, record.len(), &pack::compress(&mut context, &record));
        let pack = meta.pack;
        let len = meta.finish(&*self.store.storage)?;
        sink.packs.push((PackClass::Meta, pack, len));
        Ok(written)
    }

    fn write_index(
        &self,
        transaction: &WriteTransaction,
        sink: &Sink,
        generation: &Generation,
        also: &Also,
        written: &[SlabRow],
    ) -> Result<(), StoreError> {
        let (lineage, order) = (generation.lineage, generation.number);
        for (class, pack, len) in &sink.packs {
            self.store.note_pack(transaction, *class, *pack, *len)?;
        }
        let mut slabs = transaction.open_table(index::SLABS)?;
        let mut touched = transaction.open_table(index::TOUCHED)?;
        let mut marks = transaction.open_table(index::MARK_SAMPLES)?;
        for ((slab, record), row) in sink.rows.iter().zip(written) {
            slabs.insert(&index::slab_key(lineage, *slab, order), &row.encode())?;
            touched.insert(&index::touched_key(lineage, order, *slab), ())?;
            let sampled = record.iter().flat_map(|record| &record.marks).filter_map(|mark| mark_sample(*mark));
            for sample in sampled {
                marks.insert(&index::sample_key(sample, lineage), slab.0)?;
            }
        }
        let mut samples: Vec<(u64, PackId)> = sink
            .fresh
            .iter()
            .filter(|(id, _)| Store::is_chunk_sample(**id))
            .map(|(id, place)| (id.prefix(), place.pack))
            .collect();
        samples.sort_unstable();
        let mut chunks = transaction.open_table(index::CHUNK_SAMPLES)?;
        for (sample, pack) in samples {
            chunks.insert(sample, &pack.0)?;
        }
        if let Some((number, runs)) = &also.parcel {
            let mut parcels = transaction.open_table(index::PARCELS)?;
            parcels.insert(&index::parcel_key(generation.id, *number), runs.as_slice())?;
        }
        write_generation(transaction, generation)
    }
}

pub(crate) fn write_generation(transaction: &WriteTransaction, generation: &Generation) -> Result<(), StoreError> {
    let record = postcard::to_stdvec(generation).expect("a generation always encodes");
    transaction.open_table(index::GENERATIONS)?.insert(&generation.id.0, record.as_slice())?;
    let key = index::order_key(generation.lineage, generation.number);
    transaction.open_table(index::ORDERS)?.insert(&key, &generation.id.0)?;
    Ok(())
}

/// The key under which the sparse index has this mark, if it is sampled.
pub(crate) fn mark_sample(mark: Mark) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&mark.0);
    let key = u64::from_le_bytes(bytes);
    (mark != Mark::ZERO && key.is_multiple_of(MARK_SAMPLE)).then_some(key)
}

/// The mark of a block; a shorter one at a volume's end counts as filled up with zeroes, so that growth alone changes nothing.
pub(crate) fn mark_of(bytes: &[u8]) -> Mark {
    if bytes.len() == BLOCK {
        return Mark::of(bytes);
    }
    let mut block = [0; BLOCK];
    block[..bytes.len()].copy_from_slice(bytes);
    Mark::of(&block)
}

/// What a scan found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlabReport {
    /// Blocks with new bytes.
    pub new_blocks: u64,
    /// Blocks that became zeroes.
    pub zeroed_blocks: u64,
}

/// Compares one slab of a source with the generation before and stores what is new. Feed it the whole slab in address order by
/// [`SlabScan::data`], [`SlabScan::hole`] and [`SlabScan::keep`], in pieces of whole leaves (the volume's last may be shorter), then [`SlabScan::finish`].
pub struct SlabScan {
    draft: Arc<Draft>,
    slab: SlabNumber,
    old: Option<Arc<Slab>>,
    new: Slab,
    at: usize,
    run: Vec<u8>,
    run_at: usize,
    context: CCtx<'static>,
    zero_leaves: Vec<usize>,
    changed: bool,
    differing: Vec<Range<u32>>,
    report: SlabReport,
}

impl SlabScan {
    /// Bytes of the slab.
    pub fn len(&self) -> usize {
        self.new.len as usize
    }

    /// A slab is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The next `len` bytes are a hole: known to be zeroes without reading them.
    ///
    /// # Panics
    /// When `len` is not whole leaves, except at the slab's end.
    pub fn hole(&mut self, len: usize) -> Result<(), StoreError> {
        self.advance(len, |scan, number, _| scan.zero_leaf(number))
    }

    /// The next `len` bytes are as in the generation before: somebody knows that without reading them.
    ///
    /// # Panics
    /// When `len` is not whole leaves, except at the slab's end.
    pub fn keep(&mut self, len: usize) -> Result<(), StoreError> {
        self.advance(len, |scan, number, _| {
            // In a slab that was all zeroes no leaf has its value yet.
            if scan.old.is_none() {
                scan.zero_leaves.push(number);
            }
            Ok(())
        })
    }

    /// Where blocks differ from the generation before so far: bytes of the slab, whole blocks, ascending and apart.
    pub fn differing(&self) -> &[Range<u32>] {
        &self.differing
    }

    /// The next bytes.
    ///
    /// # Panics
    /// When they are not whole leaves, except at the slab's end.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let start = self.at;
        self.advance(bytes.len(), |scan, number, range| {
            let bytes = &bytes[range.start - start..range.end - start];
            if is_zero(bytes) { scan.zero_leaf(number) } else { scan.leaf(number, range.start, bytes) }
        })
    }

    fn advance(
        &mut self,
        len: usize,
        mut each: impl FnMut(&mut Self, usize, Range<usize>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let end = self.at + len;
        assert!(end <= self.len() && (end == self.len() || end.is_multiple_of(LEAF)), "a scan is fed whole leaves");
        while self.at < end {
            let number = self.at / LEAF;
            let range = self.new.leaf_range(number);
            each(self, number, range.clone())?;
            self.at = range.end;
        }
        Ok(())
    }

    fn zero_leaf(&mut self, number: usize) -> Result<(), StoreError> {
        self.zero_leaves.push(number);
        let range = self.new.leaf_range(number);
        let first = range.start / BLOCK;
        let count = self.new.leaf_marks(number).len();
        let had: Vec<bool> = self.new.leaf_marks(number).iter().map(|mark| *mark != Mark::ZERO).collect();
        let was = had.iter().filter(|had| **had).count();
        if was > 0 {
            had.iter().enumerate().filter(|(_, had)| **had).for_each(|(block, _)| self.differs(first + block));
            self.changed = true;
            self.report.zeroed_blocks += was as u64;
            self.new.splice(range.start as u32..((first + count) * BLOCK) as u32, []);
            self.new.marks[first..first + count].fill(Mark::ZERO);
            self.new.leaves[number] = [0; 32];
        }
        Ok(())
    }

    fn leaf(&mut self, number: usize, start: usize, bytes: &[u8]) -> Result<(), StoreError> {
        let value = root::leaf(self.slab.offset().0 + start as u64, bytes);
        if self.old.as_ref().is_some_and(|old| old.leaves[number] == value) {
            return Ok(());
        }
        self.changed = true;
        self.new.leaves[number] = value;
        let first = start / BLOCK;
        let marks: Vec<Mark> = bytes.chunks(BLOCK).map(mark_of).collect();
        let all = marks == self.new.leaf_marks(number); // the leaf differs, so a mark collided: take every block
        for (at, (mark, block)) in marks.into_iter().zip(bytes.chunks(BLOCK)).enumerate() {
            let (index, at) = (first + at, start + at * BLOCK);
            if mark == self.new.marks[index] && !(all && mark != Mark::ZERO) {
                continue;
            }
            self.new.marks[index] = mark;
            self.differs(index);
            if mark == Mark::ZERO {
                self.report.zeroed_blocks += 1;
                self.new.splice(at as u32..(at + BLOCK) as u32, []);
            } else {
                self.report.new_blocks += 1;
                self.append(at, block)?;
            }
        }
        Ok(())
    }

    fn differs(&mut self, block: usize) {
        let (start, end) = ((block * BLOCK) as u32, ((block + 1) * BLOCK) as u32);
        match self.differing.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.differing.push(start..end),
        }
    }

    fn append(&mut self, at: usize, block: &[u8]) -> Result<(), StoreError> {
        if self.run_at + self.run.len() != at || self.run.len() >= MAX_RUN {
            self.flush()?;
            self.run_at = at;
        }
        self.run.extend_from_slice(block);
        self.run.resize(self.run.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.run.is_empty() {
            return Ok(());
        }
        let run = std::mem::take(&mut self.run);
        let pieces = self.draft.put_run(&mut self.context, self.run_at, &run)?;
        self.new.splice(self.run_at as u32..(self.run_at + run.len()) as u32, pieces);
        self.run = run;
        self.run.clear();
        Ok(())
    }

    /// Ends the scan. What it found is durable after the next [`Draft::checkpoint`].
    ///
    /// # Panics
    /// When the slab was not fed to its end.
    pub fn finish(mut self) -> Result<SlabReport, StoreError> {
        assert_eq!(self.at, self.len(), "a scan is fed the whole slab");
        self.flush()?;
        let mut row = None;
        if self.changed {
            let zero = self.new.is_zero();
            if !zero {
                for number in std::mem::take(&mut self.zero_leaves) {
                    if self.new.leaves[number] == [0; 32] {
                        let range = self.new.leaf_range(number);
                        self.new.leaves[number] =
                            root::zero_leaf(self.slab.offset().0 + range.start as u64, range.len());
                    }
                }
                self.new.settle();
            }
            row = Some((self.slab, (!zero).then_some(self.new)));
        }
        let mut sink = lock(&self.draft.sink);
        sink.rows.extend(row);
        sink.done.insert(self.slab.0);
        sink.stats.new_blocks += self.report.new_blocks;
        sink.stats.zeroed_blocks += self.report.zeroed_blocks;
        Ok(self.report)
    }
}

impl Draft {
    /// Cuts a run of new bytes into chunks, stores them, and returns the pieces from `at` of the slab on.
    pub(crate) fn put_run(&self, context: &mut CCtx<'static>, at: usize, run: &[u8]) -> Result<Vec<Piece>, StoreError> {
        let (mut pieces, mut at) = (Vec::new(), at as u32);
        for chunk in chunk::cut(run) {
            let len = chunk.bytes().len() as u32;
            pieces.push(Piece { at, len, place: self.put_chunk(context, &chunk)?, skip: 0 });
            at += len;
        }
        Ok(pieces)
    }
}

impl Store {
    /// Slabs of a lineage that have a row of order <= `order`, ascending.
    pub(crate) fn slabs_with_rows(&self, lineage: LineageId, order: u64) -> Result<Vec<SlabNumber>, StoreError> {
        let table = self.db.begin_read()?.open_table(index::SLABS)?;
        let (first, last) =
            (index::slab_key(lineage, SlabNumber(0), 0), index::slab_key(lineage, SlabNumber(u64::MAX), u64::MAX));
        let mut slabs = Vec::new();
        for row in table.range::<&[u8; 32]>(&first..=&last)? {
            let (slab, at) = index::of_slab_key(row?.0.value());
            if at <= order && slabs.last() != Some(&slab) {
                slabs.push(slab);
            }
        }
        Ok(slabs)
    }

    /// Slabs that are not all zeroes at `order`, ascending: at most `most` from `start` on, so that memory stays bounded whatever the volume has.
    pub(crate) fn slabs_with_bytes(
        &self,
        lineage: LineageId,
        order: u64,
        start: SlabNumber,
        most: usize,
    ) -> Result<Vec<SlabNumber>, StoreError> {
        let table = self.db.begin_read()?.open_table(index::SLABS)?;
        let (first, last) =
            (index::slab_key(lineage, start, 0), index::slab_key(lineage, SlabNumber(u64::MAX), u64::MAX));
        let mut slabs: Vec<SlabNumber> = Vec::new();
        let mut row: Option<(SlabNumber, bool)> = None;
        for next in table.range::<&[u8; 32]>(&first..=&last)? {
            let (key, value) = next?;
            let (slab, at) = index::of_slab_key(key.value());
            if at > order {
                continue;
            }
            if let Some((before, true)) = row.filter(|(before, _)| *before != slab) {
                slabs.push(before);
                if slabs.len() == most {
                    return Ok(slabs);
                }
            }
            row = Some((slab, SlabRow::decode(value.value()).place.is_some()));
        }
        slabs.extend(row.filter(|(_, has_bytes)| *has_bytes && slabs.len() < most).map(|(slab, _)| slab));
        Ok(slabs)
    }

    /// Slabs that generations of order in `after..=upto` changed, ascending.
    pub(crate) fn touched(&self, lineage: LineageId, after: u64, upto: u64) -> Result<Vec<SlabNumber>, StoreError> {
        let table = self.db.begin_read()?.open_table(index::TOUCHED)?;
        let first = index::touched_key(lineage, after + 1, SlabNumber(0));
        let last = index::touched_key(lineage, upto, SlabNumber(u64::MAX));
        let mut slabs = BTreeSet::new();
        if after < upto {
            for row in table.range::<&[u8; 32]>(&first..=&last)? {
                slabs.insert(index::of_slab_key(row?.0.value()).1);
            }
        }
        Ok(slabs.into_iter().map(SlabNumber).collect())
    }

    pub(crate) fn discard_draft(&self, generation: &Generation) -> Result<(), StoreError> {
        let transaction = self.db.begin_write()?;
        let mut meta = self.meta_pack(&transaction)?;
        meta.note(Entry::Forgotten(generation.id));
        {
            let mut table = transaction.open_table(index::GENERATIONS)?;
            let found: Option<Generation> =
                table.get(&generation.id.0)?.map(|row| decode(row.value(), "generations")).transpose()?;
            if found.is_none_or(|found| found.is_sealed()) {
                return Ok(()); // gone already, or sealed in the meantime
            }
            table.remove(&generation.id.0)?;
            let (lineage, order) = (generation.lineage, generation.number);
            transaction.open_table(index::ORDERS)?.remove(&index::order_key(lineage, order))?;
            let (mut slabs, mut touched) =
                (transaction.open_table(index::SLABS)?, transaction.open_table(index::TOUCHED)?);
            let first = index::touched_key(lineage, order, SlabNumber(0));
            let last = index::touched_key(lineage, order, SlabNumber(u64::MAX));
            for row in touched.extract_from_if::<&[u8; 32], _>(&first..=&last, |_, ()| true)? {
                let slab = SlabNumber(index::of_slab_key(row?.0.value()).1);
                slabs.remove(&index::slab_key(lineage, slab, order))?;
            }
            let mut parcels = transaction.open_table(index::PARCELS)?;
            let (first, last) = (index::parcel_key(generation.id, 0), index::parcel_key(generation.id, u32::MAX));
            parcels.retain_in::<&[u8; 20], _>(&first..=&last, |_, _| false)?;
            self.add_meta(&transaction, meta)?;
        }
        transaction.commit()?;
        self.drop_caches();
        Ok(())
    }
}

/// Bytes of a volume as slabs: used where a size alone is known.
pub fn slab_bytes(size: ByteCount, slab: SlabNumber) -> usize {
    slab_len(size, slab)
}

const _: () = assert!(SLAB.is_multiple_of(LEAF) && LEAF.is_multiple_of(BLOCK));

/// Id of the draft that a lineage has, if any.
pub fn draft_of(generations: &[Generation]) -> Option<GenerationId> {
    generations.iter().find(|generation| !generation.is_sealed()).map(|generation| generation.id)
}
