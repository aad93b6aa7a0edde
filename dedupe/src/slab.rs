//! The record of one slab of one generation: where its bytes are, and what they hash to.

use crate::id::{BLOCK, LEAF, Mark, PackId};
use crate::pack::Place;
use crate::root::{self, Subtree};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Bytes of a slab that come from one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First byte in the slab.
    pub at: u32,
    /// How many.
    pub len: u32,
    /// The chunk.
    pub place: Place,
    /// First byte in the chunk.
    pub skip: u32,
}

impl Piece {
    pub(crate) fn end(&self) -> u32 {
        self.at + self.len
    }
}

/// A slab: `len` bytes, covered by pieces; what no piece covers is zeroes. Pieces are whole blocks at the volume's end, so that
/// the last may reach beyond `len`; what it holds there is zeroes.
#[derive(Clone, Debug)]
pub(crate) struct Slab {
    pub(crate) len: u32,
    pub(crate) subtree: Subtree,
    pub(crate) leaves: Vec<Subtree>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) pieces: Vec<Piece>,
}

impl Slab {
    /// A slab of zeroes whose subtree values are not worked out yet.
    pub(crate) fn zero(len: u32) -> Slab {
        Slab {
            len,
            subtree: [0; 32],
            leaves: vec![[0; 32]; (len as usize).div_ceil(LEAF)],
            marks: vec![Mark::ZERO; (len as usize).div_ceil(BLOCK)],
            pieces: Vec::new(),
        }
    }

    /// Bytes of leaf `number` in the slab.
    pub(crate) fn leaf_range(&self, number: usize) -> Range<usize> {
        number * LEAF..(self.len as usize).min((number + 1) * LEAF)
    }

    /// Marks of leaf `number`.
    pub(crate) fn leaf_marks(&self, number: usize) -> &[Mark] {
        let per_leaf = LEAF / BLOCK;
        &self.marks[(number * per_leaf).min(self.marks.len())..((number + 1) * per_leaf).min(self.marks.len())]
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.marks.iter().all(|mark| *mark == Mark::ZERO)
    }

    /// Puts `new` (sorted, disjoint, all within `range`) in place of what covered `range`.
    pub(crate) fn splice(&mut self, range: Range<u32>, new: impl IntoIterator<Item = Piece>) {
        let first = self.pieces.partition_point(|piece| piece.end() <= range.start);
        let last = self.pieces.partition_point(|piece| piece.at < range.end);
        let mut between = Vec::new();
        if let Some(piece) = self.pieces[first..last].first().filter(|piece| piece.at < range.start) {
            between.push(Piece { len: range.start - piece.at, ..*piece });
        }
        between.extend(new);
        if let Some(piece) = self.pieces[first..last].last().filter(|piece| piece.end() > range.end) {
            let cut = range.end - piece.at;
            between.push(Piece { at: range.end, len: piece.len - cut, skip: piece.skip + cut, ..*piece });
        }
        self.pieces.splice(first..last, between);
    }

    /// Pieces that touch `range`, clipped to it.
    pub(crate) fn pieces_in(&self, range: Range<u32>) -> impl Iterator<Item = Piece> + '_ {
        let first = self.pieces.partition_point(|piece| piece.end() <= range.start);
        self.pieces[first..].iter().take_while(move |piece| piece.at < range.end).map(move |piece| {
            let (at, end) = (piece.at.max(range.start), piece.end().min(range.end));
            Piece { at, len: end - at, skip: piece.skip + (at - piece.at), ..*piece }
        })
    }

    /// Works the slab's subtree value out from its leaves.
    pub(crate) fn settle(&mut self) {
        self.subtree = root::slab(&self.leaves);
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut packs: Vec<PackId> = self.pieces.iter().map(|piece| piece.place.pack).collect();
        packs.sort_unstable();
        packs.dedup();
        let mut end = 0;
        let pieces = self
            .pieces
            .iter()
            .map(|piece| {
                let gap = piece.at - end;
                end = piece.end();
                let pack = packs.binary_search(&piece.place.pack).expect("listed above") as u32;
                DiskPiece(gap, piece.len, pack, piece.place.offset, piece.place.stored, piece.place.raw, piece.skip)
            })
            .collect();
        let disk = DiskSlab {
            len: self.len,
            leaves: self.leaves.as_flattened().to_vec(),
            marks: self.marks.iter().flat_map(|mark| mark.0).collect(),
            packs,
            pieces,
        };
        postcard::to_stdvec(&disk).expect("a slab always encodes")
    }

    /// `None` when the bytes are not a slab.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Slab> {
        let disk: DiskSlab = postcard::from_bytes(bytes).ok()?;
        let len = disk.len as usize;
        let (leaves, rest) = disk.leaves.as_chunks::<32>();
        let (marks, rest_of_marks) = disk.marks.as_chunks::<6>();
        let fits = rest.is_empty()
            && rest_of_marks.is_empty()
            && (1..=crate::id::SLAB).contains(&len)
            && leaves.len() == len.div_ceil(LEAF)
            && marks.len() == len.div_ceil(BLOCK);
        if !fits {
            return None;
        }
        let mut end = 0u32;
        let mut pieces = Vec::with_capacity(disk.pieces.len());
        for DiskPiece(gap, len, pack, offset, stored, raw, skip) in disk.pieces {
            let at = end.checked_add(gap)?;
            end = at.checked_add(len).filter(|end| *end as usize <= marks.len() * BLOCK)?;
            skip.checked_add(len).filter(|end| *end <= raw)?;
            let place = Place { pack: *disk.packs.get(pack as usize)?, offset, stored, raw };
            pieces.push(Piece { at, len, place, skip });
        }
        let leaves = leaves.to_vec();
        let marks = marks.iter().map(|mark| Mark(*mark)).collect();
        Some(Slab { len: disk.len, subtree: root::slab(&leaves), leaves, marks, pieces })
    }

    /// Bytes in memory, about.
    pub(crate) fn cost(&self) -> usize {
        self.leaves.len() * 32 + self.marks.len() * 6 + self.pieces.len() * size_of::<Piece>() + 200
    }
}

#[derive(Serialize, Deserialize)]
struct DiskSlab {
    len: u32,
    leaves: Vec<u8>,
    marks: Vec<u8>,
    packs: Vec<PackId>,
    pieces: Vec<DiskPiece>,
}

/// Gap since the last piece's end, length, index of the pack, offset, stored, raw, skip.
#[derive(Serialize, Deserialize)]
struct DiskPiece(u32, u32, u32, u32, u32, u32, u32);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(at: u32, len: u32, tag: u32) -> Piece {
        Piece { at, len, place: Place { pack: PackId([1; 16]), offset: tag, stored: 9, raw: 1 << 24 }, skip: at }
    }

    proptest! {
        /// Against the obvious: one tag per byte.
        #[test]
        fn splice_is_as_painting(steps in prop::collection::vec((0u32..64, 1u32..32, any::<bool>()), 1..40)) {
            let mut slab = Slab::zero(128 << 10);
            let mut painted = vec![0u32; 96];
            for (tag, &(at, len, hole)) in (1..).zip(&steps) {
                let fill = if hole { 0 } else { tag };
                painted[at as usize..(at + len) as usize].fill(fill);
                slab.splice(at..at + len, (!hole).then(|| piece(at, len, tag)));
            }
            let mut seen = vec![0u32; 96];
            for piece in &slab.pieces {
                prop_assert_eq!(piece.skip, piece.at);
                seen[piece.at as usize..piece.end() as usize].fill(piece.place.offset);
            }
            prop_assert_eq!(&seen, &painted);
            prop_assert!(slab.pieces.windows(2).all(|pair| pair[0].end() <= pair[1].at));
            slab.settle();
            let back = Slab::decode(&slab.encode()).expect("decodes");
            prop_assert_eq!(back.pieces, slab.pieces);
            prop_assert_eq!(back.subtree, slab.subtree);
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        let mut slab = Slab::zero(64 << 10);
        slab.splice(0..4096, [piece(0, 4096, 1)]);
        let bytes = slab.encode();
        for cut in 0..bytes.len() {
            assert!(Slab::decode(&bytes[..cut]).is_none(), "{cut}");
        }
        slab.pieces[0].len = 1 << 25;
        assert!(Slab::decode(&slab.encode()).is_none(), "a piece beyond the slab");
    }
}
