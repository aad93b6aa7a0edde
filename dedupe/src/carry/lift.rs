//! Taking a slab out of a store.

use super::{Carried, CarriedChunk, CarriedPiece, MAX_RAW, Spot};
use crate::cache::Cache;
use crate::chunk::{self, ChunkId};
use crate::error::StoreError;
use crate::id::{BLOCK, Mark, PackId, SLAB, SlabNumber};
use crate::pack::{self, Entry, PackError, Place};
use crate::slab::Slab;
use crate::storage::PackClass;
use crate::store::{Store, View, gone};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of memory for what a carrier has been given: 200,000 chunks, or 3 GiB of a volume. A chunk that comes again later than that is carried again.
const GIVEN: usize = 24 << 20;
/// Bytes that one entry takes, about.
const GIVEN_COST: usize = 120;
/// Bytes of memory for the names of the chunks of packs.
const NAMES: usize = 24 << 20;

/// A slab could not be lifted: it is damaged here, or its bytes were evicted.
#[derive(Debug, thiserror::Error)]
#[error("slab {slab}: {source}")]
pub struct LiftError {
    /// Which slab.
    pub slab: SlabNumber,
    /// Why.
    #[source]
    pub source: StoreError,
}

/// What one carrier has been given lately, so that nothing is carried twice. Bounded; may be shared by threads.
pub struct Given {
    chunks: Mutex<Cache<Place, Spot>>,
    names: Mutex<Cache<PackId, Arc<HashMap<u32, ChunkId>>>>,
}

impl Default for Given {
    fn default() -> Self {
        Given { chunks: Mutex::new(Cache::new(GIVEN)), names: Mutex::new(Cache::new(NAMES)) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A cache: whatever is in it is true.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Given {
    /// Begins a carrier: what earlier ones were given it has not.
    pub fn clear(&self) {
        lock(&self.chunks).clear();
    }
}

/// A slab on its way out: its new chunks, coded, and what its record will be once they have their spots.
pub struct Lifted {
    carried: Carried,
    /// For each chunk: where it lies in the store, and its coded bytes unless the carrier has them.
    sources: Vec<(Option<Place>, Option<Range<usize>>)>,
    bytes: Vec<u8>,
}

impl Lifted {
    /// The coded chunks that the carrier has not been given yet, in the order in which they are to lie.
    pub fn fresh(&self) -> impl Iterator<Item = &[u8]> {
        self.sources.iter().filter_map(|(_, range)| range.clone()).map(|range| &self.bytes[range])
    }

    /// Bytes of its record at most, once it is encoded.
    pub fn cost(&self) -> usize {
        64 + self.carried.leaves.len() * 32 + self.carried.chunks.len() * 60 + self.carried.pieces.len() * 14
    }

    /// The slab's record, when the fresh chunks lie at `spots`. The caller notes them with the same call.
    ///
    /// # Panics
    /// When there are fewer spots than fresh chunks.
    pub fn record(mut self, spots: impl IntoIterator<Item = Spot>, given: &Given) -> Carried {
        let mut spots = spots.into_iter();
        let mut known = lock(&given.chunks);
        for (chunk, (place, range)) in self.carried.chunks.iter_mut().zip(&self.sources) {
            if range.is_some() {
                chunk.spot = spots.next().expect("one spot for each fresh chunk");
                if let Some(place) = place {
                    known.put(*place, chunk.spot, GIVEN_COST);
                }
            }
        }
        drop(known);
        self.carried
    }
}

impl View {
    /// The slabs that are not all zeroes, ascending; at most `most` from `start` on.
    pub fn slabs_from(&self, start: SlabNumber, most: usize) -> Result<Vec<SlabNumber>, StoreError> {
        let generation = self.generation();
        let mut slabs = self.store().slabs_with_bytes(generation.lineage, generation.number, start, most)?;
        slabs.retain(|slab| slab.0 < generation.size.slabs());
        Ok(slabs)
    }

    /// Reads a slab out as it lies; `None`: it is all zeroes. Memory: at most 2 [`SLAB`]s and its record.
    ///
    /// # Errors
    /// Bytes that are damaged or evicted, naming the slab.
    pub fn lift(&self, slab: SlabNumber, given: &Given) -> Result<Option<Lifted>, LiftError> {
        let lift = || match self.record(slab)? {
            Some(record) => self.lift_record(slab, &record, given).map(Some),
            None => Ok(None),
        };
        let lifted = match lift() {
            // A sweep moved what is in use out of a pack between the two reads: the record says by now where to.
            Err(StoreError::Gone(_)) => lift(),
            lifted => lifted,
        };
        lifted.map_err(|source| LiftError { slab, source })
    }

    fn lift_record(&self, slab: SlabNumber, record: &Slab, given: &Given) -> Result<Lifted, StoreError> {
        let mut places: Vec<Place> = Vec::new();
        let mut index: HashMap<Place, u32> = HashMap::new();
        let mut pieces = Vec::with_capacity(record.pieces.len());
        for piece in &record.pieces {
            let chunk = *index.entry(piece.place).or_insert_with(|| {
                places.push(piece.place);
                places.len() as u32 - 1
            });
            pieces.push(CarriedPiece { at: piece.at, len: piece.len, chunk, skip: piece.skip });
        }
        // Rests of many old chunks: the slab itself is less than they are.
        if places.iter().map(|place| place.raw as usize).sum::<usize>() > MAX_RAW {
            return self.cut_anew(slab, record);
        }
        let known: Vec<Option<Spot>> = {
            let mut chunks = lock(&given.chunks);
            places.iter().map(|place| chunks.find(place, |_| GIVEN_COST)).collect()
        };
        let (bytes, ranges) = self.store().coded(&places, &known)?;
        let mut chunks = Vec::with_capacity(places.len());
        for (at, place) in places.iter().enumerate() {
            let id = match self.store().name_of(*place, given)? {
                Some(id) => id,
                None => self.store().hash_of(*place)?,
            };
            let spot = known[at].unwrap_or(Spot { part: 0, offset: 0 });
            let coded = place.stored.saturating_sub(crate::keys::TAG as u32);
            chunks.push(CarriedChunk { id, raw: place.raw, coded, spot });
        }
        let sources = places.into_iter().map(Some).zip(ranges).collect();
        let carried = Carried { len: record.len, leaves: record.leaves.clone(), chunks, pieces };
        Ok(Lifted { carried, sources, bytes })
    }

    fn cut_anew(&self, slab: SlabNumber, record: &Slab) -> Result<Lifted, StoreError> {
        let mut raw = vec![0; (record.len as usize).next_multiple_of(BLOCK)];
        self.read(slab.offset(), &mut raw)?;
        let (mut chunks, mut pieces, mut sources, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut context = pack::fast_context();
        let runs = record.marks.chunk_by(|one, other| (*one == Mark::ZERO) == (*other == Mark::ZERO));
        let mut start = 0;
        for run in runs {
            let end = start + run.len() * BLOCK;
            let mut at = start as u32;
            if run[0] != Mark::ZERO {
                for cut in chunk::cut(&raw[start..end]) {
                    let (len, coded) = (cut.bytes().len() as u32, pack::compress(&mut context, cut.bytes()));
                    pieces.push(CarriedPiece { at, len, chunk: chunks.len() as u32, skip: 0 });
                    let spot = Spot { part: 0, offset: 0 };
                    chunks.push(CarriedChunk { id: cut.id(), raw: len, coded: coded.len() as u32, spot });
                    sources.push((None, Some(bytes.len()..bytes.len() + coded.len())));
                    bytes.extend_from_slice(&coded);
                    at += len;
                }
            }
            start = end;
        }
        let carried = Carried { len: record.len, leaves: record.leaves.clone(), chunks, pieces };
        Ok(Lifted { carried, sources, bytes })
    }
}

impl Store {
    /// Opened records of the places whose spot is not known, and where each lies in the bytes.
    #[expect(clippy::type_complexity, reason = "bytes, and ranges of them")]
    fn coded(
        &self,
        places: &[Place],
        known: &[Option<Spot>],
    ) -> Result<(Vec<u8>, Vec<Option<Range<usize>>>), StoreError> {
        let mut order: Vec<usize> = (0..places.len()).filter(|at| known[*at].is_none()).collect();
        order.sort_unstable_by_key(|at| (places[*at].pack, places[*at].offset));
        let mut opened: Vec<(usize, Range<usize>, usize)> = Vec::new(); // place, bytes, read
        let mut reads: Vec<Vec<u8>> = Vec::new();
        for batch in order.chunk_by(|one, other| places[*one].pack == places[*other].pack) {
            let pack = places[batch[0]].pack;
            let mut ranges: Vec<(u64, usize)> = Vec::new();
            for at in batch {
                let (offset, stored) = (u64::from(places[*at].offset), places[*at].stored as usize);
                match ranges.last_mut() {
                    Some((start, len)) if *start + *len as u64 == offset => *len += stored,
                    _ => ranges.push((offset, stored)),
                }
                let (start, len) = ranges.last().expect("one was pushed if there was none");
                opened.push((*at, *len - stored..*len, reads.len() + ranges.len() - 1));
                debug_assert_eq!(*start + (*len - stored) as u64, offset);
            }
            let sealed =
                self.storage.read_ranges(pack, PackClass::Data, &ranges).map_err(|e| gone(PackError::from(e)))?;
            if sealed.len() != ranges.len() || sealed.iter().zip(&ranges).any(|(bytes, (_, len))| bytes.len() != *len) {
                return Err(StoreError::Corrupt("a storage's answer"));
            }
            let key = self.keys.pack(pack);
            reads.extend(sealed);
            let first = opened.len() - batch.len();
            for (at, range, read) in &opened[first..] {
                let place = places[*at];
                let record = &mut reads[*read][range.clone()];
                let damaged = PackError::Damaged { pack, offset: place.offset.into(), what: "its seal is broken" };
                key.open(place.offset.into(), record).ok_or(damaged)?;
            }
        }
        // In the order of the slab, which is the order in which they will be read.
        let mut found: Vec<Option<(usize, Range<usize>)>> = vec![None; places.len()];
        for (at, range, read) in opened {
            found[at] = Some((read, range.start..range.end - crate::keys::TAG));
        }
        let total = found.iter().flatten().map(|(_, range)| range.len()).sum();
        let mut bytes = Vec::with_capacity(total);
        let mut put = |(read, range): (usize, Range<usize>)| {
            let start = bytes.len();
            bytes.extend_from_slice(&reads[read][range]);
            start..bytes.len()
        };
        let ranges = found.into_iter().map(|found| found.map(&mut put)).collect();
        debug_assert!(total <= MAX_RAW + SLAB);
        Ok((bytes, ranges))
    }

    /// A chunk's name, from its pack's footer; `None`: the footer is damaged or does not have it.
    fn name_of(&self, place: Place, given: &Given) -> Result<Option<ChunkId>, StoreError> {
        let cost = |names: &Arc<HashMap<u32, ChunkId>>| names.len() * 56 + 100;
        if let Some(names) = lock(&given.names).find(&place.pack, cost) {
            return Ok(names.get(&place.offset).copied());
        }
        let footer = match pack::read_footer(&*self.storage, &self.keys, place.pack, PackClass::Data) {
            Ok(footer) => footer,
            Err(error @ PackError::Storage(_)) => return Err(gone(error)),
            Err(_) => Vec::new(), // who knows a place in it can read it all the same
        };
        let names = footer.into_iter().filter_map(|(entry, place)| match entry {
            Entry::Chunk(id) => Some((place.offset, id)),
            _ => None,
        });
        let names = Arc::new(names.collect::<HashMap<u32, ChunkId>>());
        let found = names.get(&place.offset).copied();
        let cost = cost(&names);
        lock(&given.names).put(place.pack, names, cost);
        Ok(found)
    }

    fn hash_of(&self, place: Place) -> Result<ChunkId, StoreError> {
        Ok(ChunkId(*blake3::hash(&self.record(PackClass::Data, place)?).as_bytes()))
    }
}
