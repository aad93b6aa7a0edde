//! Puts one part of a generation into its place: what the line brought, zeroes, and for everything else the bytes of the base.

use super::target::{Target, TargetError};
use dedupe::{BLOCK, BlockNumber, ByteOffset, Content, Progress, SLAB, SlabNumber, StoreError, Taken, View};
use std::ops::Range;

/// Bytes that are read from the store and written at once.
const STEP: usize = 1 << 20;
const PER_SLAB: usize = SLAB / BLOCK;

/// Why a part is not in its place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// The target failed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Asked to stop.
    #[error("stopped")]
    Stopped,
    /// The base cannot be read: evicted meanwhile, or damaged.
    #[error("the local store: {0}")]
    Base(StoreError),
}

/// What a block becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Zero,
    /// The base's.
    Base,
    /// At this byte of what was taken.
    Taken(usize),
}

/// Writes blocks `part` of a generation; `base` fills what `taken` says nothing about. Blocks.
pub(crate) fn place(
    target: &Target,
    base: Option<&View>,
    taken: &Taken,
    part: Range<BlockNumber>,
    progress: &Progress,
) -> Result<(), PlaceError> {
    let (first, last) = (part.start.in_slab().0, BlockNumber(part.end.0 - 1).in_slab().0);
    let mut buffer = vec![0; STEP];
    for slab in (first.0..=last.0).map(SlabNumber) {
        let blocks = blocks_of(slab, base, taken)?;
        let start = slab.first_block().0;
        let within = part.start.0.max(start) - start..part.end.0.min(start + PER_SLAB as u64) - start;
        if progress.is_cancelled() {
            return Err(PlaceError::Stopped);
        }
        for (run, is) in runs(&blocks, within.start as usize..within.end as usize) {
            let bytes = (start + run.start as u64) * BLOCK as u64..(start + run.end as u64) * BLOCK as u64;
            match (is, base) {
                (Is::Zero, _) | (Is::Base, None) => target.zero(bytes)?,
                (Is::Taken(from), _) => target.write(bytes.start, &taken.bytes[from..from + run.len() * BLOCK])?,
                (Is::Base, Some(base)) => copy(target, base, bytes, &mut buffer)?,
            }
        }
    }
    Ok(())
}

fn copy(target: &Target, base: &View, bytes: Range<u64>, buffer: &mut [u8]) -> Result<(), PlaceError> {
    for at in bytes.clone().step_by(STEP) {
        let len = (bytes.end - at).min(STEP as u64) as usize;
        base.read(ByteOffset(at), &mut buffer[..len]).map_err(PlaceError::Base)?;
        target.write(at, &buffer[..len])?;
    }
    Ok(())
}

/// What each block of a slab becomes.
fn blocks_of(slab: SlabNumber, base: Option<&View>, taken: &Taken) -> Result<Vec<Is>, PlaceError> {
    let (mut blocks, start) = (vec![Is::Zero; PER_SLAB], slab.first_block().0);
    if let Some(base) = base {
        for (range, content) in base.runs(slab).map_err(PlaceError::Base)? {
            if content == Content::Data {
                let first = (range.start / BLOCK as u64 - start) as usize;
                let end = (range.end.div_ceil(BLOCK as u64) - start) as usize;
                blocks[first..end].fill(Is::Base);
            }
        }
    }
    let within = |first: u64, count: u64| {
        let (first, end) = (first.max(start), (first + count).min(start + PER_SLAB as u64));
        first..end.max(first)
    };
    for run in &taken.zero {
        for block in within(run.first.0, run.count) {
            blocks[(block - start) as usize] = Is::Zero;
        }
    }
    for (run, at) in &taken.data {
        for block in within(run.first.0, run.count) {
            blocks[(block - start) as usize] = Is::Taken(at + (block - run.first.0) as usize * BLOCK);
        }
    }
    Ok(blocks)
}

/// Neighbours that become the same kind of thing, as runs.
fn runs(blocks: &[Is], within: Range<usize>) -> Vec<(Range<usize>, Is)> {
    let mut runs: Vec<(Range<usize>, Is)> = Vec::new();
    for at in within {
        let is = blocks[at];
        let goes_on = runs.last().is_some_and(|(run, first)| match (*first, is) {
            (Is::Taken(from), Is::Taken(next)) => next == from + run.len() * BLOCK,
            (first, is) => first == is,
        });
        match runs.last_mut() {
            Some((run, _)) if goes_on => run.end = at + 1,
            _ => runs.push((at..at + 1, is)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::BlockRun;

    #[test]
    fn blocks_become_what_was_taken_and_runs_break_where_the_bytes_do() {
        let run = |first, count| BlockRun { first: BlockNumber(first), count };
        let slab = PER_SLAB as u64;
        let taken = Taken {
            data: vec![(run(slab - 2, 4), 0), (run(slab + 2, 1), 9 * BLOCK), (run(slab + 3, 1), 10 * BLOCK)],
            zero: vec![run(slab + 1, 1)],
            bytes: Vec::new(),
        };
        let blocks = blocks_of(SlabNumber(1), None, &taken).unwrap();
        let expected =
            [Is::Taken(2 * BLOCK), Is::Taken(3 * BLOCK), Is::Taken(9 * BLOCK), Is::Taken(10 * BLOCK), Is::Zero];
        assert_eq!(blocks[..5], expected);
        let found = runs(&blocks, 0..6);
        assert_eq!(found, [(0..2, Is::Taken(2 * BLOCK)), (2..4, Is::Taken(9 * BLOCK)), (4..6, Is::Zero)]);
        assert_eq!(runs(&blocks, 1..2), [(1..2, Is::Taken(3 * BLOCK))]);
    }
}
