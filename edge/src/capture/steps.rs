//! What is done with each byte of a slab, decided before any of it is read, so that several reads can be under way at once.

use super::reading::{united, widened};
use crate::source::{Source, SourceError};
use dedupe::LEAF;
use std::ops::Range;

/// How bytes of a slab come into the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// They are zeroes and are not read.
    Hole,
    /// They are read.
    Read,
    /// They are as in the generation before.
    Keep,
}

/// A range of bytes of the volume, of whole leaves except at the volume's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) what: What,
    pub(super) range: Range<u64>,
}

impl Step {
    /// Bytes; a step lies within one slab.
    pub(super) fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }

    /// Bytes that it reads.
    pub(super) fn reads(&self) -> usize {
        if self.what == What::Read { self.len() } else { 0 }
    }
}

/// Adds `range` as one step, or as several if it is read and longer than `most`.
fn push(steps: &mut Vec<Step>, what: What, range: Range<u64>, most: usize) {
    let mut at = range.start;
    while at < range.end {
        let end = if what == What::Read { range.end.min(at + most as u64) } else { range.end };
        steps.push(Step { what, range: at..end });
        at = end;
    }
}

/// Reads all data of `slab`, at most `most` bytes in a step: gapless, in address order.
pub(super) fn all(source: &dyn Source, slab: Range<u64>, most: usize) -> Result<Vec<Step>, SourceError> {
    let mut steps = Vec::new();
    data(source, slab, most, &mut steps)?;
    Ok(steps)
}

/// Reads of `slab` what lies in `ranges` (ascending, apart), in whole leaves, and keeps the rest.
pub(super) fn some(
    source: &dyn Source,
    slab: Range<u64>,
    ranges: &[Range<u64>],
    most: usize,
) -> Result<Vec<Step>, SourceError> {
    let leaves = united(ranges.iter().map(|range| widened(range.clone(), LEAF as u64, &slab)));
    let (mut steps, mut at) = (Vec::new(), slab.start);
    for range in leaves {
        push(&mut steps, What::Keep, at..range.start, most);
        at = range.end;
        data(source, range, most, &mut steps)?;
    }
    push(&mut steps, What::Keep, at..slab.end, most);
    Ok(steps)
}

/// Adds steps for `range`, of which everything but holes is read.
fn data(source: &dyn Source, range: Range<u64>, most: usize, steps: &mut Vec<Step>) -> Result<(), SourceError> {
    let (mut at, end) = (range.start, range.end);
    while at < end {
        let data = source.next_data(at..end)?.map_or(end..end, |data| widened(data, LEAF as u64, &(at..end)));
        push(steps, What::Hole, at..data.start, most);
        push(steps, What::Read, data.clone(), most);
        at = data.end;
    }
    Ok(())
}

/// How many of the first steps fit into one buffer of `room` bytes; at least one.
pub(super) fn that_fit(steps: &[Step], room: usize) -> usize {
    let mut used = 0;
    let fit = steps.iter().take_while(|step| {
        used += step.reads();
        used <= room
    });
    fit.count().max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "these are lists of ranges")]

    use super::*;
    use crate::source::file::FileSource;
    use std::os::unix::fs::FileExt;

    const SLAB: u64 = 16 << 20;

    #[test]
    fn what_is_kept_is_not_read_and_holes_within_the_rest_are_not_either() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(SLAB + 512).unwrap();
        file.write_all_at(&[1; 3 << 20], 0).unwrap();
        let source = FileSource::open(&path).unwrap();
        let step = |what, range| Step { what, range };
        let leaf = LEAF as u64;
        assert_eq!(
            some(&source, 0..SLAB, &[5..6, leaf + 1..leaf + 2, 1 << 20..(3 << 20) + 1], 1 << 20).unwrap(),
            [
                step(What::Read, 0..2 * leaf),
                step(What::Keep, 2 * leaf..1 << 20),
                step(What::Read, 1 << 20..2 << 20),
                step(What::Read, 2 << 20..3 << 20),
                step(What::Hole, 3 << 20..(3 << 20) + leaf),
                step(What::Keep, (3 << 20) + leaf..SLAB),
            ]
        );
        let last = some(&source, SLAB..SLAB + 512, &[SLAB..SLAB + 512], 1 << 20).unwrap();
        assert_eq!(last, [step(What::Hole, SLAB..SLAB + 512)]);
        let steps = all(&source, 0..SLAB, 1 << 20).unwrap();
        assert_eq!(steps.len(), 4);
        assert_eq!([that_fit(&steps, 1 << 20), that_fit(&steps, 2 << 20), that_fit(&steps[3..], 0)], [1, 2, 1]);
    }
}
