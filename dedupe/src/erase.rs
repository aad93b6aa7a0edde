//! Erasing lineages for good: out of the index, out of every pack, and then looking whether anything of them is left.
//!
//! Chunks are shared, and a pack holds chunks and records of many lineages, so forgetting alone leaves bytes where they are. The steps:
//!
//! 1. [`Store::forget_lineages`]: one commit takes the rows away and writes down, in one pack, all that there still is. A rebuild from packs takes
//!    nothing up that this pack does not list.
//! 2. [`Store::purge`]: rewrites each pack that holds anything that nothing refers to, however little, and removes it.
//! 3. [`Store::leftovers`]: reads the footer of every pack, and counts what nothing refers to. Zero is the proof.
//!
//! Each can be done again after a crash at any moment. Memory is bounded: places are looked at in parts of the store, see [`PART`].

use crate::error::StoreError;
use crate::id::{GenerationId, LineageId, PackId};
use crate::index;
use crate::keep::Pace;
use crate::pack::{self, Entry, Place};
use crate::root::Progress;
use crate::slab::Slab;
use crate::storage::PackClass;
use crate::store::{Store, decode, lock};
use crate::{Generation, Lineage};
use redb::{ReadableDatabase, ReadableTable};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Bytes of data packs whose places are held in memory at once: 4 M chunks of 16 KiB, some 300 MB.
const PART: u64 = 64 << 30;
/// Times that a part is looked at anew because another sweep began meanwhile.
const TRIES: usize = 8;

/// What lineages refer to, and how much of it others refer to as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// Chunks that they refer to.
    pub chunks: u64,
    /// Bytes of these, as stored.
    pub bytes: u64,
    /// Chunks of these that other lineages refer to, too: those stay.
    pub shared_chunks: u64,
    /// Bytes of these, as stored.
    pub shared_bytes: u64,
}

/// What a purge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Packs that were removed.
    pub packs: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// What was found when every pack was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftovers {
    /// Packs whose footers were read.
    pub packs: u64,
    /// Chunks and records in them that are referred to.
    pub live: u64,
    /// Chunks that nothing refers to.
    pub chunks: u64,
    /// Records of lineages and generations that there are no more.
    pub records: u64,
    /// Packs that could not be read: what they hold is not known.
    pub unreadable: u64,
}

impl Leftovers {
    /// Whether nothing is left.
    pub fn is_nothing(&self) -> bool {
        self.chunks == 0 && self.records == 0 && self.unreadable == 0
    }
}

/// A share of the packs, by their ids.
#[derive(Clone, Copy)]
struct Part {
    number: u64,
    of: u64,
}

impl Part {
    fn holds(self, pack: PackId) -> bool {
        let (first, _) = pack.0.split_at(8);
        u64::from_le_bytes(first.try_into().expect("8 bytes")) % self.of == self.number
    }
}

impl Store {
    /// Counts what lineages refer to, and what of it others do as well.
    pub fn footprint(&self, lineages: &[LineageId], progress: &Progress) -> Result<Footprint, StoreError> {
        let mut found = Footprint::default();
        for part in self.parts()? {
            let (mut theirs, mut others) = (HashSet::new(), HashSet::new());
            self.each_place(part, progress, |lineage, place| {
                if lineages.contains(&lineage) {
                    theirs.insert(place)
                } else {
                    others.insert(place)
                };
            })?;
            for place in &theirs {
                (found.chunks, found.bytes) = (found.chunks + 1, found.bytes + u64::from(place.stored));
                if others.contains(place) {
                    found.shared_chunks += 1;
                    found.shared_bytes += u64::from(place.stored);
                }
            }
        }
        Ok(found)
    }

    /// Takes lineages out of the index with all their generations and drafts. Their bytes stay in the packs until [`Store::purge`].
    ///
    /// Nobody may be writing a draft of theirs. That one is gone already is no error.
    pub fn forget_lineages(&self, lineages: &[LineageId]) -> Result<(), StoreError> {
        let gone = |key: &[u8]| lineages.iter().any(|lineage| key.starts_with(&lineage.0));
        let transaction = self.db.begin_write()?;
        {
            let mut generations = Vec::new();
            transaction.open_table(index::ORDERS)?.retain(|key, id| {
                let goes = gone(key);
                if goes {
                    generations.push(*id);
                }
                !goes
            })?;
            let mut table = transaction.open_table(index::GENERATIONS)?;
            let mut parcels = transaction.open_table(index::PARCELS)?;
            for id in generations {
                table.remove(&id)?;
                let (first, last) =
                    (index::parcel_key(GenerationId(id), 0), index::parcel_key(GenerationId(id), u32::MAX));
                parcels.retain_in::<&[u8; 20], _>(&first..=&last, |_, _| false)?;
            }
            let mut table = transaction.open_table(index::LINEAGES)?;
            for lineage in lineages {
                table.remove(&lineage.0)?;
            }
            transaction.open_table(index::SLABS)?.retain(|key, _| !gone(key))?;
            transaction.open_table(index::TOUCHED)?.retain(|key, ()| !gone(key))?;
            transaction
                .open_table(index::MARK_SAMPLES)?
                .retain(|key, _| !lineages.contains(&index::of_sample_key(key)))?;
            transaction
                .open_table(index::NUMBERS)?
                .retain(|_, lineage| !lineages.iter().any(|gone| gone.0 == *lineage))?;
        }
        self.checkpoint_in(&transaction)?;
        transaction.commit()?;
        self.drop_caches();
        Ok(())
    }

    /// Removes every pack that holds something that nothing refers to; what is referred to in it moves into new ones.
    ///
    /// What a draft refers to before its commit stays: then [`Store::leftovers`] finds it, and a later purge removes it.
    pub fn purge(&self, pace: Pace, progress: &Progress) -> Result<Purged, StoreError> {
        let mut purged = Purged::default();
        // First what nothing names at all: cheap, and what is left by a draft that was discarded goes before what says so.
        let dead = self.gc_plan(progress)?.dead;
        self.purge_packs(dead, None, pace, &mut purged)?;
        crate::crash_point("dedupe.purge.dead");
        for part in self.parts()? {
            self.purge_data(part, pace, progress, &mut purged)?;
        }
        crate::crash_point("dedupe.purge.data");
        self.purge_records(pace, progress, &mut purged)?;
        Ok(purged)
    }

    /// Looks into every pack for what nothing refers to.
    pub fn leftovers(&self, progress: &Progress) -> Result<Leftovers, StoreError> {
        let mut found = Leftovers::default();
        for part in self.parts()? {
            // What is listed after the places were gathered may be newer than they are: listed first.
            let packs = self.storage.list()?;
            let mut live = HashSet::new();
            self.each_place(part, progress, |_, place| {
                live.insert(place);
            })?;
            for (pack, _) in packs.iter().filter(|(pack, class)| *class == PackClass::Data && part.holds(*pack)) {
                found.packs += 1;
                match pack::read_footer(&*self.storage, &self.keys, *pack, PackClass::Data) {
                    Err(_) => found.unreadable += 1,
                    Ok(footer) => {
                        let used = footer.iter().filter(|(_, place)| live.contains(place)).count() as u64;
                        found.live += used;
                        found.chunks += footer.len() as u64 - used;
                    }
                }
            }
        }
        let known = Known::of(self)?;
        for (pack, class) in self.storage.list()?.into_iter().filter(|(_, class)| *class != PackClass::Data) {
            found.packs += 1;
            match self.foreign_records(&known, pack, class)? {
                None => found.unreadable += 1,
                Some((foreign, all)) => {
                    found.records += foreign;
                    found.live += all - foreign;
                }
            }
            if progress.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
        }
        Ok(found)
    }

    fn purge_data(&self, part: Part, pace: Pace, progress: &Progress, purged: &mut Purged) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let (begun, listed) = (self.begin_marking(), self.storage.list()?);
            let mut live = HashSet::new();
            self.each_place(part, progress, |_, place| {
                live.insert(place);
            })?;
            let mut mixed = HashSet::new();
            for (pack, _) in listed.iter().filter(|(pack, class)| *class == PackClass::Data && part.holds(*pack)) {
                let footer = pack::read_footer(&*self.storage, &self.keys, *pack, PackClass::Data);
                // What a damaged footer hides is taken for unused: what is used of it moves.
                if !footer.is_ok_and(|footer| footer.iter().all(|(_, place)| live.contains(place))) {
                    mixed.insert(*pack);
                }
            }
            drop(live);
            if mixed.is_empty() {
                return Ok(());
            }
            self.rewrite(&mixed, pace, progress)?;
            let mut used = HashSet::new();
            self.each_place(part, progress, |_, place| {
                used.insert(place.pack);
            })?;
            let empty =
                mixed.into_iter().filter(|pack| !used.contains(pack)).map(|pack| (PackClass::Data, pack)).collect();
            if self.purge_packs(empty, Some(begun), pace, purged)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn purge_records(&self, pace: Pace, progress: &Progress, purged: &mut Purged) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let begun = self.begin_marking();
            let known = Known::of(self)?;
            let listed = self.storage.list()?;
            let mut foreign = HashSet::new();
            for (pack, class) in listed.iter().filter(|(_, class)| *class != PackClass::Data) {
                if self.foreign_records(&known, *pack, *class)?.is_none_or(|(foreign, _)| foreign > 0) {
                    foreign.insert(*pack);
                }
            }
            if foreign.is_empty() {
                return Ok(());
            }
            self.rewrite(&foreign, pace, progress)?;
            self.checkpoint_records()?;
            let mut used = HashSet::new();
            self.each_row(|_, row| {
                used.extend(row.place.map(|place| place.pack));
                Ok(())
            })?;
            let empty = listed
                .into_iter()
                .filter(|(pack, class)| *class != PackClass::Data && foreign.contains(pack) && !used.contains(pack))
                .map(|(pack, class)| (class, pack))
                .collect();
            if self.purge_packs(empty, Some(begun), pace, purged)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Removes packs, unless another sweep began since `begun`: then what was referred to since is not known.
    fn purge_packs(
        &self,
        packs: Vec<(PackClass, PackId)>,
        begun: Option<u64>,
        pace: Pace,
        purged: &mut Purged,
    ) -> Result<bool, StoreError> {
        if packs.is_empty() {
            return Ok(true);
        }
        self.checkpoint_records()?;
        let Some((count, bytes)) = self.remove_marked(packs, begun, pace)? else { return Ok(false) };
        (purged.packs, purged.bytes) = (purged.packs + count, purged.bytes + bytes);
        Ok(true)
    }

    /// Entries of a pack of records that belong to nothing, and all entries; `None` when its footer cannot be read.
    fn foreign_records(&self, known: &Known, pack: PackId, class: PackClass) -> Result<Option<(u64, u64)>, StoreError> {
        let Ok(footer) = pack::read_footer(&*self.storage, &self.keys, pack, class) else { return Ok(None) };
        let mut foreign = 0;
        for (entry, place) in &footer {
            let belongs = match entry {
                Entry::Slab { lineage, .. } => known.lineages.contains(lineage),
                Entry::Lineage => {
                    let Ok(record) = pack::read_record(&*self.storage, &self.keys, class, *place) else {
                        return Ok(None);
                    };
                    known.lineages.contains(&decode::<Lineage>(&record, "a lineage record")?.id)
                }
                Entry::Generation => {
                    let Ok(record) = pack::read_record(&*self.storage, &self.keys, class, *place) else {
                        return Ok(None);
                    };
                    known.lineages.contains(&decode::<Generation>(&record, "a generation record")?.lineage)
                }
                Entry::Parcel { generation, .. } => known.generations.contains(generation),
                // A random id, which is all that is left of it.
                Entry::Forgotten(_) | Entry::Checkpoint | Entry::Commit(_) | Entry::Chunk(_) => true,
            };
            foreign += u64::from(!belongs);
        }
        Ok(Some((foreign, footer.len() as u64)))
    }

    fn parts(&self) -> Result<impl Iterator<Item = Part> + use<>, StoreError> {
        let mut bytes = 0;
        for row in self.db.begin_read()?.open_table(index::PACKS)?.iter()? {
            let (key, value) = row?;
            if index::of_pack_key(key.value()).0 == PackClass::Data {
                bytes += value.value().0;
            }
        }
        let of = 1 + bytes / PART;
        Ok((0..of).map(move |number| Part { number, of }))
    }

    /// Every place in data packs of a part that a row refers to, with the lineage that does; some more than once.
    fn each_place(
        &self,
        part: Part,
        progress: &Progress,
        mut each: impl FnMut(LineageId, Place),
    ) -> Result<(), StoreError> {
        self.each_row(|key, row| {
            if progress.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            let Some(place) = row.place else { return Ok(()) };
            let record = self.record(PackClass::Meta, place)?;
            let slab = Slab::decode(&record).ok_or(StoreError::Corrupt("a slab record"))?;
            let lineage = LineageId(key[..16].try_into().expect("16 bytes"));
            slab.pieces
                .iter()
                .filter(|piece| part.holds(piece.place.pack))
                .for_each(|piece| each(lineage, piece.place));
            progress.add(1);
            Ok(())
        })
    }

    /// From now on what is referred to is noted. Returns a number that changes when another sweep begins.
    fn begin_marking(&self) -> u64 {
        lock(&self.known).begin_marking()
    }
}

/// Lineages and generations that there are.
struct Known {
    lineages: HashSet<LineageId>,
    generations: HashSet<GenerationId>,
}

impl Known {
    fn of(store: &Store) -> Result<Known, StoreError> {
        let read = store.db.begin_read()?;
        let (mut lineages, mut generations) = (HashSet::new(), HashSet::new());
        for row in read.open_table(index::LINEAGES)?.iter()? {
            lineages.insert(LineageId(*row?.0.value()));
        }
        for row in read.open_table(index::GENERATIONS)?.iter()? {
            generations.insert(GenerationId(*row?.0.value()));
        }
        Ok(Known { lineages, generations })
    }
}
