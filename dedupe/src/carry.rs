//! A sealed generation on its way to another store by hand: slab by slab as it lies, record and coded chunks, without coding anything anew.
//!
//! ```text
//!   View::lift(slab) ──► coded chunks ──► somewhere (spots) ──► Lifted::record ──► Draft::take_carried
//! ```
//!
//! Where chunks lie on the way is the carrier's business: a [`Spot`] is its own word for it. A slab that is all zeroes is not carried.
//! What arrives is believed by nobody: chunks are hashed to their names, leaves to their values, and the generation to its root.

mod lift;
mod take;
#[cfg(test)]
mod tests;

pub use lift::{Given, LiftError, Lifted};
pub use take::TakeError;

use crate::chunk::{ChunkId, MAX_CHUNK};
use crate::id::{BLOCK, LEAF, SLAB};
use serde::{Deserialize, Serialize};

/// Raw bytes of all chunks of one slab at most. Pieces of old chunks would make it more: such a slab is cut anew when it is lifted.
pub(crate) const MAX_RAW: usize = 2 * SLAB;
/// Bytes of a coded chunk at most: one for its codec, and no more than it has raw.
pub const MAX_CODED: usize = MAX_CHUNK + 1;
/// Bytes of a slab's record at most: 512 leaves of 32 bytes, and two pieces and chunks of at most 80 bytes for each of 4096 blocks.
pub const MAX_RECORD: usize = 1 << 20;

/// Where a chunk lies on a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Spot {
    /// Number of the file.
    pub part: u32,
    /// Bytes from its start.
    pub offset: u32,
}

/// A chunk that a slab needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedChunk {
    /// Its name: BLAKE3 of its raw bytes.
    pub id: ChunkId,
    /// Raw bytes, 1 to [`MAX_CHUNK`].
    pub raw: u32,
    /// Coded bytes, 2 to [`MAX_CODED`].
    pub coded: u32,
    /// Where they are.
    pub spot: Spot,
}

/// A slab as it is carried: what its bytes hash to and which chunks they are in. Marks are worked out anew where it arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    pub(crate) len: u32,
    pub(crate) leaves: Vec<[u8; 32]>,
    /// Each once; those that this slab brings lie one behind the other.
    pub(crate) chunks: Vec<CarriedChunk>,
    pub(crate) pieces: Vec<CarriedPiece>,
}

/// Bytes of a slab that come from one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CarriedPiece {
    pub(crate) at: u32,
    pub(crate) len: u32,
    /// Index of the chunk.
    pub(crate) chunk: u32,
    pub(crate) skip: u32,
}

#[derive(Serialize, Deserialize)]
struct Disk {
    len: u32,
    leaves: Vec<u8>,
    chunks: Vec<CarriedChunk>,
    /// Gap since the last piece's end, length, chunk, skip.
    pieces: Vec<(u32, u32, u32, u32)>,
}

impl Carried {
    /// The chunks that it needs.
    pub fn chunks(&self) -> &[CarriedChunk] {
        &self.chunks
    }

    /// Bytes of the slab.
    pub fn bytes(&self) -> u64 {
        self.len.into()
    }

    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        let mut end = 0;
        let piece = |piece: &CarriedPiece| {
            let gap = piece.at - end;
            end = piece.at + piece.len;
            (gap, piece.len, piece.chunk, piece.skip)
        };
        let disk = Disk {
            len: self.len,
            pieces: self.pieces.iter().map(piece).collect(),
            leaves: self.leaves.as_flattened().to_vec(),
            chunks: self.chunks.clone(),
        };
        postcard::to_stdvec(&disk).expect("a slab always encodes")
    }

    /// `None` when the bytes are no slab, or one beyond what is allowed.
    pub fn decode(bytes: &[u8]) -> Option<Carried> {
        if bytes.len() > MAX_RECORD {
            return None;
        }
        let disk: Disk = postcard::from_bytes(bytes).ok()?;
        let len = disk.len as usize;
        let (leaves, rest) = disk.leaves.as_chunks::<32>();
        if !rest.is_empty() || !(1..=SLAB).contains(&len) || leaves.len() != len.div_ceil(LEAF) {
            return None;
        }
        let fits = |chunk: &CarriedChunk| {
            (1..=MAX_CHUNK as u32).contains(&chunk.raw) && chunk.coded >= 2 && chunk.coded <= chunk.raw + 1
        };
        let raw: u64 = disk.chunks.iter().map(|chunk| u64::from(chunk.raw)).sum();
        if !disk.chunks.iter().all(fits) || raw > MAX_RAW as u64 {
            return None;
        }
        let room = len.next_multiple_of(BLOCK) as u32;
        let (mut end, mut pieces) = (0u32, Vec::with_capacity(disk.pieces.len()));
        for (gap, len, chunk, skip) in disk.pieces {
            let at = end.checked_add(gap)?;
            end = at.checked_add(len).filter(|end| *end <= room && len > 0)?;
            let raw = disk.chunks.get(chunk as usize)?.raw;
            skip.checked_add(len).filter(|end| *end <= raw)?;
            pieces.push(CarriedPiece { at, len, chunk, skip });
        }
        Some(Carried { len: disk.len, leaves: leaves.to_vec(), chunks: disk.chunks, pieces })
    }
}
