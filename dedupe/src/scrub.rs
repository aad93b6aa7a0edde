//! Scrub: read everything again, name what is damaged, and mend it. Records have a second copy here; bytes come from the other end.

use crate::chunk::VerifiedChunk;
use crate::delta::runs_of;
use crate::error::{IngestError, StoreError};
use crate::generation::Generation;
use crate::id::{BLOCK, BlockNumber, BlockRun, GenerationId, LEAF, PackId, SLAB, SlabNumber};
use crate::index::{self, SlabRow};
use crate::keep::Pace;
use crate::pack::{self, Entry, PackError, PackWriter, Place};
use crate::parcel::{self, Header};
use crate::root::{self, Progress};
use crate::slab::Slab;
use crate::storage::PackClass;
use crate::store::{Store, View};
use redb::{ReadableDatabase, ReadableTable};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Damage {
    /// The pack.
    #[serde(serialize_with = "as_text")]
    pub pack: PackId,
    /// What is wrong, for people.
    pub what: String,
    /// Whether it could be mended from the second copy.
    pub mended: bool,
    /// Blocks that cannot be read, of sealed generations: to be asked for at the other end.
    #[serde(skip)]
    pub lost: Vec<(GenerationId, Vec<BlockRun>)>,
}

fn as_text<S: serde::Serializer>(pack: &PackId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(pack)
}

impl Store {
    /// Reads and checks every pack. Damaged records are mended from their copy; damaged bytes are traced to the blocks that need them.
    pub fn scrub(&self, pace: Pace, progress: &Progress) -> Result<Vec<Damage>, StoreError> {
        let packs: Vec<(PackClass, PackId, u64)> = {
            let table = self.db.begin_read()?.open_table(index::PACKS)?;
            let row = |row: (redb::AccessGuard<'_, &[u8; 17]>, redb::AccessGuard<'_, (u64, u64)>)| {
                let (class, pack) = index::of_pack_key(row.0.value());
                (class, pack, row.1.value().0)
            };
            table.iter()?.map(|found| found.map(row)).collect::<Result<_, _>>()?
        };
        progress.total.store(packs.iter().map(|(_, _, len)| len).sum(), std::sync::atomic::Ordering::Relaxed);
        let (mut damages, mut bad) = (Vec::new(), HashSet::new());
        for (class, pack, len) in packs {
            if progress.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            let spell = pace.begin();
            match class {
                PackClass::Data => {
                    let found = self.check_data(pack, &mut bad)?;
                    damages.extend(found.map(|what| Damage { pack, what, mended: false, lost: Vec::new() }));
                }
                _ => damages.extend(self.check_meta(pack)?),
            }
            progress.add(len);
            spell.rest();
        }
        if !bad.is_empty() {
            self.trace(&bad, &mut damages)?;
        }
        Ok(damages)
    }

    /// As [`Store::scrub`], for one pack of data: what a reader that met damage in it needs to have it mended. `None` when nothing is wrong with it.
    pub fn scrub_pack(&self, pack: PackId) -> Result<Option<Damage>, StoreError> {
        let mut bad = HashSet::new();
        let Some(what) = self.check_data(pack, &mut bad)? else { return Ok(None) };
        let mut damages = [Damage { pack, what, mended: false, lost: Vec::new() }];
        self.trace(&bad, &mut damages)?;
        let [damage] = damages;
        Ok(Some(damage))
    }

    fn check_data(&self, pack: PackId, bad: &mut HashSet<(PackId, Option<u32>)>) -> Result<Option<String>, StoreError> {
        let footer = match pack::read_footer(&*self.storage, &self.keys, pack, PackClass::Data) {
            Ok(footer) => footer,
            Err(e) => {
                bad.insert((pack, None)); // without its footer, try each record that is named elsewhere
                return Ok(Some(e.to_string()));
            }
        };
        let mut what = None;
        for (entry, place) in footer {
            let Entry::Chunk(id) = entry else { continue };
            let wrong = match pack::read_record(&*self.storage, &self.keys, PackClass::Data, place) {
                Ok(bytes) if VerifiedChunk::of(&bytes).id() == id => continue,
                Ok(_) => format!("the chunk at byte {} of pack {pack} hashes to another name", place.offset),
                Err(e) => e.to_string(),
            };
            bad.insert((pack, Some(place.offset)));
            what.get_or_insert(wrong);
        }
        Ok(what)
    }

    /// Checks both copies of a pack of records and writes a bad one anew from the good one.
    fn check_meta(&self, pack: PackId) -> Result<Option<Damage>, StoreError> {
        let check = |class| -> Result<Vec<u8>, PackError> {
            for (_, place) in pack::read_footer(&*self.storage, &self.keys, pack, class)? {
                if place.stored > 0 {
                    pack::read_record(&*self.storage, &self.keys, class, place)?;
                }
            }
            let mut bytes = vec![0; self.storage.len(pack, class)? as usize];
            self.storage.read_at(pack, class, 0, &mut bytes)?;
            Ok(bytes)
        };
        let (first, second) = (check(PackClass::Meta), check(PackClass::MetaCopy));
        let mend = |class, bytes: &[u8], error: PackError| -> Result<Option<Damage>, StoreError> {
            self.storage.delete(pack, class)?;
            self.storage.put(pack, class, bytes)?;
            Ok(Some(Damage { pack, what: format!("{error} (mended from its copy)"), mended: true, lost: Vec::new() }))
        };
        match (first, second) {
            (Ok(_), Ok(_)) => Ok(None),
            (Err(e), Ok(bytes)) => mend(PackClass::Meta, &bytes, e),
            (Ok(bytes), Err(e)) => mend(PackClass::MetaCopy, &bytes, e),
            (Err(e), Err(_)) => Ok(Some(Damage {
                pack,
                what: format!("{e}; its copy is damaged too"),
                mended: false,
                lost: Vec::new(),
            })),
        }
    }

    /// Finds the blocks of sealed generations that need damaged records.
    fn trace(&self, bad: &HashSet<(PackId, Option<u32>)>, damages: &mut [Damage]) -> Result<(), StoreError> {
        for lineage in self.lineages()? {
            for generation in self.generations(lineage.id)?.into_iter().filter(Generation::is_sealed) {
                let mut lost: BTreeMap<PackId, Vec<BlockNumber>> = BTreeMap::new();
                for slab in self.slabs_with_rows(lineage.id, generation.number)? {
                    let Ok(Some(record)) = self.slab(lineage.id, slab, generation.number) else { continue };
                    for piece in &record.pieces {
                        let pack = piece.place.pack;
                        let is_bad = bad.contains(&(pack, Some(piece.place.offset)))
                            || (bad.contains(&(pack, None)) && self.record(PackClass::Data, piece.place).is_err());
                        if is_bad {
                            let (first, last) = (piece.at as usize / BLOCK, (piece.end() as usize).div_ceil(BLOCK));
                            let blocks = (first..last).map(|at| BlockNumber(slab.first_block().0 + at as u64));
                            lost.entry(pack).or_default().extend(blocks);
                        }
                    }
                }
                for (pack, mut blocks) in lost {
                    blocks.sort_unstable();
                    blocks.dedup();
                    if let Some(damage) = damages.iter_mut().find(|damage| damage.pack == pack) {
                        damage.lost.push((generation.id, runs_of(blocks)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Blocks of a generation as a parcel without bases: what the other end asked for to mend its copy. `None` when they are not all
    /// here, or are damaged here too.
    pub fn blocks_parcel(
        self: &Arc<Self>,
        generation: GenerationId,
        blocks: &[BlockRun],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        if parcel::blocks_in(blocks) > (parcel::MAX_FRESH / BLOCK) as u64 {
            return Ok(None);
        }
        let mut fresh = vec![0; parcel::blocks_in(blocks) as usize * BLOCK];
        let view = self.view(generation)?;
        if !view.generation().is_sealed() || view.read_blocks(blocks, &mut fresh).is_err() {
            return Ok(None);
        }
        let header = Header {
            generation,
            number: 0,
            sources: Vec::new(),
            base: None,
            fresh: blocks.to_vec(),
            zero: Vec::new(),
            copied: Vec::new(),
            chosen: Vec::new(),
            recent: 0,
            without_old: Vec::new(),
            fresh_hash: *blake3::hash(&fresh).as_bytes(),
            copied_hash: [0; 32],
        };
        let memory = crate::codec::CodecMemory { long_log: 16, chain_log: 0 };
        let Ok(payload) = crate::codec::encode(&fresh, 0, crate::codec::Effort::Normal, memory) else {
            return Ok(None);
        };
        Ok(Some(parcel::assemble(&header, &payload)))
    }

    /// Mends blocks of a sealed generation with what the other end sent. Taken only if the leaves come out as they were proved.
    /// Every generation that shares the slab's record is mended with it.
    pub fn repair(self: &Arc<Self>, generation: GenerationId, bytes: &[u8]) -> Result<(), IngestError> {
        let (header, payload) = parcel::parse(bytes).map_err(|e| IngestError::Damaged(e.0))?;
        if header.generation != generation || !header.chosen.is_empty() || header.base.is_some() || header.recent > 0 {
            return Err(IngestError::Damaged("it is no parcel for a repair"));
        }
        let view = self.view(generation)?;
        if header.fresh.iter().any(|run| run.first.0 + run.count > view.size().blocks()) {
            return Err(IngestError::Damaged("it goes beyond the volume's end"));
        }
        let mut fresh = Vec::new();
        crate::codec::decode(&[], payload, header.fresh_len(), &mut fresh)
            .map_err(|_| IngestError::Damaged("its payload does not unpack"))?;
        let mut blocks: BTreeMap<SlabNumber, Vec<(usize, usize)>> = BTreeMap::new();
        for (at, block) in crate::delta::blocks_of(&header.fresh).enumerate() {
            let (slab, number) = block.in_slab();
            blocks.entry(slab).or_default().push((number, at * BLOCK));
        }
        for (slab, blocks) in blocks {
            self.repair_slab(&view, slab, &blocks, &fresh)?;
        }
        Ok(())
    }

    fn repair_slab(
        &self,
        view: &View,
        slab: SlabNumber,
        blocks: &[(usize, usize)],
        fresh: &[u8],
    ) -> Result<(), IngestError> {
        let generation = view.generation();
        let Some((order, row)) = self.slab_row(generation.lineage, slab, generation.number)? else {
            return Err(IngestError::Damaged("it mends zeroes"));
        };
        let mut record: Slab = match self.slab_of_row(row)? {
            Some(record) => (*record).clone(),
            None => return Err(IngestError::Damaged("it mends zeroes")),
        };
        self.prove(view, slab, &record, blocks, fresh)?;
        let mut context = pack::fast_context();
        let mut data = PackWriter::new(PackClass::Data, &self.keys);
        let mut pins = HashSet::new();
        self.pin(data.pack, &mut pins);
        for (number, at) in blocks {
            let chunk = VerifiedChunk::of(&fresh[*at..at + BLOCK]);
            let place = data.add(Entry::Chunk(chunk.id()), BLOCK, &pack::compress(&mut context, chunk.bytes()));
            let start = (number * BLOCK) as u32;
            let piece = crate::slab::Piece { at: start, len: BLOCK as u32, place, skip: 0 };
            record.splice(start..start + BLOCK as u32, [piece]);
        }
        let pack = data.pack;
        let len = data.finish(&*self.storage).map_err(StoreError::from)?;
        let result = self.write_repair(generation, slab, order, &record, (pack, len));
        self.committed([], &mut pins);
        self.drop_caches();
        Ok(result?)
    }

    fn write_repair(
        &self,
        generation: &Generation,
        slab: SlabNumber,
        order: u64,
        record: &Slab,
        data: (PackId, u64),
    ) -> Result<(), StoreError> {
        let transaction = self.db.begin_write()?;
        let mut meta = self.meta_pack(&transaction)?;
        let bytes = record.encode();
        let entry = Entry::Slab { lineage: generation.lineage, slab, order, subtree: record.subtree, zero: false };
        let place: Place = meta.add(entry, bytes.len(), &pack::compress(&mut pack::fast_context(), &bytes));
        self.note_pack(&transaction, PackClass::Data, data.0, data.1)?;
        self.add_meta(&transaction, meta)?;
        let row = SlabRow { place: Some(place), subtree: record.subtree };
        transaction
            .open_table(index::SLABS)?
            .insert(&index::slab_key(generation.lineage, slab, order), &row.encode())?;
        Ok(transaction.commit()?)
    }

    /// The new bytes, among the blocks beside them, must give the leaves that were proved when the generation was sealed.
    fn prove(
        &self,
        view: &View,
        slab: SlabNumber,
        record: &Slab,
        blocks: &[(usize, usize)],
        fresh: &[u8],
    ) -> Result<(), IngestError> {
        let per_leaf = LEAF / BLOCK;
        let mut leaves: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for (number, at) in blocks {
            leaves.entry(number / per_leaf).or_default().push((*number, *at));
        }
        for (leaf, blocks) in leaves {
            let range = record.leaf_range(leaf);
            let mut bytes = vec![0; LEAF];
            for at in 0..per_leaf {
                let number = leaf * per_leaf + at;
                let into = &mut bytes[at * BLOCK..(at + 1) * BLOCK];
                match blocks.iter().find(|(other, _)| *other == number) {
                    Some((_, from)) => into.copy_from_slice(&fresh[*from..from + BLOCK]),
                    None => view.read(crate::id::ByteOffset(slab.0 * SLAB as u64 + (number * BLOCK) as u64), into)?,
                }
            }
            if root::leaf(slab.offset().0 + range.start as u64, &bytes[..range.len()]) != record.leaves[leaf] {
                return Err(IngestError::Damaged(
                    "its bytes are not those that were proved when the generation was sealed",
                ));
            }
        }
        Ok(())
    }
}
