//! A lost index is made anew from the packs alone, without the line.

use crate::error::StoreError;
use crate::generation::{Generation, Lineage};
use crate::id::{GenerationId, PackId, SlabNumber};
use crate::index::{self, SlabRow};
use crate::keys::Keys;
use crate::pack::{self, Entry, Place};
use crate::root::Progress;
use crate::storage::{PackClass, PackStorage};
use crate::store::{Store, StoreOptions, decode};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// A pack, and what its footer says.
type Footer = (PackId, Vec<(Entry, Place)>);

impl Store {
    /// Makes the index at `index`, where none may be, from the packs.
    ///
    /// Anchors are not in the packs: until [`Store::anchor_again`] ran, deltas find bases only at the same addresses.
    ///
    /// # Errors
    /// A pack of records that is damaged in both copies is an error that names it: going on without it could lose a generation.
    pub fn rebuild(
        index: &Path,
        storage: Arc<dyn PackStorage>,
        keys: Keys,
        options: StoreOptions,
        progress: &Progress,
    ) -> Result<Arc<Store>, StoreError> {
        let store = Store::open(index, storage, keys, options)?;
        let packs = store.storage.list()?;
        progress.total.store(packs.len() as u64, std::sync::atomic::Ordering::Relaxed);
        let mut commits: BTreeMap<u64, Vec<Footer>> = BTreeMap::new();
        let mut data = Vec::new();
        let metas: HashSet<PackId> =
            packs.iter().filter(|(_, class)| *class != PackClass::Data).map(|(pack, _)| *pack).collect();
        for pack in metas {
            let footer = match pack::read_footer(&*store.storage, &store.keys, pack, PackClass::Meta) {
                Ok(footer) => footer,
                Err(_) => pack::read_footer(&*store.storage, &store.keys, pack, PackClass::MetaCopy)?,
            };
            let commit = footer
                .iter()
                .find_map(|(entry, _)| if let Entry::Commit(number) = entry { Some(*number) } else { None });
            commits.entry(commit.unwrap_or(0)).or_default().push((pack, footer));
            progress.add(1);
        }
        for (pack, _) in packs.iter().filter(|(_, class)| *class == PackClass::Data) {
            // A data pack with a damaged footer still serves those who know places in it; it only cannot be deduplicated against.
            let footer = pack::read_footer(&*store.storage, &store.keys, *pack, PackClass::Data).unwrap_or_default();
            data.push((*pack, footer));
            progress.add(1);
        }
        store.restore_rows(commits, data)?;
        for lineage in store.lineages()? {
            for generation in store.generations(lineage.id)? {
                let proof = generation.sealed.map(|sealed| sealed.root);
                if proof.is_some() && proof != Some(store.root(&generation)?) {
                    let why = "its records do not give its root; a pack of records is missing".to_owned();
                    return Err(StoreError::State { generation: generation.id, why });
                }
            }
        }
        Ok(store)
    }

    fn restore_rows(&self, commits: BTreeMap<u64, Vec<Footer>>, data: Vec<Footer>) -> Result<(), StoreError> {
        let mut lineages: HashMap<[u8; 16], Vec<u8>> = HashMap::new();
        let mut generations: HashMap<GenerationId, Generation> = HashMap::new();
        let mut forgotten: HashSet<GenerationId> = HashSet::new();
        let mut slabs: BTreeMap<[u8; 32], SlabRow> = BTreeMap::new();
        let mut parcels: BTreeMap<(GenerationId, u32), Vec<u8>> = BTreeMap::new();
        let mut packs = Vec::new();
        let last = commits.keys().next_back().copied().unwrap_or(0);
        for (commit, metas) in commits {
            for (pack, footer) in metas {
                packs.push((PackClass::Meta, pack, commit));
                let lists_all = footer.iter().any(|(entry, _)| *entry == Entry::Checkpoint);
                for (entry, place) in footer {
                    match entry {
                        Entry::Lineage => {
                            let record = self.record(PackClass::Meta, place)?;
                            let lineage: Lineage = decode(&record, "a lineage record")?;
                            lineages.insert(lineage.id.0, record);
                        }
                        Entry::Generation => {
                            let generation: Generation =
                                decode(&self.record(PackClass::Meta, place)?, "a generation record")?;
                            generations.insert(generation.id, generation);
                        }
                        Entry::Parcel { generation, number } => {
                            parcels.insert((generation, number), self.record(PackClass::Meta, place)?);
                        }
                        Entry::Slab { lineage, slab, order, subtree, zero } => {
                            let row = if zero { SlabRow::ZERO } else { SlabRow { place: Some(place), subtree } };
                            slabs.insert(index::slab_key(lineage, slab, order), row);
                        }
                        Entry::Forgotten(id) => {
                            forgotten.insert(id);
                        }
                        Entry::Checkpoint => {
                            lineages.clear();
                            generations.clear();
                            parcels.clear();
                        }
                        Entry::Chunk(_) | Entry::Commit(_) => {}
                    }
                }
                if lists_all {
                    // What it does not list was forgotten for good: rows of before must not come back with it.
                    slabs.retain(|key, _| lineages.contains_key(&key[..16]));
                }
            }
        }
        // A discarded draft's rows go; a forgotten generation's rows may serve younger ones, and cost little if not.
        let drafts: HashSet<([u8; 16], u64)> = generations
            .values()
            .filter(|generation| forgotten.contains(&generation.id) && !generation.is_sealed())
            .map(|generation| (generation.lineage.0, generation.number))
            .collect();
        generations.retain(|id, _| !forgotten.contains(id));
        let kept: HashSet<([u8; 16], u64)> =
            generations.values().map(|generation| (generation.lineage.0, generation.number)).collect();
        slabs.retain(|key, _| {
            let lineage = key[..16].try_into().expect("16 bytes");
            let order = index::of_slab_key(key).1;
            kept.contains(&(lineage, order)) || !drafts.contains(&(lineage, order))
        });

        let transaction = self.db.begin_write()?;
        {
            let mut table = transaction.open_table(index::LINEAGES)?;
            for (id, record) in &lineages {
                table.insert(id, record.as_slice())?;
            }
            for generation in generations.values() {
                crate::draft::write_generation(&transaction, generation)?;
            }
            let (mut rows, mut touched) =
                (transaction.open_table(index::SLABS)?, transaction.open_table(index::TOUCHED)?);
            for (key, row) in &slabs {
                let lineage = crate::id::LineageId(key[..16].try_into().expect("16 bytes"));
                let (slab, order) = index::of_slab_key(key);
                rows.insert(key, &row.encode())?;
                touched.insert(&index::touched_key(lineage, order, slab), ())?;
            }
            let mut table = transaction.open_table(index::PARCELS)?;
            for ((generation, number), runs) in &parcels {
                if generations.contains_key(generation) {
                    table.insert(&index::parcel_key(*generation, *number), runs.as_slice())?;
                }
            }
            let mut samples = transaction.open_table(index::CHUNK_SAMPLES)?;
            let mut lens = transaction.open_table(index::PACKS)?;
            for (pack, footer) in &data {
                for (entry, _) in footer {
                    if let Entry::Chunk(id) = entry
                        && Store::is_chunk_sample(*id)
                    {
                        samples.insert(id.prefix(), &pack.0)?;
                    }
                }
                lens.insert(&index::pack_key(PackClass::Data, *pack), (self.storage.len(*pack, PackClass::Data)?, 0))?;
            }
            for (class, pack, commit) in packs {
                lens.insert(&index::pack_key(class, pack), (self.storage.len(pack, class).unwrap_or(0), commit))?;
            }
            transaction.open_table(index::META)?.insert("commit", last)?;
        }
        transaction.commit()?;
        self.restore_samples(slabs.keys())
    }

    /// The samples of marks are in the slab records.
    fn restore_samples<'a>(&self, keys: impl Iterator<Item = &'a [u8; 32]>) -> Result<(), StoreError> {
        let keys: Vec<&[u8; 32]> = keys.collect();
        for batch in keys.chunks(256) {
            let mut found = Vec::new();
            for key in batch {
                let lineage = crate::id::LineageId(key[..16].try_into().expect("16 bytes"));
                let (slab, order): (SlabNumber, u64) = index::of_slab_key(key);
                if let Some(record) = self.slab(lineage, slab, order)? {
                    found.extend(
                        record
                            .marks
                            .iter()
                            .filter_map(|mark| crate::draft::mark_sample(*mark))
                            .map(|sample| (index::sample_key(sample, lineage), slab.0)),
                    );
                }
            }
            found.sort_unstable();
            let transaction = self.db.begin_write()?;
            {
                let mut table = transaction.open_table(index::MARK_SAMPLES)?;
                for (sample, slab) in &found {
                    table.insert(sample, *slab)?;
                }
            }
            transaction.commit()?;
        }
        Ok(())
    }

    /// Puts the anchors of a generation that the receiver holds back into the index, by reading it.
    pub fn anchor_again(
        self: &Arc<Self>,
        generation: GenerationId,
        budget: u64,
        progress: &Progress,
    ) -> Result<(), StoreError> {
        let view = self.view(generation)?;
        let (lineage, order) = (view.generation().lineage, view.generation().number);
        let number = self.lineage_number(lineage)?;
        for slab in self.slabs_with_rows(lineage, order)? {
            if progress.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            let Some(record) = view.record(slab)? else { continue };
            let first = slab.first_block().0;
            let blocks: Vec<_> = (0..record.marks.len())
                .filter(|at| record.marks[*at] != crate::id::Mark::ZERO)
                .map(|at| crate::id::BlockNumber(first + at as u64))
                .collect();
            let mut bytes = vec![0; blocks.len() * crate::id::BLOCK];
            match view.read_blocks(&crate::delta::runs_of(blocks.iter().copied()), &mut bytes) {
                Err(StoreError::Gone(_)) => continue, // evicted: no base any more
                other => other?,
            }
            let transaction = self.db.begin_write()?;
            self.add_anchors(&transaction, &bytes, number, order, &blocks, budget)?;
            transaction.commit()?;
            progress.add(bytes.len() as u64);
        }
        Ok(())
    }
}
