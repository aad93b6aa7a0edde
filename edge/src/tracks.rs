//! What is remembered of a volume's change tracker: one record per lineage in the journal.

use crate::source::tracking::Stamp;
use dedupe::{GenerationId, UnixMillis};
use serde::{Deserialize, Serialize};

/// Generations whose stamps are kept: the newest sealed one's, and that of the one being captured, of which nobody knows yet whether it will be sealed.
const KEPT: usize = 2;

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracks {
    /// Newest first, at most [`KEPT`].
    kept: Vec<Kept>,
    /// Why the tracker is not believed, until an operator says otherwise.
    pub demoted: Option<Demoted>,
}

/// What belongs to one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The generation.
    pub generation: GenerationId,
    /// The source's stamp of when it was captured; none where the source had none then.
    pub stamp: Option<Stamp>,
    /// Number of the newest generation, this one at the latest, of which everything was read.
    pub whole: Option<u64>,
    /// Where the sample of the next capture begins, in the order of [`crate::capture::sample`].
    pub next: u64,
}

/// A tracker that was found lying.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demoted {
    /// When.
    pub at: UnixMillis,
    /// Number of the generation that was being captured.
    pub generation: u64,
    /// Number of the last generation before of which everything was read: those between may lack changes.
    pub whole: Option<u64>,
    /// Ranges that had changed and were not said to, as text.
    pub ranges: String,
}

impl std::fmt::Display for Demoted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self
            .whole
            .map_or("generations before it".into(), |whole| format!("generations after {whole} and before it"));
        write!(
            f,
            "the change tracker missed changes at bytes {} (found when generation {} was captured; {since} may lack some); everything is read until \
             `sluice-edge volume trust`",
            self.ranges, self.generation
        )
    }
}

impl Tracks {
    /// What belongs to `generation`, and to no other.
    pub fn of(&self, generation: GenerationId) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.generation == generation)
    }

    /// Keeps what belongs to a generation that is about to be sealed, beside that of its parent, should it not be.
    pub(crate) fn keep(&mut self, new: Kept, parent: Option<GenerationId>) {
        self.kept.retain(|kept| Some(kept.generation) == parent);
        self.kept.insert(0, new);
        self.kept.truncate(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(byte: u8) -> Kept {
        Kept { generation: GenerationId([byte; 16]), stamp: Some(Stamp(vec![byte])), whole: None, next: byte.into() }
    }

    #[test]
    fn a_stamp_belongs_to_its_generation_and_outlives_a_capture_that_was_not_sealed() {
        let mut tracks = Tracks::default();
        tracks.keep(kept(1), None);
        // Generation 2 was never sealed: the next one builds on 1 again.
        tracks.keep(kept(2), Some(GenerationId([1; 16])));
        tracks.keep(kept(3), Some(GenerationId([1; 16])));
        assert_eq!(tracks.of(GenerationId([1; 16])), Some(&kept(1)));
        assert_eq!(tracks.of(GenerationId([2; 16])), None);
        assert_eq!(tracks.of(GenerationId([3; 16])), Some(&kept(3)));
        tracks.keep(kept(4), Some(GenerationId([3; 16])));
        assert_eq!((tracks.of(GenerationId([1; 16])), tracks.kept.len()), (None, 2));
    }
}
