//! Anchors: content-defined sample positions of what the receiver holds, so that new bytes find what they repeat, at any offset.
//!
//! As in packet-level redundancy elimination (Spring and Wetherall; EndRE) and rsync's weak hash: a rolling gear hash over 64 bytes
//! (bytes that repeat over less are zstd's own business), of which those with enough leading zero bits are kept. A sparser sample is
//! a subset of a denser one, and the index is sorted by hash: thinning it out as it grows is cutting off its upper half.

use crate::delta::runs_of;
use crate::error::StoreError;
use crate::id::{BLOCK, BlockNumber, GenerationId, LineageId, Mark, SlabNumber};
use crate::index;
use crate::resemblance;
use crate::store::Store;
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, WriteTransaction};
use std::sync::Arc;

/// Slabs whose anchors one commit takes when a whole generation is anchored: 256 MiB of the volume.
const SLABS_AT_ONCE: usize = 16;
/// Blocks that are read at once for that: 4 MiB.
const BLOCKS_AT_ONCE: usize = 1024;
/// Bytes hashed. The gear hash shifts by one bit a byte, so 64 bytes decide it.
const WINDOW: usize = 64;
/// A window with fewer distinct bytes says nothing about where it came from.
const MIN_DISTINCT: u32 = 6;
/// Places remembered per anchor. More copies than this are boilerplate; any of them will do.
pub(crate) const MAX_COPIES: usize = 8;
/// The densest sample: one position in 256. Denser gained nothing that was measured.
pub(crate) const DENSEST: u32 = 8;
/// Bytes of index file per anchor: measured at 30-36 on tables of 2-100 M.
pub const BYTES_PER_ANCHOR: u64 = 36;

/// One pseudo-random word per byte value (splitmix64). Part of the index's format.
pub(crate) const GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut z = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[i] = z ^ (z >> 31);
        i += 1;
    }
    table
};

/// Calls `found(position of the window's last byte, hash)` for one position in `2^rate_log`.
pub(crate) fn scan(data: &[u8], rate_log: u32, mut found: impl FnMut(usize, u64)) {
    let top = 64 - rate_log;
    let mut hash = 0u64;
    for (at, &byte) in data.iter().enumerate() {
        hash = (hash << 1).wrapping_add(GEAR[byte as usize]);
        if hash >> top == 0 && at + 1 >= WINDOW && is_varied(&data[at + 1 - WINDOW..=at]) {
            found(at, hash);
        }
    }
}

fn is_varied(window: &[u8]) -> bool {
    let mut seen = [0u64; 4];
    for &byte in window {
        seen[(byte >> 6) as usize] |= 1 << (byte & 63);
    }
    seen.iter().map(|word| word.count_ones()).sum::<u32>() >= MIN_DISTINCT
}

/// Where an anchor was seen: lineage by a short number (12 bits), the low 16 bits of a generation's order, block (36 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Seen(u64);

impl Seen {
    pub(crate) fn new(lineage: u16, order: u64, block: BlockNumber) -> Seen {
        Seen(u64::from(lineage) << 52 | (order & 0xffff) << 36 | (block.0 & ((1 << 36) - 1)))
    }

    pub(crate) fn lineage(self) -> u16 {
        (self.0 >> 52) as u16
    }

    pub(crate) fn block(self) -> BlockNumber {
        BlockNumber(self.0 & ((1 << 36) - 1))
    }

    /// The largest order up to `newest` with these low bits.
    pub(crate) fn order(self, newest: u64) -> Option<u64> {
        let low = self.0 >> 36 & 0xffff;
        let order = (newest & !0xffff) | low;
        if order <= newest { Some(order) } else { order.checked_sub(1 << 16) }
    }
}

fn key(hash: u64, seen: Seen) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&hash.to_be_bytes());
    key[8..].copy_from_slice(&seen.0.to_be_bytes());
    key
}

impl Store {
    /// The sample rate that holds now: one position in `2^rate_log`.
    pub(crate) fn anchor_rate(&self) -> Result<u32, StoreError> {
        let meta = self.db.begin_read()?.open_table(index::META)?;
        Ok(meta.get("anchor_rate_log")?.map_or(DENSEST, |value| value.value() as u32))
    }

    /// Places of each of these hashes (sorted, without repeats), [`MAX_COPIES`] at most.
    pub(crate) fn anchors(&self, hashes: &[u64]) -> Result<Vec<(u64, Seen)>, StoreError> {
        let table = self.db.begin_read()?.open_table(index::ANCHORS)?;
        let mut found = Vec::new();
        for &hash in hashes {
            let (first, last) = (key(hash, Seen(0)), key(hash, Seen(u64::MAX)));
            for row in table.range::<&[u8; 16]>(&first..=&last)?.rev().take(MAX_COPIES) {
                let place = row?.0.value()[8..].try_into().expect("8 bytes");
                found.push((hash, Seen(u64::from_be_bytes(place))));
            }
        }
        Ok(found)
    }

    /// Adds the anchors of blocks that the receiver holds from now on. `blocks` are the blocks that `data` is made of.
    pub(crate) fn add_anchors(
        &self,
        transaction: &WriteTransaction,
        data: &[u8],
        lineage: u16,
        order: u64,
        blocks: &[BlockNumber],
        budget: u64,
    ) -> Result<(), StoreError> {
        let mut meta = transaction.open_table(index::META)?;
        let mut rate_log = meta.get("anchor_rate_log")?.map_or(DENSEST, |value| value.value() as u32);
        let mut table = transaction.open_table(index::ANCHORS)?;
        let mut keys = Vec::with_capacity(data.len() >> rate_log);
        scan(data, rate_log, |at, hash| keys.push(key(hash, Seen::new(lineage, order, blocks[at / BLOCK]))));
        for (block, bytes) in blocks.iter().zip(data.chunks_exact(BLOCK)) {
            let features = resemblance::features(bytes).into_iter().filter(|hash| hash >> (64 - rate_log) == 0);
            keys.extend(features.map(|hash| key(hash, Seen::new(lineage, order, *block))));
        }
        keys.sort_unstable();
        keys.dedup();
        for key in &keys {
            table.insert(key, ())?;
        }
        while table.len()? * BYTES_PER_ANCHOR > budget && rate_log < 24 {
            rate_log += 1;
            let first = key(1 << (64 - rate_log), Seen(0));
            table.retain_in::<&[u8; 16], _>(&first.., |_, ()| false)?;
            meta.insert("anchor_rate_log", u64::from(rate_log))?;
        }
        Ok(())
    }

    /// Adds the anchors of a whole generation that the receiver comes to hold without parcels: as a seed by courier. Can be done again. Reads all of it.
    ///
    /// # Errors
    /// [`StoreError::Gone`] for evicted bytes.
    pub(crate) fn anchor_all(self: &Arc<Self>, id: GenerationId, budget: u64) -> Result<(), StoreError> {
        let view = self.view(id)?;
        let (lineage, order) = (self.lineage_number(view.generation().lineage)?, view.generation().number);
        let mut buffer = Vec::new();
        for slabs in (0..view.size().slabs()).collect::<Vec<_>>().chunks(SLABS_AT_ONCE) {
            let transaction = self.db.begin_write()?;
            for slab in slabs {
                let Some(record) = view.record(SlabNumber(*slab))? else { continue };
                let first = SlabNumber(*slab).offset().0 / BLOCK as u64;
                let data = record.marks.iter().enumerate().filter(|(_, mark)| **mark != Mark::ZERO);
                let blocks: Vec<BlockNumber> = data.map(|(at, _)| BlockNumber(first + at as u64)).collect();
                for batch in blocks.chunks(BLOCKS_AT_ONCE) {
                    buffer.clear();
                    buffer.resize(batch.len() * BLOCK, 0);
                    view.read_blocks(&runs_of(batch.iter().copied()), &mut buffer)?;
                    self.add_anchors(&transaction, &buffer, lineage, order, batch, budget)?;
                }
            }
            transaction.commit()?;
        }
        Ok(())
    }

    /// The short number by which anchors name a lineage.
    pub(crate) fn lineage_number(&self, lineage: LineageId) -> Result<u16, StoreError> {
        let known = self.lineage_numbers()?;
        if let Some((number, _)) = known.iter().find(|(_, id)| *id == lineage) {
            return Ok(*number);
        }
        let number = known.len() as u64;
        let transaction = self.db.begin_write()?;
        transaction.open_table(index::NUMBERS)?.insert(number, &lineage.0)?;
        transaction.commit()?;
        Ok(number as u16)
    }

    /// All short numbers of lineages.
    pub(crate) fn lineage_numbers(&self) -> Result<Vec<(u16, LineageId)>, StoreError> {
        let table = self.db.begin_read()?.open_table(index::NUMBERS)?;
        table
            .iter()?
            .map(|row| row.map(|(number, id)| (number.value() as u16, LineageId(*id.value()))).map_err(Into::into))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_give_the_same_anchors_at_any_offset_and_sparser_is_a_subset() {
        let mut data = vec![0; 1 << 20];
        blake3::Hasher::new_derive_key("anchors").finalize_xof().fill(&mut data);
        let at = |data: &[u8], rate| {
            let mut found = Vec::new();
            scan(data, rate, |_, hash| found.push(hash));
            found
        };
        let dense = at(&data, 8);
        assert!((3000..5200).contains(&dense.len()), "{}", dense.len());
        let shifted = at(&data[777..], 8);
        assert!(shifted.iter().all(|hash| dense.contains(hash)));
        assert!(at(&data, 11).iter().all(|hash| dense.contains(hash)));
    }

    #[test]
    fn orders_are_found_again_from_their_low_bits() {
        for (order, newest) in [(5, 9), (65_540, 65_541), (65_530, 65_541), (9, 9)] {
            assert_eq!(Seen::new(3, order, BlockNumber(77)).order(newest), Some(order));
        }
        assert_eq!(Seen::new(3, 70_000, BlockNumber(7)).order(9), None);
        assert_eq!(Seen::new(3, 1, BlockNumber(77)).lineage(), 3);
    }
}
