//! A delta between two images that both ends hold as plain bytes, without a store: how a new system reaches an appliance that runs another one.
//!
//! The parcel's format and the codec's ideas ([`crate::parcel`], [`crate::anchors`]): the prefix of each part is what the old image has at the same addresses
//! and what anchors find elsewhere in it. Nothing refers to the parts before, so each part can be applied alone, and both ends need little memory:
//! [`PART`] of new bytes and [`PREFIX`] of old ones.
//!
//! ```text
//!   part: first block u64 | block behind the last u64 | parcel          blocks of the part that the parcel does not name are those of the old image
//! ```

use crate::anchors::{self, DENSEST};
use crate::bases::{Base, choose};
use crate::codec::{self, CodecMemory, Effort};
use crate::delta::{blocks_of, runs_of};
use crate::id::{BLOCK, BlockNumber, BlockRun, GenerationId};
use crate::parcel::{self, Header};
use std::collections::HashSet;
use std::io;

/// New bytes of one part at most. An appliance of 1 GiB applies parts while its daemon runs.
pub const PART: usize = 16 << 20;
/// Old bytes that one part is coded against at most.
pub const PREFIX: usize = 3 * PART;
/// Bytes of a part before its parcel.
const HEAD: usize = 16;
/// Blocks that are read at once.
const READ: usize = 256;
/// Blocks of zeroes that one part names at most.
const MAX_ZERO: usize = 1 << 18;
/// Blocks each side of a chosen one that are taken along: as for volumes.
const WIDEN: i64 = 2;
/// Tables of zstd for [`PREFIX`] + [`PART`]: 128 MiB and 256 MiB while a part is coded.
const MEMORY: CodecMemory = CodecMemory { long_log: 24, chain_log: 26 };
/// The old image's name in parcels.
const OLD: GenerationId = GenerationId([0xff; 16]);
/// The new image's.
const NEW: GenerationId = GenerationId([0; 16]);

/// An image whose bytes can be read anywhere. A whole number of blocks.
pub trait Image {
    /// Blocks that it has.
    fn blocks(&self) -> u64;

    /// Reads whole blocks from `first` on.
    fn read(&self, first: BlockNumber, into: &mut [u8]) -> io::Result<()>;
}

/// An image of nothing: what a delta against it brings is all there is.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Image for Nothing {
    fn blocks(&self) -> u64 {
        0
    }

    fn read(&self, _: BlockNumber, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// A file or device of which so many blocks are the image.
#[derive(Debug)]
pub struct FileImage {
    file: std::fs::File,
    blocks: u64,
}

impl FileImage {
    /// The first `bytes` of a file, which has to have them.
    ///
    /// # Panics
    /// When `bytes` is no whole number of blocks.
    pub fn new(file: std::fs::File, bytes: u64) -> FileImage {
        assert!(bytes.is_multiple_of(BLOCK as u64), "an image has whole blocks");
        FileImage { file, blocks: bytes / BLOCK as u64 }
    }
}

impl Image for FileImage {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&self, first: BlockNumber, into: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, into, first.0 * BLOCK as u64)
    }
}

/// Why a part cannot be made or applied.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// An image cannot be read or written.
    #[error("an image cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// zstd failed.
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    /// The part is damaged, out of its turn, or made for other images.
    #[error("the part of the image is not usable: {0}")]
    Damaged(&'static str),
}

/// Where the bytes of the old image's anchors are.
struct Anchors(Vec<(u64, u32)>);

impl Anchors {
    fn of(image: &dyn Image) -> io::Result<Anchors> {
        let mut found = Vec::new();
        let mut buffer = Vec::new();
        for first in (0..image.blocks()).step_by(READ) {
            let count = READ.min((image.blocks() - first) as usize);
            buffer.resize(count * BLOCK, 0);
            image.read(BlockNumber(first), &mut buffer)?;
            anchors::scan(&buffer, DENSEST, |at, hash| found.push((hash, first as u32 + (at / BLOCK) as u32)));
        }
        found.sort_unstable();
        found.dedup();
        Ok(Anchors(found))
    }

    /// Places of an anchor, a few at most.
    fn places(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let start = self.0.partition_point(|(other, _)| *other < hash);
        self.0[start..]
            .iter()
            .take_while(move |(other, _)| *other == hash)
            .map(|(_, block)| *block)
            .take(anchors::MAX_COPIES)
    }
}

/// Makes the parts of a delta, one after the other.
pub struct Maker<'a> {
    old: &'a dyn Image,
    new: &'a dyn Image,
    anchors: Anchors,
    cursor: u64,
    number: u32,
    effort: Effort,
}

impl<'a> Maker<'a> {
    /// Reads all of `old` once. Memory: 16 bytes for each 256 of it.
    pub fn new(old: &'a dyn Image, new: &'a dyn Image, effort: Effort) -> io::Result<Maker<'a>> {
        Ok(Maker { old, new, anchors: Anchors::of(old)?, cursor: 0, number: 0, effort })
    }

    /// The next part; `None` behind the last. At least one part covers each image, also where nothing differs.
    pub fn next_part(&mut self) -> Result<Option<Vec<u8>>, ImageError> {
        if self.cursor >= self.new.blocks() {
            return Ok(None);
        }
        let first = self.cursor;
        let (fresh_blocks, fresh, zero) = self.differing()?;
        let fresh_runs = runs_of(fresh_blocks.iter().copied());
        let same: Vec<BlockNumber> = fresh_blocks.iter().copied().filter(|block| block.0 < self.old.blocks()).collect();
        let chosen = self.chosen(&fresh, &same);
        let mut buffer = Vec::with_capacity((chosen.len() + same.len()) * BLOCK + fresh.len());
        read_runs(self.old, &runs_of(chosen.iter().copied()), &mut buffer)?;
        read_runs(self.old, &runs_of(same), &mut buffer)?;
        let start = buffer.len();
        buffer.extend_from_slice(&fresh);
        let payload = codec::encode(&buffer, start, self.effort, MEMORY)?;
        let header = Header {
            generation: NEW,
            number: self.number,
            sources: vec![OLD],
            base: Some(OLD),
            fresh: fresh_runs,
            zero: runs_of(zero),
            copied: Vec::new(),
            chosen: if chosen.is_empty() { Vec::new() } else { vec![(0, runs_of(chosen))] },
            recent: 0,
            without_old: Vec::new(),
            fresh_hash: *blake3::hash(&fresh).as_bytes(),
            copied_hash: *blake3::hash(&[]).as_bytes(),
        };
        self.number += 1;
        let mut part = Vec::with_capacity(HEAD + payload.len());
        part.extend_from_slice(&first.to_le_bytes());
        part.extend_from_slice(&self.cursor.to_le_bytes());
        part.extend_from_slice(&parcel::assemble(&header, &payload));
        Ok(Some(part))
    }

    /// From the cursor on: blocks with other bytes than at the same place in the old image, their bytes, and blocks that became zeroes. Moves the cursor.
    #[expect(clippy::type_complexity, reason = "three lists that are taken apart at once")]
    fn differing(&mut self) -> Result<(Vec<BlockNumber>, Vec<u8>, Vec<BlockNumber>), ImageError> {
        let (mut blocks, mut fresh, mut zero) = (Vec::new(), Vec::new(), Vec::new());
        let (mut new, mut old) = (vec![0; READ * BLOCK], vec![0; READ * BLOCK]);
        while self.cursor < self.new.blocks() {
            let count = READ.min((self.new.blocks() - self.cursor) as usize);
            let there = READ.min(self.old.blocks().saturating_sub(self.cursor) as usize).min(count);
            self.new.read(BlockNumber(self.cursor), &mut new[..count * BLOCK])?;
            if there > 0 {
                self.old.read(BlockNumber(self.cursor), &mut old[..there * BLOCK])?;
            }
            for at in 0..count {
                let bytes = &new[at * BLOCK..(at + 1) * BLOCK];
                let equal = at < there && old[at * BLOCK..(at + 1) * BLOCK] == *bytes;
                if !equal && bytes.iter().all(|byte| *byte == 0) {
                    zero.push(BlockNumber(self.cursor));
                } else if !equal {
                    blocks.push(BlockNumber(self.cursor));
                    fresh.extend_from_slice(bytes);
                }
                self.cursor += 1;
                if fresh.len() == PART || zero.len() == MAX_ZERO {
                    return Ok((blocks, fresh, zero));
                }
            }
        }
        Ok((blocks, fresh, zero))
    }

    fn chosen(&self, fresh: &[u8], same: &[BlockNumber]) -> Vec<BlockNumber> {
        let mut pairs = Vec::new();
        anchors::scan(fresh, DENSEST, |_, hash| {
            pairs.extend(self.anchors.places(hash).map(|block| (hash, Base::new(0, block.into()))));
        });
        let given: HashSet<Base> = same.iter().map(|block| Base::new(0, block.0)).collect();
        let budget = (PREFIX - PART) / BLOCK;
        let chosen = choose(&mut pairs, &given, WIDEN, budget, |base| base.block() < self.old.blocks());
        chosen.into_iter().map(|base| BlockNumber(base.block())).collect()
    }
}

fn read_runs(image: &dyn Image, runs: &[BlockRun], into: &mut Vec<u8>) -> io::Result<()> {
    for run in runs {
        let at = into.len();
        into.resize(at + run.count as usize * BLOCK, 0);
        image.read(run.first, &mut into[at..])?;
    }
    Ok(())
}

/// Applies part `number`, which has to begin at `first`: all its blocks go through `write`, in order, in pieces of at most 1 MiB. Returns the first block of
/// the next part.
///
/// Memory: [`PREFIX`] + [`PART`] and zstd's window.
///
/// # Errors
/// [`ImageError::Damaged`] before anything is written, unless the old image cannot be read.
pub fn apply(
    part: &[u8],
    number: u32,
    first: BlockNumber,
    blocks: u64,
    old: &dyn Image,
    mut write: impl FnMut(BlockNumber, &[u8]) -> io::Result<()>,
) -> Result<BlockNumber, ImageError> {
    let (from, until, parcel) = split(part)?;
    if from != first.0 || until <= from || until > blocks {
        return Err(ImageError::Damaged("it is of another place"));
    }
    let (header, payload) = parcel::parse(parcel).map_err(|error| ImageError::Damaged(error.0))?;
    check(&header, number, from, until, old)?;
    let mut prefix = Vec::new();
    for (_, runs) in &header.chosen {
        read_runs(old, runs, &mut prefix)?;
    }
    let same = blocks_of(&header.fresh).filter(|block| block.0 < old.blocks());
    read_runs(old, &runs_of(same), &mut prefix)?;
    let mut fresh = Vec::new();
    codec::decode(&prefix, payload, header.fresh_len(), &mut fresh)
        .map_err(|_| ImageError::Damaged("it does not unpack"))?;
    drop(prefix);
    if *blake3::hash(&fresh).as_bytes() != header.fresh_hash {
        return Err(ImageError::Damaged("it unpacks to something else, or was made for another image"));
    }
    let mut named = blocks_of(&header.fresh).map(|block| block.0).zip(fresh.chunks_exact(BLOCK)).peekable();
    let mut zero = blocks_of(&header.zero).map(|block| block.0).peekable();
    let mut buffer = vec![0; READ * BLOCK];
    for at in (from..until).step_by(READ) {
        let count = READ.min((until - at) as usize);
        let there = READ.min(old.blocks().saturating_sub(at) as usize).min(count);
        buffer.fill(0);
        if there > 0 {
            old.read(BlockNumber(at), &mut buffer[..there * BLOCK])?;
        }
        for (place, block) in buffer[..count * BLOCK].chunks_exact_mut(BLOCK).zip(at..) {
            if let Some((_, bytes)) = named.next_if(|(named, _)| *named == block) {
                place.copy_from_slice(bytes);
            } else if zero.next_if_eq(&block).is_some() {
                place.fill(0);
            } else if block >= old.blocks() {
                return Err(ImageError::Damaged("it leaves blocks open that the old image has not"));
            }
        }
        write(BlockNumber(at), &buffer[..count * BLOCK])?;
    }
    Ok(BlockNumber(until))
}

fn split(part: &[u8]) -> Result<(u64, u64, &[u8]), ImageError> {
    let (head, parcel) = part.split_at_checked(HEAD).ok_or(ImageError::Damaged("it ends within its head"))?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    Ok((number(0), number(8), parcel))
}

/// Whether the header asks for nothing but what such a part may have.
fn check(header: &Header, number: u32, from: u64, until: u64, old: &dyn Image) -> Result<(), ImageError> {
    let within = |run: &BlockRun| run.first.0 >= from && run.first.0 + run.count <= until;
    if header.number != number || header.generation != NEW || header.base != Some(OLD) {
        return Err(ImageError::Damaged("it is another part, or none of an image"));
    }
    if header.recent != 0 || !header.copied.is_empty() || !header.without_old.is_empty() {
        return Err(ImageError::Damaged("it refers to what no part of an image refers to"));
    }
    if header.fresh_len() > PART || !header.fresh.iter().chain(&header.zero).all(within) {
        return Err(ImageError::Damaged("it has more blocks than a part has, or others"));
    }
    let chosen = header.chosen.iter().flat_map(|(_, runs)| runs);
    let (mut count, mut end) = (0u64, 0);
    for run in chosen {
        count = count.saturating_add(run.count);
        end = end.max(run.first.0 + run.count);
    }
    match count <= ((PREFIX - PART) / BLOCK) as u64 && end <= old.blocks() {
        true => Ok(()),
        false => Err(ImageError::Damaged("it is coded against more than there is")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl Image for Bytes {
        fn blocks(&self) -> u64 {
            (self.0.len() / BLOCK) as u64
        }

        fn read(&self, first: BlockNumber, into: &mut [u8]) -> io::Result<()> {
            let at = first.0 as usize * BLOCK;
            let bytes = self.0.get(at..at + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            into.copy_from_slice(bytes);
            Ok(())
        }
    }

    fn noise(len: usize, seed: &str) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_derive_key(seed).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn whole(mut bytes: Vec<u8>) -> Bytes {
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        Bytes(bytes)
    }

    fn parts(old: &dyn Image, new: &dyn Image) -> Vec<Vec<u8>> {
        let mut maker = Maker::new(old, new, Effort::Light).unwrap();
        std::iter::from_fn(|| maker.next_part().unwrap()).collect()
    }

    fn applied(parts: &[Vec<u8>], old: &dyn Image, blocks: u64) -> Result<Vec<u8>, ImageError> {
        let (mut made, mut at) = (vec![0xaa; blocks as usize * BLOCK], BlockNumber(0));
        for (number, part) in parts.iter().enumerate() {
            at = apply(part, number as u32, at, blocks, old, |block, bytes| {
                made[block.0 as usize * BLOCK..][..bytes.len()].copy_from_slice(bytes);
                Ok(())
            })?;
        }
        assert_eq!(at.0, blocks);
        Ok(made)
    }

    #[test]
    fn what_moved_by_some_bytes_costs_next_to_nothing() {
        let bytes = noise(40 << 20, "system");
        let old = whole([bytes.as_slice(), &vec![0; 1 << 20], &noise(100_000, "tail")].concat());
        let new = whole(
            [&noise(3_333, "new in front")[..], &bytes[..30 << 20], &vec![0; 2 << 20], &bytes[30 << 20..]].concat(),
        );
        let parts = parts(&old, &new);
        assert!(parts.len() > 2, "{}", parts.len());
        assert_eq!(applied(&parts, &old, new.blocks()).unwrap(), new.0);
        let sent: usize = parts.iter().map(Vec::len).sum();
        assert!(sent < 200_000, "{sent} bytes for 3 kB that are new");
    }

    #[test]
    fn whole_images_equal_images_and_shorter_ones_come_out() {
        let (long, short) = (whole(noise(5 << 20, "a")), whole(noise(1 << 20, "a")));
        for (old, new) in [(&Nothing as &dyn Image, &long), (&long, &long), (&long, &short), (&short, &long)] {
            let parts = parts(old, new);
            assert_eq!(applied(&parts, old, new.blocks()).unwrap(), new.0);
        }
        assert!(parts(&long, &long).concat().len() < 400);
        assert!(parts(&long, &short).concat().len() < 400);
    }

    #[test]
    fn a_part_out_of_turn_for_another_image_or_damaged_is_refused() {
        let (old, other) = (whole(noise(20 << 20, "old")), whole(noise(20 << 20, "other")));
        let new = whole([&noise(77, "x")[..], &old.0[..]].concat());
        let good = parts(&old, &new);
        assert!(good.len() >= 2);
        let refused = |parts: &[Vec<u8>], old: &dyn Image| {
            matches!(applied(parts, old, new.blocks()), Err(ImageError::Damaged(_)))
        };
        assert!(refused(&good, &other));
        assert!(refused(&good, &Nothing));
        assert!(refused(&[good[1].clone(), good[0].clone()], &old));
        for at in (0..good[0].len()).step_by(good[0].len() / 97) {
            let mut flipped = good[0].clone();
            flipped[at] ^= 0x10;
            let mut wrong = good.clone();
            wrong[0] = flipped;
            match applied(&wrong, &old, new.blocks()) {
                Err(_) => {}
                Ok(made) => assert_eq!(made, new.0, "byte {at}"), // of a header's coding: it says the same
            }
        }
        assert!(refused(&[good[0][..10].to_vec()], &old));
    }

    #[test]
    fn a_part_that_leaves_blocks_open_behind_the_old_image_is_refused() {
        let (short, long) = (whole(noise(1 << 20, "s")), whole(noise(2 << 20, "l")));
        let parts = parts(&long, &long); // names nothing
        assert!(matches!(applied(&parts, &short, long.blocks()), Err(ImageError::Damaged(_))));
    }
}
