//! Keeping the store in order: forgetting generations, sweeping what nothing names, evicting old bytes at the edge.
//!
//! | while … runs | capture or ingest | reading | sweep, evict |
//! |---|---|---|---|
//! | sweep, evict | packs that a draft wrote or refers to are pinned until its commit; what anything referred to since the marking began is spared; a doomed pack is never found again | readers get `Gone`, as for any evicted bytes, and try again or do without | one at a time, by the lock of the index's writer |
//! | forget | takes rows that no generation sees; a draft's parent is never forgotten | a view of the forgotten generation may miss rows: its bytes are `Gone` or older; callers hold a lease or check that it is still listed | – |
//!
//! Files are deleted after the index has let go of them, so a crash between the two leaves a file that the next sweep takes.

use crate::error::StoreError;
use crate::generation::Generation;
use crate::id::{BLOCK, GenerationId, LineageId, PackId, SlabNumber};
use crate::index::{self, SlabRow};
use crate::pack::{self, Entry, PackWriter, Place};
use crate::root::Progress;
use crate::slab::Slab;
use crate::storage::PackClass;
use crate::store::{Store, lock};
use redb::{ReadableDatabase, ReadableTable};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

/// How much of the time background work may take: 1.0 all of it, 0.25 a quarter.
#[derive(Clone, Copy, Debug)]
pub struct Pace(pub f64);

impl Pace {
    /// Begins a spell of work.
    #[allow(clippy::disallowed_methods, reason = "what is paced is real time")]
    pub(crate) fn begin(self) -> Spell {
        Spell { pace: self, began: Instant::now() }
    }
}

/// A spell of work, after which comes a rest.
pub(crate) struct Spell {
    pace: Pace,
    began: Instant,
}

impl Spell {
    /// Waits so long that the work was the pace's share of the time.
    pub(crate) fn rest(self) {
        let rest = self.began.elapsed().as_secs_f64() * (1.0 / self.pace.0.clamp(0.01, 1.0) - 1.0);
        std::thread::sleep(Duration::from_secs_f64(rest.min(5.0)));
    }
}

/// A pack less than this part of which is in use is rewritten.
const WORTH_REWRITING: f64 = 0.5;

/// What a sweep would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GcPlan {
    /// Packs that nothing names.
    #[serde(skip)]
    pub dead: Vec<(PackClass, PackId)>,
    /// Bytes of these.
    pub dead_bytes: u64,
    /// Data packs that are mostly unused, whose rest moves into new ones.
    #[serde(skip)]
    pub thin: Vec<PackId>,
    /// Bytes of these.
    pub thin_bytes: u64,
    /// Bytes in use of these.
    pub moved_bytes: u64,
}

impl fmt::Display for GcPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        write!(
            f,
            "{} packs are in no use ({:.1} MB); {} packs are mostly unused ({:.1} MB, of which {:.1} MB move)",
            self.dead.len(),
            mb(self.dead_bytes),
            self.thin.len(),
            mb(self.thin_bytes),
            mb(self.moved_bytes)
        )
    }
}

impl Store {
    /// Takes a sealed generation out of its lineage. What younger ones need of it stays.
    ///
    /// # Errors
    /// [`StoreError::State`] for the newest sealed one, and for one that a draft builds on.
    pub fn forget(&self, id: GenerationId) -> Result<(), StoreError> {
        let generation = self.must_have(id)?;
        let state = |why: &str| StoreError::State { generation: id, why: why.into() };
        let all = self.generations(generation.lineage)?;
        if !generation.is_sealed() {
            return Err(state("it is a draft: discard it instead"));
        }
        let Some(next) = all.iter().find(|other| other.number > generation.number && other.is_sealed()) else {
            return Err(state("it is the newest one and is never forgotten"));
        };
        if all.iter().any(|other| !other.is_sealed() && other.parent == Some(id)) {
            return Err(state("a draft builds on it"));
        }
        let transaction = self.db.begin_write()?;
        let mut meta = self.meta_pack(&transaction)?;
        meta.note(Entry::Forgotten(id));
        {
            let (lineage, order) = (generation.lineage, generation.number);
            transaction.open_table(index::GENERATIONS)?.remove(&id.0)?;
            transaction.open_table(index::ORDERS)?.remove(&index::order_key(lineage, order))?;
            self.add_meta(&transaction, meta)?;
            let (mut slabs, mut touched) =
                (transaction.open_table(index::SLABS)?, transaction.open_table(index::TOUCHED)?);
            let before = all.iter().rev().find(|other| other.number < order).map_or(0, |other| other.number);
            for order in before + 1..=order {
                let (first, last) = (
                    index::touched_key(lineage, order, SlabNumber(0)),
                    index::touched_key(lineage, order, SlabNumber(u64::MAX)),
                );
                let mut superseded = Vec::new();
                for row in touched.range::<&[u8; 32]>(&first..=&last)? {
                    let slab = SlabNumber(index::of_slab_key(row?.0.value()).1);
                    let (first, last) =
                        (index::slab_key(lineage, slab, order + 1), index::slab_key(lineage, slab, next.number));
                    if slabs.range::<&[u8; 32]>(&first..=&last)?.next().is_some() {
                        superseded.push(slab);
                    }
                }
                for slab in superseded {
                    slabs.remove(&index::slab_key(lineage, slab, order))?;
                    touched.remove(&index::touched_key(lineage, order, slab))?;
                }
            }
            let mut parcels = transaction.open_table(index::PARCELS)?;
            let (first, last) = (index::parcel_key(id, 0), index::parcel_key(id, u32::MAX));
            parcels.retain_in::<&[u8; 20], _>(&first..=&last, |_, _| false)?;
        }
        Ok(transaction.commit()?)
    }

    /// Looks what nothing names, and what is mostly unused.
    pub fn gc_plan(&self, progress: &Progress) -> Result<GcPlan, StoreError> {
        lock(&self.known).begin_marking();
        let listed = self.storage.list()?;
        let used = self.used(progress)?;
        let mut plan = GcPlan::default();
        for (pack, class) in listed {
            let len = self.storage.len(pack, class).unwrap_or(0);
            match used.get(&pack) {
                None => {
                    plan.dead.push((class, pack));
                    plan.dead_bytes += len;
                }
                Some(live) if class == PackClass::Data && (*live as f64) < len as f64 * WORTH_REWRITING => {
                    plan.thin.push(pack);
                    plan.thin_bytes += len;
                    plan.moved_bytes += live;
                }
                Some(_) => {}
            }
        }
        Ok(plan)
    }

    /// Bytes in use of each pack that is.
    fn used(&self, progress: &Progress) -> Result<HashMap<PackId, u64>, StoreError> {
        let mut used: HashMap<PackId, u64> = HashMap::new();
        let mut chunks: HashSet<Place> = HashSet::new();
        self.each_row(|_, row| {
            if progress.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            let Some(place) = row.place else { return Ok(()) };
            *used.entry(place.pack).or_default() += u64::from(place.stored);
            let record = self.record(PackClass::Meta, place)?;
            let slab = Slab::decode(&record).ok_or(StoreError::Corrupt("a slab record"))?;
            for piece in &slab.pieces {
                // Counted once per slab, not once per store: a chunk used by many slabs makes its pack look fuller than it is,
                // never emptier, and the set stays small.
                if chunks.insert(piece.place) {
                    *used.entry(piece.place.pack).or_default() += u64::from(piece.place.stored);
                }
            }
            chunks.clear();
            progress.add(1);
            Ok(())
        })?;
        Ok(used)
    }

    pub(crate) fn each_row(
        &self,
        mut each: impl FnMut([u8; 32], SlabRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // In batches, so that no read transaction lives for hours and keeps the index from reusing its pages.
        const BATCH: usize = 1024;
        let mut from = [0; 32];
        loop {
            let batch: Vec<([u8; 32], SlabRow)> = {
                let table = self.db.begin_read()?.open_table(index::SLABS)?;
                let rows = table.range::<&[u8; 32]>(&from..)?.take(BATCH);
                rows.map(|row| row.map(|(key, value)| (*key.value(), SlabRow::decode(value.value()))))
                    .collect::<Result<_, _>>()?
            };
            let Some((last, _)) = batch.last() else { return Ok(()) };
            from = *last;
            let full = batch.len() == BATCH;
            for (key, row) in batch {
                each(key, row)?;
            }
            if !full {
                return Ok(());
            }
            let mut carry = true;
            from.iter_mut().rev().for_each(|byte| {
                if carry {
                    (*byte, carry) = byte.overflowing_add(1);
                }
            });
        }
    }

    /// Does what the plan says, as far as it still holds. Returns the bytes given back.
    pub fn gc(&self, plan: &GcPlan, pace: Pace, progress: &Progress) -> Result<u64, StoreError> {
        let mut freed = 0;
        if !plan.dead.is_empty() {
            self.checkpoint_records()?;
            freed += self.remove(plan.dead.clone(), pace)?;
        }
        if !plan.thin.is_empty() {
            self.rewrite(&plan.thin.iter().copied().collect(), pace, progress)?;
            let used = self.used(progress)?;
            let empty =
                plan.thin.iter().filter(|pack| !used.contains_key(pack)).map(|pack| (PackClass::Data, *pack)).collect();
            freed += self.remove(empty, pace)?;
        }
        Ok(freed)
    }

    /// Moves what is in use of a pack of data into another and deletes it: a pack that was damaged and mended holds records still that do not open, and
    /// a chunk must not be found there. Returns the bytes given back; 0 when somebody refers to it, so that a later sweep deletes it.
    ///
    /// # Errors
    /// As reading a damaged record, while a generation still needs one of the pack's.
    pub fn retire(&self, pack: PackId, pace: Pace, progress: &Progress) -> Result<u64, StoreError> {
        self.rewrite(&HashSet::from([pack]), pace, progress)?;
        match self.used(progress)?.contains_key(&pack) {
            true => Ok(0),
            false => self.remove(vec![(PackClass::Data, pack)], pace),
        }
    }

    /// One pack with every lineage, generation and draft as it is now: the packs that said so before may go.
    pub(crate) fn checkpoint_records(&self) -> Result<(), StoreError> {
        let transaction = self.db.begin_write()?;
        self.checkpoint_in(&transaction)?;
        Ok(transaction.commit()?)
    }

    /// The same, as a part of a commit.
    pub(crate) fn checkpoint_in(&self, transaction: &redb::WriteTransaction) -> Result<(), StoreError> {
        let mut context = pack::fast_context();
        let mut meta = self.meta_pack(transaction)?;
        meta.note(Entry::Checkpoint);
        {
            for row in transaction.open_table(index::LINEAGES)?.iter()? {
                let (_, record) = row?;
                meta.add(Entry::Lineage, record.value().len(), &pack::compress(&mut context, record.value()));
            }
            for row in transaction.open_table(index::GENERATIONS)?.iter()? {
                let (_, record) = row?;
                meta.add(Entry::Generation, record.value().len(), &pack::compress(&mut context, record.value()));
            }
            for row in transaction.open_table(index::PARCELS)?.iter()? {
                let (key, runs) = row?;
                let generation = GenerationId(key.value()[..16].try_into().expect("16 bytes"));
                let number = u32::from_be_bytes(key.value()[16..].try_into().expect("4 bytes"));
                meta.add(
                    Entry::Parcel { generation, number },
                    runs.value().len(),
                    &pack::compress(&mut context, runs.value()),
                );
            }
            // Slabs of zeroes are notes without a record, so their packs look unused.
            for row in transaction.open_table(index::SLABS)?.iter()? {
                let (key, value) = row?;
                if SlabRow::decode(value.value()) == SlabRow::ZERO {
                    let lineage = LineageId(key.value()[..16].try_into().expect("16 bytes"));
                    let (slab, order) = index::of_slab_key(key.value());
                    meta.note(Entry::Slab { lineage, slab, order, subtree: [0; 32], zero: true });
                }
            }
            self.add_meta(transaction, meta)?;
        }
        Ok(())
    }

    /// Lets go of packs and deletes them, except those that somebody refers to by now.
    fn remove(&self, packs: Vec<(PackClass, PackId)>, pace: Pace) -> Result<u64, StoreError> {
        Ok(self.remove_marked(packs, None, pace)?.map_or(0, |(_, bytes)| bytes))
    }

    /// The same for packs that the sweep of this number found; `None`, and nothing is done, when another one began since. Returns packs and bytes.
    pub(crate) fn remove_marked(
        &self,
        mut packs: Vec<(PackClass, PackId)>,
        marking: Option<u64>,
        pace: Pace,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        let spell = pace.begin();
        let transaction = self.db.begin_write()?;
        if !lock(&self.known).doom(&mut packs, marking) {
            return Ok(None);
        }
        // Oldest first: what says that a draft was discarded is younger than the draft's records and must outlive them.
        let mut by_age = Vec::with_capacity(packs.len());
        {
            let mut table = transaction.open_table(index::PACKS)?;
            for (class, pack) in packs {
                let class_of_row = if class == PackClass::MetaCopy { PackClass::Meta } else { class };
                let known = table.get(&index::pack_key(class_of_row, pack))?.map_or(0, |value| value.value().1);
                by_age.push((known, class, pack));
            }
            for (_, class, pack) in &by_age {
                table.remove(&index::pack_key(*class, *pack))?;
            }
        }
        by_age.sort_unstable();
        transaction.commit()?;
        crate::crash_point("dedupe.gc.unlinked");
        self.drop_caches();
        let (count, mut freed) = (by_age.len() as u64, 0);
        for (_, class, pack) in by_age {
            freed += self.storage.len(pack, class).unwrap_or(0);
            self.storage.delete(pack, class)?;
        }
        spell.rest();
        Ok(Some((count, freed)))
    }

    /// Moves what is in use of these packs, of data or of records, into new ones, slab by slab.
    pub(crate) fn rewrite(&self, thin: &HashSet<PackId>, pace: Pace, progress: &Progress) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        self.each_row(|key, row| {
            rows.extend(row.place.map(|place| (key, place)));
            Ok(())
        })?;
        let mut moved: HashMap<Place, Place> = HashMap::new();
        for batch in rows.chunks(64) {
            let spell = pace.begin();
            if progress.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            self.rewrite_batch(batch, thin, &mut moved)?;
            spell.rest();
        }
        Ok(())
    }

    fn rewrite_batch(
        &self,
        batch: &[([u8; 32], Place)],
        thin: &HashSet<PackId>,
        moved: &mut HashMap<Place, Place>,
    ) -> Result<(), StoreError> {
        let mut context = pack::fast_context();
        let mut data = PackWriter::new(PackClass::Data, &self.keys);
        let mut pins = HashSet::new();
        self.pin(data.pack, &mut pins);
        let mut changed = Vec::new();
        for (key, place) in batch {
            let record = self.record(PackClass::Meta, *place)?;
            let mut slab = Slab::decode(&record).ok_or(StoreError::Corrupt("a slab record"))?;
            if !thin.contains(&place.pack) && !slab.pieces.iter().any(|piece| thin.contains(&piece.place.pack)) {
                continue;
            }
            for piece in slab.pieces.iter_mut().filter(|piece| thin.contains(&piece.place.pack)) {
                piece.place = match moved.get(&piece.place) {
                    Some(to) => *to,
                    None => {
                        let bytes = self.record(PackClass::Data, piece.place)?;
                        let name = crate::chunk::VerifiedChunk::of(&bytes).id();
                        let to = data.add(Entry::Chunk(name), bytes.len(), &pack::compress(&mut context, &bytes));
                        moved.insert(piece.place, to);
                        to
                    }
                };
            }
            let lineage = LineageId(key[..16].try_into().expect("16 bytes"));
            let (number, order) = index::of_slab_key(key);
            let entry = Entry::Slab { lineage, slab: number, order, subtree: slab.subtree, zero: false };
            changed.push((*key, *place, entry, slab));
        }
        if changed.is_empty() {
            self.committed([], &mut pins);
            return Ok(());
        }
        let (pack, empty) = (data.pack, data.is_empty());
        let len = if empty { 0 } else { data.finish(&*self.storage)? };
        let transaction = self.db.begin_write()?;
        {
            if !empty {
                self.note_pack(&transaction, PackClass::Data, pack, len)?;
            }
            let mut meta = self.meta_pack(&transaction)?;
            let mut slabs = transaction.open_table(index::SLABS)?;
            for (key, was, entry, slab) in changed {
                let same = slabs.get(&key)?.is_some_and(|now| SlabRow::decode(now.value()).place == Some(was));
                if same {
                    let bytes = slab.encode();
                    let to = meta.add(entry, bytes.len(), &pack::compress(&mut context, &bytes));
                    slabs.insert(&key, &SlabRow { place: Some(to), subtree: slab.subtree }.encode())?;
                }
            }
            self.add_meta(&transaction, meta)?;
        }
        transaction.commit()?;
        self.committed([], &mut pins);
        Ok(())
    }

    /// Deletes the oldest bytes until the data packs fit `budget`; never what a generation that is still to be sent needs:
    /// `unsent` are pairs of (what the receiver holds, what it is to get). Returns the bytes given back.
    ///
    /// Evicted bytes are no base any more: the parcels that would have used them get larger. Nothing else is lost, since the
    /// receiver has them.
    pub fn evict(&self, budget: u64, unsent: &[(Option<GenerationId>, GenerationId)]) -> Result<u64, StoreError> {
        let mut packs: Vec<(u64, PackId, u64)> = Vec::new();
        {
            let table = self.db.begin_read()?.open_table(index::PACKS)?;
            for row in table.iter()? {
                let (key, value) = row?;
                if let (PackClass::Data, pack) = index::of_pack_key(key.value()) {
                    packs.push((value.value().1, pack, value.value().0));
                }
            }
        }
        let mut total: u64 = packs.iter().map(|(_, _, len)| len).sum();
        if total <= budget {
            return Ok(0);
        }
        lock(&self.known).begin_marking();
        let kept = self.packs_unsent(unsent)?;
        packs.sort_unstable();
        let mut victims = Vec::new();
        for (_, pack, len) in packs {
            if total <= budget {
                break;
            }
            if !kept.contains(&pack) {
                victims.push((PackClass::Data, pack));
                total -= len;
            }
        }
        self.remove(victims, Pace(1.0))
    }

    fn packs_unsent(&self, unsent: &[(Option<GenerationId>, GenerationId)]) -> Result<HashSet<PackId>, StoreError> {
        let mut kept = HashSet::new();
        for (from, to) in unsent {
            let to = self.must_have(*to)?;
            let from: Option<Generation> = from.map(|id| self.must_have(id)).transpose()?;
            for slab in self.changed_slabs(from.as_ref(), &to)? {
                let Some(record) = self.slab(to.lineage, slab, to.number)? else { continue };
                // Whole leaves, as after a root that came out wrong.
                for (block, _) in self.slab_delta(from.as_ref(), &to, slab, true)?.data {
                    let at = (block.in_slab().1 * BLOCK) as u32;
                    kept.extend(record.pieces_in(at..at + BLOCK as u32).map(|piece| piece.place.pack));
                }
            }
        }
        Ok(kept)
    }
}
