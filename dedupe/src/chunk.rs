//! Chunks: content-defined pieces of a volume, named by the BLAKE3 hash of their bytes.

use fastcdc::v2020::FastCDC;
use serde::{Deserialize, Serialize};
use std::fmt;

/// FastCDC's bounds in bytes. Part of the format: other bounds give other chunks and so no dedupe with what is stored.
/// 16 KiB on average keeps what a 4 KiB base read must unpack small; 64 KiB bounds it.
pub const MIN_CHUNK: usize = 4 << 10;
/// See [`MIN_CHUNK`].
pub const AVERAGE_CHUNK: usize = 16 << 10;
/// See [`MIN_CHUNK`].
pub const MAX_CHUNK: usize = 64 << 10;

/// A chunk's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// The first 8 bytes, as a number: what the sparse index samples and keys by.
    pub fn prefix(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("8 of 32 bytes"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Bytes and the name that hashing them gave. Only hashing makes one, and the store takes only that.
pub struct VerifiedChunk<'a> {
    id: ChunkId,
    bytes: &'a [u8],
}

impl<'a> VerifiedChunk<'a> {
    /// Hashes `bytes`.
    pub fn of(bytes: &'a [u8]) -> Self {
        VerifiedChunk { id: ChunkId(*blake3::hash(bytes).as_bytes()), bytes }
    }

    /// The name.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Cuts a run of new bytes into chunks. The cutter starts anew at each run and at each slab, so that runs are cut in parallel
/// and the same run is always cut alike.
pub fn cut(run: &[u8]) -> impl Iterator<Item = VerifiedChunk<'_>> {
    FastCDC::new(run, MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK)
        .map(move |chunk| VerifiedChunk::of(&run[chunk.offset..chunk.offset + chunk.length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut points are part of the format: a new version of the fastcdc crate must cut as the first one did.
    #[test]
    fn cut_points_are_golden() {
        let mut bytes = vec![0; 300_000];
        blake3::Hasher::new_derive_key("chunk golden").finalize_xof().fill(&mut bytes);
        let lengths: Vec<usize> = cut(&bytes).map(|chunk| chunk.bytes().len()).collect();
        assert_eq!(lengths.iter().sum::<usize>(), bytes.len());
        assert_eq!(lengths, GOLDEN);
        assert!(lengths.iter().all(|len| *len <= MAX_CHUNK));
    }

    const GOLDEN: &[usize] = &[
        15430, 28443, 39977, 11325, 4786, 28315, 13414, 25385, 13100, 12620, 9195, 15123, 19129, 22187, 7390, 16541,
        17640,
    ];
}
