//! Which blocks a run has put into its snapshot, and their checksums.
//!
//! AWS wants to hear, when a snapshot is completed, how many blocks were put, and a pending snapshot cannot be asked. So the run remembers: as one bit a
//! block in memory (16 MiB for the largest volume, 64 TiB), and in its notes as runs. The checksum over all blocks is optional for AWS; it is given by a
//! process that put all of them itself, and left out after a crash or where there are too many: each block was compared when it was put, and all of them are
//! read back before the snapshot is a point.

use data_encoding::BASE64;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use std::collections::BTreeMap;

/// Characters of the runs in the notes at most, which leaves room for the rest of them. Some 12,000 runs of blocks that lie apart.
const MOST_TEXT: usize = 48 << 10;
/// Checksums that are kept at most: 512 GiB of blocks, some 60 MiB of memory.
const MOST_SUMS: usize = 1 << 20;

/// SHA-256 of a block.
pub(crate) type Sum = [u8; SHA256_OUTPUT_LEN];

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Written {
    bits: Vec<u64>,
    count: u64,
    /// `None`: not of all blocks known.
    sums: Option<BTreeMap<u32, Sum>>,
}

impl Written {
    /// Nothing is written yet of so many blocks.
    pub(crate) fn none(blocks: u32) -> Written {
        Written { bits: vec![0; (blocks as usize).div_ceil(64)], count: 0, sums: Some(BTreeMap::new()) }
    }

    /// What notes say; `None` when they say something else than blocks of a volume that has so many.
    pub(crate) fn from_text(text: &str, blocks: u32) -> Option<Written> {
        let mut written = Written::none(blocks);
        let bytes = BASE64.decode(text.as_bytes()).ok()?;
        let mut rest = &bytes[..];
        let mut at = 0u32;
        while !rest.is_empty() {
            let start = at.checked_add(number(&mut rest)?)?;
            let end = start.checked_add(number(&mut rest)?).filter(|end| *end <= blocks)?;
            (start..end).for_each(|block| written.mark(block));
            at = end;
        }
        if written.count > 0 {
            written.sums = None;
        }
        Some(written)
    }

    /// As runs, for notes; `None` when that is too long.
    pub(crate) fn to_text(&self) -> Option<String> {
        let mut bytes = Vec::new();
        let (mut at, mut before) = (0, 0);
        let blocks = self.bits.len() as u32 * 64;
        while at < blocks {
            let start = self.next(at, true).filter(|start| *start < blocks);
            let Some(start) = start else { break };
            let end = self.next(start, false).unwrap_or(blocks);
            put_number(&mut bytes, start - before);
            put_number(&mut bytes, end - start);
            (at, before) = (end, end);
            if bytes.len() > MOST_TEXT / 4 * 3 {
                return None;
            }
        }
        Some(BASE64.encode(&bytes)).filter(|text| text.len() <= MOST_TEXT)
    }

    /// A block was put.
    pub(crate) fn put(&mut self, block: u32, sum: Sum) {
        self.mark(block);
        if let Some(sums) = &mut self.sums {
            sums.insert(block, sum);
            if sums.len() > MOST_SUMS {
                self.sums = None;
            }
        }
    }

    /// Whether a block was put.
    pub(crate) fn has(&self, block: u32) -> bool {
        self.bits.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// How many were put.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// SHA-256 over the blocks' checksums in the order of the blocks ("LINEAR"), if all are known.
    pub(crate) fn aggregate(&self) -> Option<Sum> {
        let mut context = Context::new(&SHA256);
        self.sums.as_ref()?.values().for_each(|sum| context.update(sum));
        context.finish().as_ref().try_into().ok()
    }

    fn mark(&mut self, block: u32) {
        if !self.has(block)
            && let Some(word) = self.bits.get_mut(block as usize / 64)
        {
            *word |= 1 << (block % 64);
            self.count += 1;
        }
    }

    /// The first block from `at` on that is put, or is not.
    fn next(&self, at: u32, is_put: bool) -> Option<u32> {
        let mut word = at as usize / 64;
        let mut mask = u64::MAX << (at % 64);
        loop {
            let bits = if is_put { *self.bits.get(word)? } else { !*self.bits.get(word)? };
            match bits & mask {
                0 => (word, mask) = (word + 1, u64::MAX),
                found => return Some(word as u32 * 64 + found.trailing_zeros()),
            }
        }
    }
}

/// Seven bits a byte, the low ones first.
fn put_number(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u32;
    for shift in (0..32).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u32::from(byte & 0x7f);
        number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_survives_in_notes() {
        let mut written = Written::none(1_000_000);
        assert_eq!(written.to_text().unwrap(), "");
        let put: Vec<u32> = (0..70).chain([200, 300_000]).chain(999_990..1_000_000).collect();
        put.iter().for_each(|block| written.put(*block, [*block as u8; 32]));
        written.put(200, [1; 32]);
        assert_eq!(written.count(), put.len() as u64, "put twice is put once");
        let read = Written::from_text(&written.to_text().unwrap(), 1_000_000).unwrap();
        assert_eq!((&read.bits, read.count), (&written.bits, written.count));
        assert!(written.aggregate().is_some() && read.aggregate().is_none(), "checksums are not in notes");
        assert!(read.has(200) && !read.has(201) && !read.has(u32::MAX));
        assert!(Written::from_text("", 10).unwrap().aggregate().is_some(), "nothing was put: all are known");
    }

    #[test]
    fn notes_that_say_nonsense_are_refused_and_long_ones_are_not_made() {
        let text = {
            let mut written = Written::none(100);
            (50..100).for_each(|block| written.put(block, [0; 32]));
            written.to_text().unwrap()
        };
        assert!(Written::from_text(&text, 99).is_none(), "beyond the volume's end");
        for garbage in ["!", "gA==", "/////////w==", "AAA"] {
            assert!(Written::from_text(garbage, 100).is_none(), "{garbage}");
        }
        let mut apart = Written::none(200_000);
        (0..200_000).step_by(2).for_each(|block| apart.put(block, [0; 32]));
        assert_eq!(apart.to_text(), None);
    }

    /// SHA-256 of two hashes one after the other, as `sha256sum` says.
    #[test]
    fn the_checksum_of_all_goes_by_the_blocks_order() {
        let mut written = Written::none(10);
        written.put(7, [0x22; 32]);
        written.put(3, [0x11; 32]);
        let expected = ring::digest::digest(&SHA256, &[[0x11; 32], [0x22; 32]].concat());
        assert_eq!(written.aggregate().unwrap(), expected.as_ref());
    }
}
