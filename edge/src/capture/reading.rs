//! What a capture reads: everything, or what changed since the generation that it builds on, with a sample of the rest.

use super::Capture;
use super::sample::Sample;
use super::steps::{self, Step};
use crate::journal::JournalError;
use crate::source::SourceError;
use crate::source::tracking::{Changes, Stamp, Tracking, Unknown};
use crate::tracks::Tracks;
use dedupe::{BLOCK, Generation};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How a capture came by its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "how")]
pub enum How {
    /// Everything was read: this source follows no changes.
    #[default]
    Whole,
    /// Everything was read though the source follows its changes.
    Reread {
        /// Why, as part of a sentence.
        why: String,
    },
    /// What changed was read, and a sample of the rest.
    Changes {
        /// Bytes that the source said had changed.
        changed_bytes: u64,
        /// Bytes of the sample, those that had changed among them.
        sampled_bytes: u64,
    },
}

/// Why what was kept cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadingError {
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The source cannot say any more what changed.
    #[error(transparent)]
    Unknown(#[from] Unknown),
}

/// What is done with a slab, and which of its blocks may differ: all, where nothing is kept.
pub(super) type Decided = (Vec<Step>, Option<Vec<Range<u64>>>);

/// What one pass over the volume reads.
pub(super) enum Reading<'a> {
    All,
    Changed(Changed<'a>),
}

pub(super) struct Changed<'a> {
    changes: Box<dyn Changes + 'a>,
    /// Ranges that the last capture could not read: they are zero there for want of something better.
    unreadable: Vec<Range<u64>>,
    pub(super) sample: Sample,
}

impl Changed<'_> {
    /// Ranges of `slab` that may differ from the generation before, in whole blocks, ascending and apart.
    pub(super) fn within(&self, slab: &Range<u64>) -> Result<Vec<Range<u64>>, Unknown> {
        let lost = self.unreadable.iter().map(|range| range.start.max(slab.start)..range.end.min(slab.end));
        let told = self.changes.within(slab.clone())?;
        let blocks = |range: Range<u64>| widened(range, BLOCK as u64, slab);
        Ok(united(told.into_iter().chain(lost).filter(|range| !range.is_empty()).map(blocks)))
    }

    /// About how many bytes will be read.
    pub(super) fn how(&self, size: u64) -> How {
        How::Changes {
            changed_bytes: self.changes.bytes(),
            sampled_bytes: self
                .sample
                .within(0..size.next_multiple_of(super::sample::UNIT))
                .map(|range| range.end - range.start)
                .sum(),
        }
    }
}

impl Reading<'_> {
    /// Decides about each byte of `slab`.
    pub(super) fn steps(&self, capture: &Capture<'_>, slab: Range<u64>, most: usize) -> Result<Decided, ReadingError> {
        match self {
            Reading::All => Ok((steps::all(capture.source, slab, most)?, None)),
            Reading::Changed(changed) => {
                let told = changed.within(&slab)?;
                let read = united(told.iter().cloned().chain(changed.sample.within(slab.clone())));
                Ok((steps::some(capture.source, slab, &read, most)?, Some(told)))
            }
        }
    }
}

impl<'a> Capture<'a> {
    /// Decides what is read. Everything, unless the source's stamp belongs to exactly `parent`; with the reason.
    pub(super) fn decide(
        &self,
        tracker: Option<&'a dyn Tracking>,
        stamp: Option<&Result<Stamp, Unknown>>,
        parent: Option<&Generation>,
        tracks: &Tracks,
    ) -> Result<(Reading<'a>, How), JournalError> {
        let size = self.source.size();
        let all = |why: String| Ok((Reading::All, How::Reread { why }));
        let (Some(tracker), Some(stamp)) = (tracker, stamp) else { return Ok((Reading::All, How::Whole)) };
        let Some(parent) = parent else { return all("it is the first capture".into()) };
        if let Some(demoted) = &tracks.demoted {
            return all(demoted.to_string());
        }
        if parent.size != size {
            return all(format!("the size changed from {} to {} bytes", parent.size.0, size.0));
        }
        let kept = tracks.of(parent.id).and_then(|kept| Some((kept.stamp.as_ref()?, kept.next)));
        let told = stamp.as_ref().map_err(Clone::clone).map(|_| kept);
        let (changes, next) = match told {
            Err(why) => return all(why.to_string()),
            Ok(None) => return all(format!("nothing is known of changes since generation {}", parent.number)),
            Ok(Some((since, next))) => match tracker.changed_since(since) {
                Err(why) => return all(why.to_string()),
                Ok(changes) => (changes, next),
            },
        };
        let unreadable = self.journal.unreadable(parent.id)?;
        let changed = Changed { changes, unreadable, sample: Sample::draw(size.0, next, self.sampling) };
        let how = changed.how(size.0);
        Ok((Reading::Changed(changed), how))
    }
}

/// Widens a range to multiples of `grain`, within `bounds`.
pub(super) fn widened(range: Range<u64>, grain: u64, bounds: &Range<u64>) -> Range<u64> {
    let start = (range.start / grain * grain).max(bounds.start);
    let end = range.end.next_multiple_of(grain).min(bounds.end);
    start..end.max(start)
}

/// The same bytes as ranges that ascend and do not touch each other.
pub(super) fn united(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut united: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match united.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => united.push(range),
        }
    }
    united
}

/// What of `ranges` is in none of `others`; both ascend and do not touch each other.
pub(super) fn without(ranges: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    for range in ranges {
        let mut at = range.start;
        let first = others.partition_point(|other| other.end <= range.start);
        for other in others[first..].iter().take_while(|other| other.start < range.end) {
            if at < other.start {
                left.push(at..other.start);
            }
            at = at.max(other.end);
        }
        if at < range.end {
            left.push(at..range.end);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "these are lists of ranges")]

    use super::*;

    #[test]
    fn ranges_are_united_widened_and_taken_away() {
        assert_eq!(united([8..9, 0..2, 2..4, 1..3].into_iter()), [0..4, 8..9]);
        assert_eq!(widened(5..6, 4, &(0..7)), 4..7);
        assert_eq!(widened(5..9, 4, &(5..100)), 5..12);
        assert_eq!(without(&[0..10, 20..30], &[2..3, 9..21, 25..26]), [0..2, 3..9, 21..25, 26..30]);
        assert_eq!(without(&[0..10], &[]), [0..10]);
        assert_eq!(without(&[4..6], &[0..10]), []);
    }
}
