//! The parcel: a batch of new bytes as it travels, and what the receiver needs to unpack it.
//!
//! ```text
//! magic "SLPC", version u8 | header: raw length u32, coded length u32, one zstd frame | payload: one zstd frame
//! ```
//!
//! The payload is coded with a reference prefix that both ends can build:
//! `[chosen old blocks, source by source in address order][blocks of the last parcels of this generation][old blocks at the same addresses]`.
//! The encoder is free to choose; the decoder only follows. So better encoders need no new protocol.

use crate::id::{BLOCK, BlockNumber, BlockRun, GenerationId};
use serde::{Deserialize, Serialize};
use zstd::zstd_safe::{CCtx, CParameter, DCtx};

const MAGIC: &[u8; 4] = b"SLPC";
const VERSION: u8 = 1;
const FIXED: usize = 13;

/// Bytes that one parcel makes new at most (coded and copied together). Decoders allocate no more than this and [`MAX_PREFIX`].
pub const MAX_FRESH: usize = 64 << 20;
/// Bytes of prefix that one parcel may ask its receiver to build.
pub const MAX_PREFIX: usize = 256 << 20;
/// Bytes of an encoded parcel at most: incompressible bytes and their header.
pub const MAX_PARCEL: usize = MAX_FRESH + MAX_FRESH / 64 + MAX_HEADER;
/// Bytes of a header before compression at most: 16,384 lone blocks as fresh, chosen and copied extents stay below 1 MiB.
const MAX_HEADER: usize = 4 << 20;

/// What is wrong with a parcel's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAParcel(pub &'static str);

/// Blocks that equal blocks which the receiver holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Where they go.
    pub to: BlockNumber,
    /// How many.
    pub count: u64,
    /// Index into [`Header::sources`].
    pub source: u32,
    /// Where they are.
    pub from: BlockNumber,
}

/// What the receiver must know, checked: runs are sorted, disjoint and not empty, sizes are within the limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The generation that the parcel belongs to.
    pub generation: GenerationId,
    /// Its number, from 0.
    pub number: u32,
    /// Other generations that it names.
    pub sources: Vec<GenerationId>,
    /// The generation whose blocks at the same addresses end the prefix.
    pub base: Option<GenerationId>,
    /// Blocks whose bytes are in the payload, in address order.
    pub fresh: Vec<BlockRun>,
    /// Blocks that became zeroes.
    pub zero: Vec<BlockRun>,
    /// Blocks that are elsewhere already, by `to`.
    pub copied: Vec<Copied>,
    /// First part of the prefix: index into `sources`, and blocks of it.
    pub chosen: Vec<(u32, Vec<BlockRun>)>,
    /// Second part: the fresh blocks of so many parcels before this one.
    pub recent: u32,
    /// Fresh blocks whose old bytes are not in the third part, because the encoder holds them no more.
    pub without_old: Vec<BlockRun>,
    /// BLAKE3 of the fresh bytes.
    pub fresh_hash: [u8; 32],
    /// BLAKE3 of the copied bytes, in the order of `copied`.
    pub copied_hash: [u8; 32],
}

/// How many blocks the runs have.
pub(crate) fn blocks_in(runs: &[BlockRun]) -> u64 {
    runs.iter().map(|run| run.count).sum()
}

/// Runs as (gap since the last end, count).
type Gaps = Vec<(u64, u64)>;

fn to_gaps(runs: &[BlockRun]) -> Gaps {
    let mut end = 0;
    runs.iter()
        .map(|run| {
            let gap = run.first.0 - end;
            end = run.first.0 + run.count;
            (gap, run.count)
        })
        .collect()
}

fn from_gaps(gaps: &[(u64, u64)]) -> Result<Vec<BlockRun>, NotAParcel> {
    let mut end = 0u64;
    gaps.iter()
        .map(|&(gap, count)| {
            let first = end.checked_add(gap).ok_or(NotAParcel("a run begins beyond all volumes"))?;
            end = first
                .checked_add(count)
                .filter(|end| *end <= LAST_BLOCK)
                .ok_or(NotAParcel("a run ends beyond all volumes"))?;
            if count == 0 {
                return Err(NotAParcel("a run is empty"));
            }
            Ok(BlockRun { first: BlockNumber(first), count })
        })
        .collect()
}

/// No volume has more blocks: 2^48 bytes, 256 TiB.
const LAST_BLOCK: u64 = 1 << 36;

/// Encodes runs for the table of parcels.
pub(crate) fn encode_runs(runs: &[BlockRun]) -> Vec<u8> {
    postcard::to_stdvec(&to_gaps(runs)).expect("runs always encode")
}

/// The opposite of [`encode_runs`].
pub(crate) fn decode_runs(bytes: &[u8]) -> Result<Vec<BlockRun>, NotAParcel> {
    from_gaps(&postcard::from_bytes::<Gaps>(bytes).map_err(|_| NotAParcel("its list of blocks does not decode"))?)
}

#[derive(Serialize, Deserialize)]
struct DiskHeader {
    generation: GenerationId,
    number: u32,
    sources: Vec<GenerationId>,
    base: Option<GenerationId>,
    fresh: Gaps,
    zero: Gaps,
    copied: Vec<(u64, u64, u32, i64)>,
    chosen: Vec<(u32, Gaps)>,
    recent: u32,
    without_old: Gaps,
    fresh_hash: [u8; 32],
    copied_hash: [u8; 32],
}

impl Header {
    fn to_disk(&self) -> DiskHeader {
        let (mut end, mut from) = (0, 0);
        let copied = self
            .copied
            .iter()
            .map(|copy| {
                let coded = (copy.to.0 - end, copy.count, copy.source, copy.from.0.wrapping_sub(from) as i64);
                (end, from) = (copy.to.0 + copy.count, copy.from.0 + copy.count);
                coded
            })
            .collect();
        DiskHeader {
            generation: self.generation,
            number: self.number,
            sources: self.sources.clone(),
            base: self.base,
            fresh: to_gaps(&self.fresh),
            zero: to_gaps(&self.zero),
            copied,
            chosen: self.chosen.iter().map(|(source, runs)| (*source, to_gaps(runs))).collect(),
            recent: self.recent,
            without_old: to_gaps(&self.without_old),
            fresh_hash: self.fresh_hash,
            copied_hash: self.copied_hash,
        }
    }

    fn from_disk(disk: DiskHeader) -> Result<Header, NotAParcel> {
        let (mut end, mut from) = (0u64, 0u64);
        let mut copied = Vec::with_capacity(disk.copied.len());
        for (gap, count, source, step) in disk.copied {
            let to = end.checked_add(gap).ok_or(NotAParcel("a copy goes beyond all volumes"))?;
            let source_from = from.wrapping_add_signed(step);
            let ends = [to.checked_add(count), source_from.checked_add(count)];
            if count == 0 || ends.iter().any(|end| end.is_none_or(|end| end > LAST_BLOCK)) {
                return Err(NotAParcel("a copy is empty or beyond all volumes"));
            }
            if disk.sources.len() <= source as usize {
                return Err(NotAParcel("a copy names no source"));
            }
            copied.push(Copied { to: BlockNumber(to), count, source, from: BlockNumber(source_from) });
            (end, from) = (to + count, source_from + count);
        }
        let chosen = disk
            .chosen
            .iter()
            .map(|(source, gaps)| match disk.sources.get(*source as usize) {
                Some(_) => Ok((*source, from_gaps(gaps)?)),
                None => Err(NotAParcel("a base names no source")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let header = Header {
            generation: disk.generation,
            number: disk.number,
            sources: disk.sources,
            base: disk.base,
            fresh: from_gaps(&disk.fresh)?,
            zero: from_gaps(&disk.zero)?,
            copied,
            chosen,
            recent: disk.recent,
            without_old: from_gaps(&disk.without_old)?,
            fresh_hash: disk.fresh_hash,
            copied_hash: disk.copied_hash,
        };
        let copied_blocks = header.copied.iter().map(|copy| copy.count).fold(0u64, u64::saturating_add);
        if blocks_in(&header.fresh).saturating_add(copied_blocks) > (MAX_FRESH / BLOCK) as u64 {
            return Err(NotAParcel("it makes more blocks new than a parcel may"));
        }
        let chosen_blocks: u64 = header.chosen.iter().map(|(_, runs)| blocks_in(runs)).fold(0, u64::saturating_add);
        if chosen_blocks > (MAX_PREFIX / BLOCK) as u64 {
            return Err(NotAParcel("it asks for more bases than a parcel may"));
        }
        Ok(header)
    }

    /// Bytes of the payload when unpacked.
    pub fn fresh_len(&self) -> usize {
        blocks_in(&self.fresh) as usize * BLOCK
    }
}

/// Puts header and payload together.
pub fn assemble(header: &Header, payload: &[u8]) -> Vec<u8> {
    let raw = raw_header(header);
    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(19)).expect("level 19 exists");
    let mut coded = Vec::with_capacity(zstd::zstd_safe::compress_bound(raw.len()));
    context.compress2(&mut coded, &raw).expect("the buffer has room for the worst case");
    let mut bytes = Vec::with_capacity(FIXED + coded.len() + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(coded.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&coded);
    bytes.extend_from_slice(payload);
    bytes
}

/// Takes a parcel apart; allocates nothing that the limits do not allow.
pub fn parse(bytes: &[u8]) -> Result<(Header, &[u8]), NotAParcel> {
    if bytes.len() < FIXED || &bytes[..4] != MAGIC {
        return Err(NotAParcel("it does not begin as a parcel"));
    }
    if bytes[4] != VERSION {
        return Err(NotAParcel("its version is not known here"));
    }
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize;
    let (raw_len, coded_len) = (number(5), number(9));
    if raw_len > MAX_HEADER {
        return Err(NotAParcel("its header is too large"));
    }
    let coded = bytes[FIXED..].get(..coded_len).ok_or(NotAParcel("it ends within its header"))?;
    let mut raw = Vec::with_capacity(raw_len);
    DCtx::create().decompress(&mut raw, coded).map_err(|_| NotAParcel("its header does not unpack"))?;
    if raw.len() != raw_len {
        return Err(NotAParcel("its header has another length"));
    }
    Ok((parse_header(&raw)?, &bytes[FIXED + coded_len..]))
}

/// A header after unpacking.
pub(crate) fn parse_header(raw: &[u8]) -> Result<Header, NotAParcel> {
    let disk: DiskHeader = postcard::from_bytes(raw).map_err(|_| NotAParcel("its header does not decode"))?;
    Header::from_disk(disk)
}

/// A header before packing.
pub(crate) fn raw_header(header: &Header) -> Vec<u8> {
    postcard::to_stdvec(&header.to_disk()).expect("a header always encodes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let run = |first, count| BlockRun { first: BlockNumber(first), count };
        Header {
            generation: GenerationId([1; 16]),
            number: 3,
            sources: vec![GenerationId([2; 16]), GenerationId([1; 16])],
            base: Some(GenerationId([2; 16])),
            fresh: vec![run(0, 2), run(7, 1), run(1 << 30, 5)],
            zero: vec![run(3, 1)],
            copied: vec![
                Copied { to: BlockNumber(100), count: 4, source: 0, from: BlockNumber(9000) },
                Copied { to: BlockNumber(110), count: 1, source: 1, from: BlockNumber(8) },
            ],
            chosen: vec![(0, vec![run(50, 3)]), (1, vec![run(0, 1)])],
            recent: 2,
            without_old: vec![run(7, 1)],
            fresh_hash: [7; 32],
            copied_hash: [8; 32],
        }
    }

    #[test]
    fn what_is_assembled_parses() {
        let bytes = assemble(&header(), b"payload");
        assert_eq!(parse(&bytes), Ok((header(), &b"payload"[..])));
    }

    #[test]
    fn limits_hold_before_anything_is_allocated() {
        let mut large = header();
        large.fresh = vec![BlockRun { first: BlockNumber(0), count: (MAX_FRESH / BLOCK) as u64 - 4 }];
        assert_eq!(
            parse(&assemble(&large, b"")).map(|_| ()),
            Err(NotAParcel("it makes more blocks new than a parcel may"))
        );
        let mut bases = header();
        bases.chosen = vec![(0, vec![BlockRun { first: BlockNumber(0), count: (MAX_PREFIX / BLOCK) as u64 + 1 }])];
        assert_eq!(
            parse(&assemble(&bases, b"")).map(|_| ()),
            Err(NotAParcel("it asks for more bases than a parcel may"))
        );
        let mut nowhere = header();
        nowhere.copied[0].source = 9;
        assert_eq!(parse(&assemble(&nowhere, b"")).map(|_| ()), Err(NotAParcel("a copy names no source")));
        let mut bytes = assemble(&header(), b"");
        bytes[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(parse(&bytes).map(|_| ()), Err(NotAParcel("its header is too large")));
    }

    #[test]
    fn cut_and_flipped_parcels_are_refused_or_parse_to_something_checked() {
        let bytes = assemble(&header(), b"");
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).is_err(), "{cut}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let _ = parse(&flipped); // whatever it says, it neither panics nor allocates beyond the limits
            }
        }
    }
}
