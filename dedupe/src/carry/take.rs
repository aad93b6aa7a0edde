//! Taking a carried slab into a draft.

use super::{Carried, CarriedChunk};
use crate::chunk::{ChunkId, VerifiedChunk};
use crate::draft::{Draft, mark_of};
use crate::error::StoreError;
use crate::id::{BLOCK, LEAF, Mark, SlabNumber};
use crate::index;
use crate::pack::{self, Place};
use crate::root;
use crate::slab::{Piece, Slab};
use crate::store::{lock, slab_len};
use redb::ReadableDatabase;
use std::sync::Arc;

/// Why a carried slab was not taken in. Nothing of it is to be seen then, and it may come again.
#[derive(Debug, thiserror::Error)]
pub enum TakeError<E> {
    /// It does not hash to what it says.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// A chunk could not be had from the carrier.
    #[error("{0}")]
    Carrier(E),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl<E> From<StoreError> for TakeError<E> {
    fn from(error: StoreError) -> Self {
        TakeError::Store(error)
    }
}

impl Draft {
    /// Whether a carried slab is in, durably. One that was all zeroes never comes.
    pub fn has_slab(&self, slab: SlabNumber) -> Result<bool, StoreError> {
        let generation = self.generation();
        let table = self.store.db.begin_read()?.open_table(index::SLABS)?;
        let row = table.get(&index::slab_key(generation.lineage, slab, generation.number))?;
        Ok(row.is_some_and(|row| index::SlabRow::decode(row.value()).place.is_some()))
    }

    /// Takes a carried slab in, in any order of slabs, by several threads at once. Durable after the next [`Draft::checkpoint`].
    ///
    /// `near` has the coded bytes of each chunk that is at hand; the others are looked for in the store and then asked of `far`.
    /// Coded bytes are stored as they came once they were seen to hold what their name says. Memory: two slabs.
    pub fn take_carried<E>(
        &self,
        slab: SlabNumber,
        carried: &Carried,
        near: &[Option<&[u8]>],
        mut far: impl FnMut(&CarriedChunk) -> Result<Vec<u8>, E>,
    ) -> Result<(), TakeError<E>> {
        let generation = self.generation();
        if generation.is_sealed() || slab_len(generation.size, slab) != carried.len as usize {
            return Err(TakeError::Damaged("it has another length than the slab of this generation"));
        }
        if near.len() != carried.chunks.len() {
            return Err(TakeError::Damaged("its chunks are not all named"));
        }
        let mut raw = vec![0; (carried.len as usize).next_multiple_of(BLOCK)];
        let mut by_chunk: Vec<Vec<usize>> = vec![Vec::new(); carried.chunks.len()];
        for (at, piece) in carried.pieces.iter().enumerate() {
            by_chunk[piece.chunk as usize].push(at);
        }
        let mut bytes = Vec::new();
        let mut fetched: Vec<Had> = Vec::with_capacity(carried.chunks.len());
        for (number, chunk) in carried.chunks.iter().enumerate() {
            let had = match near[number] {
                Some(coded) => {
                    unpack(chunk, coded, &mut bytes)?;
                    Had::Near
                }
                None => match self.stored(chunk.id)? {
                    Some((place, stored)) if stored.len() == chunk.raw as usize => {
                        bytes.clear();
                        bytes.extend_from_slice(&stored);
                        Had::Stored(place)
                    }
                    _ => {
                        let coded = far(chunk).map_err(TakeError::Carrier)?;
                        unpack(chunk, &coded, &mut bytes)?;
                        Had::Far(coded)
                    }
                },
            };
            for piece in by_chunk[number].iter().map(|at| carried.pieces[*at]) {
                let (at, skip, len) = (piece.at as usize, piece.skip as usize, piece.len as usize);
                raw[at..at + len].copy_from_slice(&bytes[skip..skip + len]);
            }
            fetched.push(had);
        }
        let mut new = proved(slab, carried, &raw)?;
        drop(raw);
        let mut places = Vec::with_capacity(fetched.len());
        for ((chunk, had), near) in carried.chunks.iter().zip(fetched).zip(near) {
            places.push(match (had, near) {
                (Had::Stored(place), _) => place,
                (Had::Far(coded), _) => self.put_coded(chunk, &coded)?,
                (Had::Near, Some(coded)) => self.put_coded(chunk, coded)?,
                (Had::Near, None) => return Err(TakeError::Damaged("its chunks are not all named")),
            });
        }
        let piece = |piece: &super::CarriedPiece| Piece {
            at: piece.at,
            len: piece.len,
            place: places[piece.chunk as usize],
            skip: piece.skip,
        };
        new.pieces = carried.pieces.iter().map(piece).collect();
        crate::crash_point("dedupe.carry.taken");
        let mut sink = lock(&self.sink);
        sink.stats.new_blocks += new.marks.iter().filter(|mark| **mark != Mark::ZERO).count() as u64;
        sink.rows.push((slab, (!new.is_zero()).then_some(new)));
        Ok(())
    }

    /// A chunk that is in the store and can be read there.
    fn stored(&self, id: ChunkId) -> Result<Option<Stored>, StoreError> {
        let place = {
            let mut sink = lock(&self.sink);
            let pins = &mut sink.pins;
            self.store.find_chunk(id, pins)?
        };
        // One that cannot be read is no reason to fail: the carrier has it too.
        Ok(place.and_then(|place| Some((place, self.store.chunk(place).ok()?))))
    }

    /// Stores a chunk as it is coded, or finds it stored. What is in it was verified.
    fn put_coded(&self, chunk: &CarriedChunk, coded: &[u8]) -> Result<Place, StoreError> {
        let mut sink = lock(&self.sink);
        if let Some(place) = sink.fresh.get(&chunk.id) {
            return Ok(*place);
        }
        let pins = &mut sink.pins;
        if let Some(place) = self.store.find_chunk(chunk.id, pins)? {
            return Ok(place);
        }
        self.add_chunk(&mut sink, chunk.id, chunk.raw as usize, coded)
    }
}

/// A chunk in the store: where, and its bytes.
type Stored = (Place, Arc<Vec<u8>>);

enum Had {
    /// The caller's bytes.
    Near,
    /// In the store.
    Stored(Place),
    /// From the carrier.
    Far(Vec<u8>),
}

/// Unpacks a chunk and sees that it is what it is called.
fn unpack<E>(chunk: &CarriedChunk, coded: &[u8], into: &mut Vec<u8>) -> Result<(), TakeError<E>> {
    into.resize(chunk.raw as usize, 0);
    if coded.len() != chunk.coded as usize || !pack::unpack(coded, into) {
        return Err(TakeError::Damaged("a chunk does not unpack to its length"));
    }
    match VerifiedChunk::of(into).id() == chunk.id {
        true => Ok(()),
        false => Err(TakeError::Damaged("a chunk is not what its name says")),
    }
}

/// The slab's record without its pieces, if its bytes hash to the values that came with it.
fn proved<E>(slab: SlabNumber, carried: &Carried, raw: &[u8]) -> Result<Slab, TakeError<E>> {
    let mut new = Slab::zero(carried.len);
    let bytes = &raw[..carried.len as usize];
    for (number, leaf) in bytes.chunks(LEAF).enumerate() {
        if root::leaf(slab.offset().0 + (number * LEAF) as u64, leaf) != carried.leaves[number] {
            return Err(TakeError::Damaged("its bytes do not hash to its leaves"));
        }
    }
    // Beyond a volume's end are zeroes, and a lie there would be read as the volume's when it grows.
    if raw[bytes.len()..].iter().any(|byte| *byte != 0) {
        return Err(TakeError::Damaged("it has bytes beyond the volume's end"));
    }
    new.leaves = carried.leaves.clone();
    for (mark, block) in new.marks.iter_mut().zip(raw.chunks(BLOCK)) {
        *mark = mark_of(block);
    }
    new.settle();
    Ok(new)
}
