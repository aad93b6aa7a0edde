//! The last parcels that a worker took in, decoded: the next ones of the same generation use them as bases, so they need not be read
//! and unpacked again. Their memory is used again too, since fresh memory costs a page fault for every 4 KiB.

use crate::draft::Draft;
use crate::id::{BLOCK, BlockNumber, BlockRun};
use crate::store::placed;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// Bytes of parcels kept: what an encoder refers to as a whole (64 MiB) and as much again of what it chooses from.
pub const MAX_RECENT: usize = 128 << 20;

/// Of one draft at a time. A draft that was begun anew may hold other bytes under the same name and number, so the draft itself is the key.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    of: Weak<Draft>,
    /// Oldest first.
    parcels: VecDeque<Taken>,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Taken {
    /// Ascending, each with the place of its bytes.
    runs: Vec<(BlockRun, usize)>,
    bytes: Vec<u8>,
}

impl Taken {
    /// The bytes from `block` on, as far as its run goes.
    fn from(&self, block: BlockNumber) -> Option<&[u8]> {
        let (run, at) = self.runs[..self.runs.partition_point(|(run, _)| run.first <= block)].last()?;
        let skipped = (block.0 - run.first.0) as usize;
        (block.0 < run.first.0 + run.count).then(|| &self.bytes[at + skipped * BLOCK..at + run.count as usize * BLOCK])
    }
}

impl Recent {
    pub(crate) fn is_of(&self, draft: &Arc<Draft>) -> bool {
        std::ptr::eq(self.of.as_ptr(), Arc::as_ptr(draft))
    }

    /// Forgets the parcels of another draft.
    pub(crate) fn turn_to(&mut self, draft: &Arc<Draft>) {
        if !self.is_of(draft) {
            self.of = Arc::downgrade(draft);
            self.spare.extend(self.parcels.drain(..).map(|parcel| parcel.bytes));
            self.spare.truncate(1);
        }
    }

    /// An empty buffer for `len` bytes, that of the oldest parcel when there is no room for more.
    pub(crate) fn buffer(&mut self, len: usize) -> Vec<u8> {
        let mut held: usize = self.parcels.iter().map(|parcel| parcel.bytes.capacity()).sum();
        while held + len > MAX_RECENT
            && let Some(oldest) = self.parcels.pop_front()
        {
            held -= oldest.bytes.capacity();
            self.give_back(oldest.bytes);
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.reserve_exact(len);
        buffer
    }

    /// Takes a buffer back that holds nothing of use.
    pub(crate) fn give_back(&mut self, buffer: Vec<u8>) {
        self.spare = vec![buffer];
    }

    /// Keeps what a committed parcel brought.
    pub(crate) fn keep(&mut self, runs: &[BlockRun], bytes: Vec<u8>) {
        self.parcels.push_back(Taken { runs: placed(runs), bytes });
    }

    /// Copies what is here of `runs` to its places in `into`; gives the rest.
    pub(crate) fn fill(&self, runs: &[(BlockRun, usize)], into: &mut [u8]) -> Vec<(BlockRun, usize)> {
        let mut rest: Vec<(BlockRun, usize)> = Vec::new();
        for (run, to) in runs {
            let mut done = 0;
            while done < run.count {
                let (block, at) = (BlockNumber(run.first.0 + done), to + done as usize * BLOCK);
                let wanted = (run.count - done) as usize * BLOCK;
                done += match self.parcels.iter().rev().find_map(|parcel| parcel.from(block)) {
                    Some(bytes) => {
                        let len = bytes.len().min(wanted);
                        into[at..at + len].copy_from_slice(&bytes[..len]);
                        (len / BLOCK) as u64
                    }
                    None => {
                        match rest.last_mut() {
                            Some((last, _)) if last.first.0 + last.count == block.0 => last.count += 1,
                            _ => rest.push((BlockRun { first: block, count: 1 }, at)),
                        }
                        1
                    }
                };
            }
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64) -> BlockRun {
        BlockRun { first: BlockNumber(first), count }
    }

    fn blocks(values: std::ops::Range<u8>) -> Vec<u8> {
        values.flat_map(|value| [value; BLOCK]).collect()
    }

    #[test]
    fn what_is_here_is_copied_and_the_rest_is_named_with_its_place() {
        let mut recent = Recent::default();
        recent.keep(&[run(10, 2), run(20, 3)], blocks(1..6));
        recent.keep(&[run(30, 2)], blocks(6..8));
        let mut into = vec![0; 9 * BLOCK];
        let rest = recent.fill(&placed(&[run(9, 4), run(21, 1), run(30, 4)]), &mut into);
        let firsts: Vec<u8> = into.chunks(BLOCK).map(|block| block[0]).collect();
        assert_eq!(firsts, [0, 1, 2, 0, 4, 6, 7, 0, 0]);
        assert_eq!(rest, [(run(9, 1), 0), (run(12, 1), 3 * BLOCK), (run(32, 2), 7 * BLOCK)]);
    }

    #[test]
    fn the_oldest_makes_room_and_its_memory_is_used_again() {
        let mut recent = Recent::default();
        const PARCEL: usize = MAX_RECENT / 4;
        for number in 0..4 {
            let mut bytes = recent.buffer(PARCEL);
            bytes.resize(PARCEL, 1);
            recent.keep(&[run(number * 10_000, (PARCEL / BLOCK) as u64)], bytes);
        }
        let oldest = recent.parcels[0].bytes.as_ptr();
        let buffer = recent.buffer(PARCEL);
        assert_eq!(buffer.as_ptr(), oldest);
        assert_eq!(recent.fill(&[(run(0, 1), 0)], &mut [0; BLOCK]), [(run(0, 1), 0)], "it is forgotten");
        assert!(recent.fill(&[(run(10_000, 1), 0)], &mut [0; BLOCK]).is_empty());
    }
}
