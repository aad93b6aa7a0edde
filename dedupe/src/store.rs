//! The store of an edge or of a tenant: lineages, generations and their bytes.
//!
//! Order of durability: pack bytes, fsync, then one index commit that names them. What a crash leaves between the two are packs that
//! nothing names; the sweep takes them. See `docs/design/store.md` for the argument at each step.

use crate::cache::Cache;
use crate::chunk::ChunkId;
use crate::error::StoreError;
use crate::generation::{Generation, Lineage, NewGeneration};
use crate::id::{BLOCK, BlockRun, ByteOffset, GenerationId, LineageId, PackId, SLAB, SlabNumber};
use crate::index::{self, SlabRow};
use crate::keys::Keys;
use crate::pack::{self, Entry, PackError, PackWriter, Place};
use crate::root::{self, Subtree};
use crate::slab::Slab;
use crate::storage::{PackClass, PackStorage};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// One chunk name in 32 goes into the sparse index: at 16 KiB a chunk one per 512 KiB, 100 M for 50 TB. A hit leads to the pack,
/// whose footer names the neighbours, which are what comes next.
const CHUNK_SAMPLE: u64 = 32;
/// One mark in 64 goes into the index of marks: one per 256 KiB.
pub(crate) const MARK_SAMPLE: u64 = 64;

/// What a store may use. The default fits an edge with 1 GiB.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Bytes of memory for the index's pages.
    pub index_cache: usize,
    /// Bytes of memory for unpacked slab records, for chunks and for chunk names, together.
    pub record_cache: usize,
    /// Bytes at which a pack is closed. Held in memory until then.
    pub pack_target: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions { index_cache: 64 << 20, record_cache: 64 << 20, pack_target: 32 << 20 }
    }
}

/// See the module's documentation.
pub struct Store {
    pub(crate) storage: Arc<dyn PackStorage>,
    pub(crate) keys: Keys,
    pub(crate) db: Database,
    pub(crate) options: StoreOptions,
    /// By place, not by slab and order: a draft writes the row of a slab anew with each parcel that touches it.
    slabs: Mutex<Cache<Place, Arc<Slab>>>,
    chunks: Mutex<Cache<Place, Arc<Vec<u8>>>>,
    pub(crate) known: Mutex<Known>,
}

/// Chunks that were seen lately, and packs that must not be swept.
pub(crate) struct Known {
    chunks: Cache<ChunkId, Place>,
    footers: Cache<PackId, ()>,
    /// Packs that a draft refers to and has not committed yet, and everything referred to since the running sweep began.
    pub(crate) pinned: HashMap<PackId, usize>,
    pub(crate) referred: HashSet<PackId>,
    /// Packs that were swept or evicted: never to be found again, though their files may be there for a moment still.
    pub(crate) doomed: HashSet<PackId>,
    /// Sweeps that began.
    markings: u64,
}

impl Known {
    /// A sweep begins: from now on what is referred to is noted. Returns which sweep it is.
    pub(crate) fn begin_marking(&mut self) -> u64 {
        self.referred.clear();
        self.markings += 1;
        self.markings
    }

    /// Takes packs out of reach for good; those that somebody refers to stay and are taken out of the list.
    ///
    /// `marking`: the sweep that found them. When another one began since, nothing is taken and the answer is `false`.
    pub(crate) fn doom(&mut self, packs: &mut Vec<(PackClass, PackId)>, marking: Option<u64>) -> bool {
        if marking.is_some_and(|marking| marking != self.markings) {
            return false;
        }
        packs.retain(|(_, pack)| !self.pinned.contains_key(pack) && !self.referred.contains(pack));
        self.doomed.extend(packs.iter().map(|(_, pack)| *pack));
        self.chunks.clear();
        self.footers.clear();
        true
    }
}

impl Store {
    /// Opens the store with its index at `index`, making it when there is none.
    ///
    /// # Errors
    /// [`StoreError::Version`] for another format; [`StoreError::Index`] when another process has it open.
    pub fn open(
        index: &Path,
        storage: Arc<dyn PackStorage>,
        keys: Keys,
        options: StoreOptions,
    ) -> Result<Arc<Store>, StoreError> {
        let db = index::open(index, options.index_cache)?;
        let known = Known {
            chunks: Cache::new(options.record_cache / 4),
            footers: Cache::new(4096),
            pinned: HashMap::new(),
            referred: HashSet::new(),
            doomed: HashSet::new(),
            markings: 0,
        };
        let slabs = Mutex::new(Cache::new(options.record_cache / 2));
        let chunks = Mutex::new(Cache::new(options.record_cache / 4));
        Ok(Arc::new(Store { storage, keys, db, options, slabs, chunks, known: Mutex::new(known) }))
    }

    // ---- lineages and generations

    /// Adds a lineage, or replaces its name and site.
    pub fn put_lineage(&self, lineage: &Lineage) -> Result<(), StoreError> {
        let record = postcard::to_stdvec(lineage).expect("a lineage always encodes");
        let commit = self.db.begin_write()?;
        let mut meta = self.meta_pack(&commit)?;
        meta.add(Entry::Lineage, record.len(), &pack::compress(&mut pack::fast_context(), &record));
        {
            self.add_meta(&commit, meta)?;
            commit.open_table(index::LINEAGES)?.insert(&lineage.id.0, record.as_slice())?;
        }
        Ok(commit.commit()?)
    }

    /// All lineages.
    pub fn lineages(&self) -> Result<Vec<Lineage>, StoreError> {
        let table = self.db.begin_read()?.open_table(index::LINEAGES)?;
        table.iter()?.map(|row| decode(row?.1.value(), "lineages")).collect()
    }

    /// One lineage.
    pub fn lineage(&self, id: LineageId) -> Result<Option<Lineage>, StoreError> {
        let table = self.db.begin_read()?.open_table(index::LINEAGES)?;
        table.get(&id.0)?.map(|row| decode(row.value(), "lineages")).transpose()
    }

    /// The generations of a lineage, oldest first, a draft last.
    pub fn generations(&self, lineage: LineageId) -> Result<Vec<Generation>, StoreError> {
        let read = self.db.begin_read()?;
        let (orders, table) = (read.open_table(index::ORDERS)?, read.open_table(index::GENERATIONS)?);
        let range = index::order_key(lineage, 0)..=index::order_key(lineage, u64::MAX);
        let mut generations = Vec::new();
        for row in orders.range::<&[u8; 24]>(&range.start().clone()..=&range.end().clone())? {
            let id = *row?.1.value();
            if let Some(row) = table.get(&id)? {
                generations.push(decode(row.value(), "generations")?);
            }
        }
        Ok(generations)
    }

    /// One generation or draft.
    pub fn generation(&self, id: GenerationId) -> Result<Option<Generation>, StoreError> {
        let table = self.db.begin_read()?.open_table(index::GENERATIONS)?;
        table.get(&id.0)?.map(|row| decode(row.value(), "generations")).transpose()
    }

    /// The newest sealed generation of a lineage.
    pub fn latest(&self, lineage: LineageId) -> Result<Option<Generation>, StoreError> {
        Ok(self.generations(lineage)?.into_iter().rev().find(Generation::is_sealed))
    }

    pub(crate) fn must_have(&self, id: GenerationId) -> Result<Generation, StoreError> {
        self.generation(id)?.ok_or(StoreError::NoGeneration(id))
    }

    /// Begins a draft, or goes on with the one of that id.
    ///
    /// # Errors
    /// [`StoreError::NoLineage`]; [`StoreError::State`] when the id is that of a sealed generation, or the parent is none.
    pub fn draft(self: &Arc<Self>, new: NewGeneration) -> Result<Arc<crate::draft::Draft>, StoreError> {
        crate::draft::Draft::open(self.clone(), new)
    }

    /// A generation's bytes, or a draft's as far as committed.
    pub fn view(self: &Arc<Self>, id: GenerationId) -> Result<View, StoreError> {
        Ok(View { store: self.clone(), generation: Arc::new(self.must_have(id)?) })
    }

    // ---- slabs

    /// The row that holds for a slab at `order`, and the order that it was written at.
    pub(crate) fn slab_row(
        &self,
        lineage: LineageId,
        slab: SlabNumber,
        order: u64,
    ) -> Result<Option<(u64, SlabRow)>, StoreError> {
        let table = self.db.begin_read()?.open_table(index::SLABS)?;
        slab_row_in(&table, lineage, slab, order)
    }

    /// A slab as it is at `order`; `None` when it is all zeroes.
    pub(crate) fn slab(
        &self,
        lineage: LineageId,
        slab: SlabNumber,
        order: u64,
    ) -> Result<Option<Arc<Slab>>, StoreError> {
        match self.slab_row(lineage, slab, order)? {
            Some((_, row)) => self.slab_of_row(row),
            None => Ok(None),
        }
    }

    pub(crate) fn slab_of_row(&self, row: SlabRow) -> Result<Option<Arc<Slab>>, StoreError> {
        let Some(place) = row.place else { return Ok(None) };
        if let Some(found) = lock(&self.slabs).find(&place, |slab| slab.cost()) {
            return Ok(Some(found));
        }
        let record = self.record(PackClass::Meta, place)?;
        let decoded = Slab::decode(&record).ok_or(StoreError::Corrupt("a slab record"))?;
        if decoded.subtree != row.subtree {
            return Err(StoreError::Corrupt("a slab's subtree value"));
        }
        let decoded = Arc::new(decoded);
        lock(&self.slabs).put(place, decoded.clone(), decoded.cost());
        Ok(Some(decoded))
    }

    /// Forgets cached records; after rows were rewritten in place.
    pub(crate) fn drop_caches(&self) {
        lock(&self.slabs).clear();
        lock(&self.chunks).clear();
        let mut known = lock(&self.known);
        known.chunks.clear();
        known.footers.clear();
    }

    pub(crate) fn record(&self, class: PackClass, place: Place) -> Result<Vec<u8>, StoreError> {
        match pack::read_record(&*self.storage, &self.keys, class, place) {
            Err(_) if class == PackClass::Meta => {
                pack::read_record(&*self.storage, &self.keys, PackClass::MetaCopy, place).map_err(gone)
            }
            result => result.map_err(gone),
        }
    }

    /// The root of a lineage at `order`, from the slabs' subtree values.
    pub(crate) fn root(self: &Arc<Self>, generation: &Generation) -> Result<crate::id::Root, StoreError> {
        let slabs = generation.size.slabs();
        if slabs <= 1 {
            return self.small_root(generation);
        }
        let mut values: Vec<Option<Subtree>> = Vec::new();
        {
            let read = self.db.begin_read()?;
            let (table, zeroes) = (read.open_table(index::SLABS)?, read.open_table(index::ZEROES)?);
            let first = index::slab_key(generation.lineage, SlabNumber(0), 0);
            let last = index::slab_key(generation.lineage, SlabNumber(slabs - 1), u64::MAX);
            for row in table.range::<&[u8; 32]>(&first..=&last)? {
                let (key, value) = row?;
                let (slab, order) = index::of_slab_key(key.value());
                if order <= generation.number {
                    values.resize(slab.0 as usize + 1, None);
                    let row = SlabRow::decode(value.value());
                    values[slab.0 as usize] = row.place.map(|_| row.subtree);
                }
            }
            values.resize(slabs as usize, None);
            for (at, value) in values.iter_mut().enumerate().filter(|(_, value)| value.is_none()) {
                *value = zeroes.get(at as u64)?.map(|known| *known.value());
            }
            if !(generation.size.0).is_multiple_of(SLAB as u64) {
                // The table has whole slabs; a shorter last one has a value of its own.
                let last = slabs - 1;
                let row = slab_row_in(&table, generation.lineage, SlabNumber(last), generation.number)?;
                let known = row.and_then(|(_, row)| row.place.map(|_| row.subtree));
                values[last as usize] =
                    known.or(Some(root::zero_slab(SlabNumber(last), slab_len(generation.size, SlabNumber(last)))));
            }
        }
        self.fill_zeroes(&mut values)?;
        let mut tree = root::Tree::default();
        values.iter().flatten().for_each(|value| tree.push(*value));
        Ok(tree.root().expect("two slabs at least"))
    }

    /// Works out and keeps the values of whole hole slabs that were not asked for before.
    fn fill_zeroes(&self, values: &mut [Option<Subtree>]) -> Result<(), StoreError> {
        let missing: Vec<usize> =
            values.iter().enumerate().filter(|(_, value)| value.is_none()).map(|(at, _)| at).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let work = |part: &[usize]| {
            part.iter().map(|at| (*at, root::zero_slab(SlabNumber(*at as u64), SLAB))).collect::<Vec<_>>()
        };
        let found: Vec<(usize, Subtree)> = std::thread::scope(|scope| {
            let parts: Vec<_> =
                missing.chunks(missing.len().div_ceil(threads)).map(|part| scope.spawn(move || work(part))).collect();
            parts
                .into_iter()
                .flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let commit = self.db.begin_write()?;
        {
            let mut table = commit.open_table(index::ZEROES)?;
            for (at, value) in &found {
                table.insert(*at as u64, value)?;
            }
        }
        commit.commit()?;
        for (at, value) in found {
            values[at] = Some(value);
        }
        Ok(())
    }

    fn small_root(self: &Arc<Self>, generation: &Generation) -> Result<crate::id::Root, StoreError> {
        let view = View { store: self.clone(), generation: Arc::new(generation.clone()) };
        let mut bytes = vec![0; generation.size.0 as usize];
        view.read(ByteOffset(0), &mut bytes)?;
        Ok(root::of_bytes(&bytes))
    }

    // ---- packs of records

    /// Begins a pack of records, with the number of its commit. The number is taken while the index's one writer is held, so that
    /// the order of numbers is the order in which commits saw each other.
    pub(crate) fn meta_pack(&self, transaction: &redb::WriteTransaction) -> Result<PackWriter, StoreError> {
        let mut table = transaction.open_table(index::META)?;
        let number = table.get("commit")?.map_or(0, |value| value.value()) + 1;
        table.insert("commit", number)?;
        let mut meta = PackWriter::new(PackClass::Meta, &self.keys);
        meta.note(Entry::Commit(number));
        Ok(meta)
    }

    /// Writes a pack of records within a commit of the index.
    pub(crate) fn add_meta(
        &self,
        transaction: &redb::WriteTransaction,
        mut meta: PackWriter,
    ) -> Result<(), StoreError> {
        let pack = meta.pack;
        let len = meta.finish(&*self.storage)?;
        self.note_pack(transaction, PackClass::Meta, pack, len)
    }

    pub(crate) fn note_pack(
        &self,
        transaction: &redb::WriteTransaction,
        class: PackClass,
        pack: PackId,
        len: u64,
    ) -> Result<(), StoreError> {
        let commit = transaction.open_table(index::META)?.get("commit")?.map_or(0, |value| value.value());
        transaction.open_table(index::PACKS)?.insert(&index::pack_key(class, pack), (len, commit))?;
        Ok(())
    }

    // ---- chunks

    /// Looks for a chunk by name; a hit is pinned in `pins` before anything can sweep it.
    pub(crate) fn find_chunk(&self, id: ChunkId, pins: &mut HashSet<PackId>) -> Result<Option<Place>, StoreError> {
        if let Some(place) = self.known_chunk(id, pins) {
            return Ok(Some(place));
        }
        if !id.prefix().is_multiple_of(CHUNK_SAMPLE) {
            return Ok(None);
        }
        let pack = {
            let table = self.db.begin_read()?.open_table(index::CHUNK_SAMPLES)?;
            match table.get(id.prefix())? {
                Some(pack) => PackId(*pack.value()),
                None => return Ok(None),
            }
        };
        {
            let mut known = lock(&self.known);
            if known.doomed.contains(&pack) || known.footers.find(&pack, |()| 1).is_some() {
                return Ok(None);
            }
        }
        // A pack that was swept or damaged is no reason to fail: the chunk is simply stored again.
        if let Ok(footer) = pack::read_footer(&*self.storage, &self.keys, pack, PackClass::Data) {
            let mut known = lock(&self.known);
            if known.doomed.contains(&pack) {
                return Ok(None);
            }
            known.footers.put(pack, (), 1);
            for (entry, place) in footer {
                if let Entry::Chunk(id) = entry {
                    known.chunks.put(id, place, CHUNK_COST);
                }
            }
        }
        Ok(self.known_chunk(id, pins))
    }

    fn known_chunk(&self, id: ChunkId, pins: &mut HashSet<PackId>) -> Option<Place> {
        let mut known = lock(&self.known);
        let place = known.chunks.find(&id, |_| CHUNK_COST)?;
        if pins.insert(place.pack) {
            *known.pinned.entry(place.pack).or_default() += 1;
        }
        known.referred.insert(place.pack);
        Some(place)
    }

    /// Keeps a pack from being swept until the pins are let go.
    pub(crate) fn pin(&self, pack: PackId, pins: &mut HashSet<PackId>) {
        let mut known = lock(&self.known);
        if pins.insert(pack) {
            *known.pinned.entry(pack).or_default() += 1;
        }
        known.referred.insert(pack);
    }

    /// Makes committed chunks known, and lets their pins go.
    pub(crate) fn committed(&self, chunks: impl IntoIterator<Item = (ChunkId, Place)>, pins: &mut HashSet<PackId>) {
        let mut known = lock(&self.known);
        for (id, place) in chunks {
            known.chunks.put(id, place, CHUNK_COST);
        }
        for pack in pins.drain() {
            if let Some(count) = known.pinned.get_mut(&pack) {
                *count -= 1;
                if *count == 0 {
                    known.pinned.remove(&pack);
                }
            }
        }
    }

    pub(crate) fn is_chunk_sample(id: ChunkId) -> bool {
        id.prefix().is_multiple_of(CHUNK_SAMPLE)
    }

    /// A chunk's bytes.
    pub(crate) fn chunk(&self, place: Place) -> Result<Arc<Vec<u8>>, StoreError> {
        if let Some(bytes) = lock(&self.chunks).find(&place, |bytes| bytes.len() + 100) {
            return Ok(bytes);
        }
        let bytes = Arc::new(self.record(PackClass::Data, place)?);
        lock(&self.chunks).put(place, bytes.clone(), bytes.len() + 100);
        Ok(bytes)
    }

    /// Copies what the places hold into `buffer`, pack by pack, each chunk unpacked once.
    fn gather(&self, wanted: &mut [Wanted], buffer: &mut [u8]) -> Result<(), StoreError> {
        wanted.sort_unstable_by_key(|want| (want.place.pack, want.place.offset));
        let mut rest = &wanted[..];
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|want| want.place.pack == first.place.pack).count();
            let (batch, after) = rest.split_at(same);
            self.gather_pack(batch, buffer)?;
            rest = after;
        }
        Ok(())
    }

    fn gather_pack(&self, batch: &[Wanted], buffer: &mut [u8]) -> Result<(), StoreError> {
        let pack = batch[0].place.pack;
        let key = self.keys.pack(pack);
        // Bounded requests: sealed bytes of one are all in memory at once.
        const REQUEST: usize = 8 << 20;
        let mut rest = batch;
        while !rest.is_empty() {
            // Records that lie one behind the other, as those of one capture do, are read as one.
            let mut ranges: Vec<(u64, usize)> = Vec::new();
            let (mut bytes, mut taken, mut last) = (0, 0, None);
            for want in rest {
                if last != Some(want.place) {
                    if bytes > REQUEST {
                        break;
                    }
                    let (offset, stored) = (u64::from(want.place.offset), want.place.stored as usize);
                    match ranges.last_mut() {
                        Some((start, len)) if *start + *len as u64 == offset => *len += stored,
                        _ => ranges.push((offset, stored)),
                    }
                    bytes += stored;
                    last = Some(want.place);
                }
                taken += 1;
            }
            let mut sealed =
                self.storage.read_ranges(pack, PackClass::Data, &ranges).map_err(|e| gone(PackError::from(e)))?;
            let mut sealed = sealed.iter_mut().zip(&ranges);
            let mut now: Option<(&mut [u8], u64)> = None;
            for wants in rest[..taken].chunk_by(|one, other| one.place == other.place) {
                let (place, stored) = (wants[0].place, wants[0].place.stored as usize);
                let (bytes, offset) = match now.take() {
                    Some((bytes, offset)) if !bytes.is_empty() => (bytes, offset),
                    _ => sealed.next().map(|(bytes, (offset, _))| (&mut bytes[..], *offset)).unwrap_or_default(),
                };
                if offset != u64::from(place.offset) || bytes.len() < stored {
                    return Err(StoreError::Corrupt("a storage's answer"));
                }
                let (record, after) = bytes.split_at_mut(stored);
                now = Some((after, offset + stored as u64));
                unpack(&key, wants, record, buffer)?;
            }
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Adds to `wanted` what `range` of a slab needs, to be put at `to` of a zeroed buffer.
    pub(crate) fn want(slab: &Slab, range: Range<u32>, to: usize, wanted: &mut Vec<Wanted>) {
        wanted.extend(slab.pieces_in(range.clone()).map(|piece| Wanted {
            place: piece.place,
            skip: piece.skip as usize,
            len: piece.len as usize,
            to: to + (piece.at - range.start) as usize,
        }));
    }

    /// Reads what [`Store::want`] collected. `buffer` must be zeroed where nothing is wanted.
    pub(crate) fn fetch(&self, wanted: &mut [Wanted], buffer: &mut [u8]) -> Result<(), StoreError> {
        // A few chunks: through the cache, since neighbours are often read next. Many: in bulk, past it.
        if wanted.len() <= 8 {
            for want in wanted {
                let chunk = self.chunk(want.place)?;
                let from = chunk.get(want.skip..want.skip + want.len).ok_or(StoreError::Corrupt("a slab's piece"))?;
                buffer[want.to..want.to + want.len].copy_from_slice(from);
            }
            return Ok(());
        }
        self.gather(wanted, buffer)
    }

    // ---- figures

    /// What the store holds.
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let read = self.db.begin_read()?;
        let mut stats = StoreStats::default();
        for row in read.open_table(index::PACKS)?.iter()? {
            let (key, len) = row?;
            match index::of_pack_key(key.value()).0 {
                PackClass::Data => stats.data_bytes += len.value().0,
                _ => stats.meta_bytes += 2 * len.value().0,
            }
            stats.packs += 1;
        }
        stats.generations = read.open_table(index::GENERATIONS)?.len()?;
        stats.anchors = read.open_table(index::ANCHORS)?.len()?;
        Ok(stats)
    }
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Pack files.
    pub packs: u64,
    /// Bytes of chunks, as stored.
    pub data_bytes: u64,
    /// Bytes of records, as stored, both copies.
    pub meta_bytes: u64,
    /// Generations and drafts.
    pub generations: u64,
    /// Anchors in the index.
    pub anchors: u64,
}

/// Bytes that one known chunk name takes, about.
const CHUNK_COST: usize = 100;

/// `len` bytes from `skip` on of the chunk at `place`, to be put at `to` of a buffer.
pub(crate) struct Wanted {
    place: Place,
    skip: usize,
    len: usize,
    to: usize,
}

/// Unpacks one record to where it is wanted; straight into the buffer where it is wanted whole, once.
fn unpack(
    key: &crate::keys::PackKey,
    wants: &[Wanted],
    sealed: &mut [u8],
    buffer: &mut [u8],
) -> Result<(), StoreError> {
    const BEYOND: StoreError = StoreError::Corrupt("a slab's piece");
    let place = wants[0].place;
    if let [want] = wants
        && (want.skip, want.len) == (0, place.raw as usize)
    {
        let into = buffer.get_mut(want.to..want.to + want.len).ok_or(BEYOND)?;
        return Ok(pack::open_record_into(key, place, sealed, into)?);
    }
    let chunk = pack::open_record(key, place, sealed)?;
    for want in wants {
        let from = chunk.get(want.skip..want.skip + want.len).ok_or(BEYOND)?;
        buffer[want.to..want.to + want.len].copy_from_slice(from);
    }
    Ok(())
}

/// Runs with the places that their bytes have when they lie one after the other.
pub(crate) fn placed(runs: &[BlockRun]) -> Vec<(BlockRun, usize)> {
    let mut at = 0;
    let place = |run: &BlockRun| {
        let placed = (*run, at);
        at += run.count as usize * BLOCK;
        placed
    };
    runs.iter().map(place).collect()
}

pub(crate) fn gone(error: PackError) -> StoreError {
    match error {
        PackError::Storage(e) if e.is_missing() => match e.pack.parse() {
            Ok(pack) => StoreError::Gone(pack),
            Err(_) => StoreError::Pack(PackError::Storage(e)),
        },
        other => StoreError::Pack(other),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds a store's lock")
}

pub(crate) fn decode<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8], table: &'static str) -> Result<T, StoreError> {
    postcard::from_bytes(bytes).map_err(|_| StoreError::Corrupt(table))
}

pub(crate) fn slab_row_in(
    table: &impl ReadableTable<&'static [u8; 32], &'static [u8; 64]>,
    lineage: LineageId,
    slab: SlabNumber,
    order: u64,
) -> Result<Option<(u64, SlabRow)>, StoreError> {
    let (first, last) = (index::slab_key(lineage, slab, 0), index::slab_key(lineage, slab, order));
    let row = table.range::<&[u8; 32]>(&first..=&last)?.next_back().transpose()?;
    Ok(row.map(|(key, value)| (index::of_slab_key(key.value()).1, SlabRow::decode(value.value()))))
}

/// Bytes of a slab of a volume of `size`.
pub(crate) fn slab_len(size: crate::id::ByteCount, slab: SlabNumber) -> usize {
    size.0.saturating_sub(slab.offset().0).min(SLAB as u64) as usize
}

/// Whether a range holds bytes or is known to be zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeroes, without a byte stored.
    Zero,
    /// Bytes.
    Data,
}

/// A generation's bytes. Cheap to clone.
#[derive(Clone)]
pub struct View {
    store: Arc<Store>,
    generation: Arc<Generation>,
}

impl View {
    /// The generation.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Size of the volume.
    pub fn size(&self) -> crate::id::ByteCount {
        self.generation.size
    }

    /// Fills `buffer` from `offset` on; beyond the volume's end are zeroes.
    ///
    /// # Errors
    /// [`StoreError::Gone`] for evicted bytes, [`PackError::Damaged`] names the pack and the place.
    pub fn read(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<(), StoreError> {
        buffer.fill(0);
        let len = buffer.len();
        let mut wanted = Vec::new();
        self.want(offset, len, 0, &mut wanted)?;
        self.store.fetch(&mut wanted, buffer)
    }

    /// Reads runs of blocks, one after the other, into a buffer of zeroes; the last block of a volume is filled up with zeroes.
    pub fn read_blocks(&self, runs: &[BlockRun], buffer: &mut [u8]) -> Result<(), StoreError> {
        self.read_placed(&placed(runs), buffer)
    }

    /// The same with each run at a place of its own in the buffer.
    pub(crate) fn read_placed(&self, runs: &[(BlockRun, usize)], buffer: &mut [u8]) -> Result<(), StoreError> {
        let mut wanted = Vec::new();
        for (run, to) in runs {
            self.want(run.first.offset(), run.count as usize * BLOCK, *to, &mut wanted)?;
        }
        self.store.fetch(&mut wanted, buffer)
    }

    fn want(&self, offset: ByteOffset, len: usize, to: usize, wanted: &mut Vec<Wanted>) -> Result<(), StoreError> {
        let (mut at, end) = (offset.0, (offset.0 + len as u64).min(self.generation.size.blocks() * BLOCK as u64));
        while at < end {
            let slab = SlabNumber(at / SLAB as u64);
            let stop = end.min(slab.offset().0 + SLAB as u64);
            if let Some(record) = self.store.slab(self.generation.lineage, slab, self.generation.number)? {
                let range = (at - slab.offset().0) as u32..(stop - slab.offset().0) as u32;
                Store::want(&record, range, to + (at - offset.0) as usize, wanted);
            }
            at = stop;
        }
        Ok(())
    }

    /// What a slab holds, as runs of absolute byte ranges that cover it, at block grain.
    pub fn runs(&self, slab: SlabNumber) -> Result<Vec<(Range<u64>, Content)>, StoreError> {
        let (start, len) = (slab.offset().0, slab_len(self.generation.size, slab) as u64);
        if len == 0 {
            return Ok(Vec::new());
        }
        let Some(record) = self.store.slab(self.generation.lineage, slab, self.generation.number)? else {
            return Ok(vec![(start..start + len, Content::Zero)]);
        };
        let mut runs: Vec<(Range<u64>, Content)> = Vec::new();
        for (number, mark) in record.marks.iter().enumerate() {
            let content = if *mark == crate::id::Mark::ZERO { Content::Zero } else { Content::Data };
            let range = start + (number * BLOCK) as u64..(start + ((number + 1) * BLOCK) as u64).min(start + len);
            match runs.last_mut() {
                Some((last, same)) if *same == content => last.end = range.end,
                _ => runs.push((range, content)),
            }
        }
        Ok(runs)
    }

    /// A generation that is only named here, because the other end has it.
    pub(crate) fn named(store: &Arc<Store>, id: GenerationId, like: &Generation) -> View {
        let generation = Generation { id, size: crate::id::ByteCount(0), ..like.clone() };
        View { store: store.clone(), generation: Arc::new(generation) }
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn record(&self, slab: SlabNumber) -> Result<Option<Arc<Slab>>, StoreError> {
        self.store.slab(self.generation.lineage, slab, self.generation.number)
    }
}
